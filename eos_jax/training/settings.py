"""Settings of the tasks as frozen dataclasses, built from a config file.

Each lists all of its own faults, so that a config with several is refused once.
A field is `harmless` where a run may be resumed under another value of it.
"""

from collections.abc import Collection, Iterator
import dataclasses
import difflib
import math
import types
import typing
from typing import Any

from eos_jax import naming, ops
from eos_jax.data import mini_suite
from eos_jax.naming import quoted
from eos_jax.training import rules

# Metadata of a field that may change between starts of a run.
HARMLESS = types.MappingProxyType({"harmless": True})
# Metadata of a field of numbers whose last one may be infinite.
UNBOUNDED = types.MappingProxyType({"unbounded": True})

# Largest value of an integer field by its name, for those that decide how much
# is allocated or how long a loop is; array indices are int32.
MOST = {
  "answer_length": 2**16,
  "batch": 2**16,
  "check_batch": 2**16,
  "knots": 100,
  "latency_batch": 2**16,
  "micro_batch": 2**16,
  "pictures": 2**16,
  "places": 2**10,
  "points": 2**10,
  "questions": 2**31 - 1,
  "seed": 2**32 - 1,  # what `jax.random.key` tells apart
  "text_length": 2**20,
  "text_tokens": 2**20,
}
_MOST_COUNT = 2**31 - 1
_MOST_ITEMS = 1000  # of a tuple
# File systems take names of 255 bytes and paths of 4096.
_MOST_NAME, _MOST_TEXT = 255, 4096
# Sizes of float32, without subnormal numbers, which devices round to 0.
_LEAST_FLOAT, MOST_FLOAT = 1.2e-38, 3.4e38


class ConfigError(ValueError):
  """A config that cannot be used.

  Attributes:
    faults: what is wrong, a line each.
  """

  def __init__(self, faults: Collection[str]):
    super().__init__("the config has faults:\n  " + "\n  ".join(faults))
    self.faults = tuple(faults)


def nearest(name: str, known: Collection[str]) -> str:
  """Says which known name is near, or else lists all of them."""
  near = []
  if isinstance(name, str) and len(name) <= _MOST_NAME:  # takes long otherwise
    near = difflib.get_close_matches(name, list(known), n=1)
  if near:
    return f"did you mean {near[0]!r}?"
  return f"use one of {', '.join(sorted(known))}"


class Checked:
  """A dataclass that refuses values with all of its faults at once."""

  def _faults(self) -> Iterator[str]:
    """What is wrong, each starting with the name of a field."""
    raise NotImplementedError

  def __post_init__(self):
    faults = tuple(self._faults())
    if faults:
      raise ConfigError(faults)

  def at_least(self, least: float, *names: str) -> Iterator[str]:
    """Faults of those of the named fields that are below `least`, or too large.

    Integers that decide how much is allocated have an upper limit too.
    """
    for name in names:
      value = getattr(self, name)
      most = MOST.get(name, _MOST_COUNT)
      if not value >= least:
        yield f"{name} is {quoted(value)}; use {least} or more"
      elif isinstance(value, int) and value > most:
        yield f"{name} is {quoted(value)}; use {least} to {most}"

  def above_zero(self, *names: str) -> Iterator[str]:
    """Faults of those of the named fields that are not above 0."""
    for name in names:
      value = getattr(self, name)
      if not value > 0:
        yield f"{name} is {value}; use a number above 0"

  def fractions(self, *names: str) -> Iterator[str]:
    """Faults of those of the named fields that are not in [0, 1]."""
    for name in names:
      value = getattr(self, name)
      if not 0 <= value <= 1:
        yield f"{name} is {value}; use a number from 0 to 1"

  def each_once(self, *names: str) -> Iterator[str]:
    """Faults of those of the named tuples that have an entry twice."""
    for name in names:
      values = getattr(self, name)
      if len(set(values)) < len(values):
        yield f"{name} is {quoted(values)}; give each once"

  def known(self, name: str, choices: Collection[str]) -> Iterator[str]:
    """Fault of a text, or faults of the texts of a tuple, not in `choices`."""
    value = getattr(self, name)
    several = isinstance(value, tuple)
    for one in value if several else (value,):
      if one not in choices:
        verb = "has" if several else "is"
        yield f"{name} {verb} {quoted(one)}; {nearest(one, choices)}"

  def budget_faults(self) -> Iterator[str]:
    """What is wrong with `budgets`, whose files are named by six digits."""
    if any(not limit > 0 for limit in self.budgets):
      yield f"budgets is {quoted(self.budgets)}; give positive numbers"
    yield from self.each_once("budgets")
    names: dict[str, float] = {}
    for limit in dict.fromkeys(self.budgets):
      other = names.setdefault(f"{limit:g}", limit)
      if other != limit:
        yield (
          f"budgets has {other} and {limit}, which would share the file name"
          f" {limit:g}; let them differ in the first six digits"
        )


@dataclasses.dataclass(frozen=True)
class DataSettings(Checked):
  """Where data come from.

  Attributes:
    suite: builder config of `mini_suite`: "default", "held_out" or "tiny".
    directory: where prepared data are kept; "" = where tfds keeps them.
  """

  suite: str
  directory: str = dataclasses.field(metadata=HARMLESS)

  def _faults(self) -> Iterator[str]:
    yield from self.known("suite", mini_suite.COUNTS)


@dataclasses.dataclass(frozen=True)
class StageSettings(Checked):
  """One stage of pretraining.

  Attributes:
    steps: optimiser steps.
    batch: pictures a step.
    learning_rate: peak of the schedule of Muon, for matrices.
    adam_learning_rate: peak of the schedule of Adam, for everything else.
    warmup: steps to the peak.
    weight_decay: decoupled weight decay.
  """

  steps: int
  batch: int
  learning_rate: float
  adam_learning_rate: float
  warmup: int
  weight_decay: float

  def _faults(self) -> Iterator[str]:
    yield from self.at_least(1, "steps", "batch")
    yield from self.at_least(0, "warmup", "weight_decay")
    yield from self.above_zero("learning_rate", "adam_learning_rate")
    yield from rules.warmup_faults(self.warmup, self.steps)


@dataclasses.dataclass(frozen=True)
class PretrainSettings(Checked):
  """Pretraining of the shipped model.

  Attributes:
    seed: of initialisation and data order.
    data: the data sets.
    vision: first stage.
    lookup: second stage.
    grounding: third stage.
    answers: fourth stage.
    questions: questions of a picture that share a sequence.
    places: questions about places that are added to a picture's own ones
      before these are drawn; the third stage asks for sides alone.
    text_length: tokens of that sequence, the picture not counted.
    weights: share of pictures from mini_suite and easy_vqa.
    log_every: steps between lines of metrics.
    save_every: steps between checkpoints.
    output: file name of the exported weights, inside the workdir.
    test_questions: test questions behind the card's accuracy; 0 = all.
  """

  seed: int
  data: DataSettings
  vision: StageSettings
  lookup: StageSettings
  grounding: StageSettings
  answers: StageSettings
  questions: int
  places: int
  text_length: int
  weights: tuple[float, ...]
  log_every: int = dataclasses.field(metadata=HARMLESS)
  save_every: int = dataclasses.field(metadata=HARMLESS)
  output: str
  test_questions: int

  def _faults(self) -> Iterator[str]:
    yield from self.at_least(1, "questions", "text_length")
    yield from self.at_least(1, "log_every", "save_every")
    yield from self.at_least(0, "seed", "places", "test_questions")
    yield from rules.share_faults(self.weights)
    yield from rules.output_faults(self.output)


@dataclasses.dataclass(frozen=True)
class EvaluationSettings(Checked):
  """The comparison of plans on the test split.

  Attributes:
    questions: size of the fixed part of the test split; 0 = all of it.
    batch: questions a batch.
    seed: chooses the part, and draws the noise of the preset "random".
    presets: hand-made operators to compare with.
  """

  questions: int
  batch: int
  seed: int
  presets: tuple[str, ...]

  def _faults(self) -> Iterator[str]:
    yield from self.at_least(0, "questions", "seed")
    yield from self.at_least(1, "batch")
    yield from self.known("presets", ops.PRESETS)
    yield from self.each_once("presets")


@dataclasses.dataclass(frozen=True)
class EvaluateJob(Checked):
  """The evaluation of one plan.

  Results are kept by what they depend on: one directory may serve many plans.

  Attributes:
    plan: JSON file of the plan.
    weights_path: the model's weights; "" = those inside the package.
    data: the data sets.
    evaluation: which questions, and what to compare with.
  """

  plan: str = dataclasses.field(metadata=HARMLESS)
  weights_path: str = dataclasses.field(metadata=HARMLESS)
  data: DataSettings = dataclasses.field(metadata=HARMLESS)
  evaluation: EvaluationSettings = dataclasses.field(metadata=HARMLESS)

  def _faults(self) -> Iterator[str]:
    if not self.plan:
      yield "plan is empty; give the JSON file of a plan, --config.plan=FILE"


@dataclasses.dataclass(frozen=True)
class FinetuneJob(Checked):
  """Training of projector and decoder under a fixed plan.

  Attributes:
    seed: of the order of the questions.
    plan: JSON file of the plan; a checkpoint knows what was in it.
    weights_path: weights to start from; "" = those inside the package.
    data: the data sets.
    weights: share of questions from mini_suite and easy_vqa.
    steps: optimiser steps.
    batch: questions a step.
    micro_batch: questions whose gradients are computed at once, against memory;
      a divisor of `batch` and a multiple of the devices along data and fsdp; 0
      = all. Each micro-batch counts alike in the loss.
    learning_rate: peak of a cosine schedule (AdamW).
    warmup: steps to the peak.
    weight_decay: decoupled weight decay.
    check_every: steps between checks on validation questions.
    check_questions: their number.
    check_batch: questions a batch of a check.
    log_every: steps between lines of metrics.
    save_every: steps between checkpoints; there is one, too, when the training
      is stopped.
    keep: newest checkpoints that are kept.
    best: True: the result is the state with the best check, whose checkpoint is
      kept too, instead of the last one.
    trace_steps: first and last step, from 1, of a trace by `jax.profiler` in
      the workdir's tensorboard/; () = none.
    output: file name of the trained weights, inside the workdir.
    evaluation: the comparison of before and after.
  """

  seed: int
  plan: str = dataclasses.field(metadata=HARMLESS)
  weights_path: str = dataclasses.field(metadata=HARMLESS)
  data: DataSettings
  weights: tuple[float, ...]
  steps: int
  batch: int
  micro_batch: int
  learning_rate: float
  warmup: int
  weight_decay: float
  check_every: int
  check_questions: int
  check_batch: int
  log_every: int = dataclasses.field(metadata=HARMLESS)
  save_every: int = dataclasses.field(metadata=HARMLESS)
  keep: int = dataclasses.field(metadata=HARMLESS)
  best: bool
  trace_steps: tuple[int, ...] = dataclasses.field(metadata=HARMLESS)
  output: str
  evaluation: EvaluationSettings = dataclasses.field(metadata=HARMLESS)

  def _faults(self) -> Iterator[str]:
    if not self.plan:
      yield "plan is empty; give the JSON file of a plan, --config.plan=FILE"
    yield from rules.share_faults(self.weights)
    yield from self.at_least(
      1,
      "steps",
      "batch",
      "check_every",
      "check_questions",
      "check_batch",
      "log_every",
      "save_every",
      "keep",
    )
    yield from self.at_least(0, "seed", "micro_batch", "warmup", "weight_decay")
    yield from self.above_zero("learning_rate")
    yield from rules.micro_batch_faults(self.batch, self.micro_batch)
    whole = min(self.save_every, self.check_every) > 0
    if (self.best and whole) and (
      self.check_every % self.save_every or self.steps % self.check_every
    ):
      yield (
        f"best is True, but save_every={self.save_every} does not divide"
        f" check_every={self.check_every}, or this not steps={self.steps};"
        " every check needs its checkpoint, the last one too"
      )
    yield from rules.warmup_faults(self.warmup, self.steps)
    yield from rules.trace_faults(self.trace_steps)
    yield from rules.output_faults(self.output)


@dataclasses.dataclass(frozen=True)
class ReportJob(Checked):
  """The report of a finished run, from its files, or a comparison of runs.

  Attributes:
    runs: directories of finished runs to compare; () = report one run.
  """

  runs: tuple[str, ...] = dataclasses.field(metadata=HARMLESS)

  def _faults(self) -> Iterator[str]:
    yield from self.each_once("runs")


def build(kind: type, values: Any, path: str = "config") -> Any:
  """Builds a settings dataclass from a mapping, listing every fault at once.

  Args:
    kind: dataclass to build.
    values: mapping of its fields, such as an `ml_collections.ConfigDict`.
    path: name of the mapping in messages.

  Raises:
    ConfigError: unknown, missing, mistyped or impossible values.
  """
  faults: list[str] = []
  result = _build(kind, values, path, faults)
  if faults:
    raise ConfigError(faults)
  return result


def _build(kind, values, path, faults):
  hints = typing.get_type_hints(kind)
  known = {field.name: field for field in dataclasses.fields(kind)}
  before = len(faults)
  for name in values:
    if name not in known:
      shown = quoted(name).strip("'")
      faults.append(f"{path}.{shown} is unknown; {nearest(name, known)}")
  found = {}
  for name in known:
    where = f"{path}.{name}"
    if name in values:
      unbounded = "unbounded" in known[name].metadata
      found[name] = _convert(
        hints[name], values[name], where, faults, unbounded
      )
    else:
      faults.append(f"{where} is missing")
  if len(faults) > before:
    return None
  try:
    return kind(**found)
  except ConfigError as error:
    faults += [f"{path}.{fault}" for fault in error.faults]
    return None


def _convert(hint, value, where, faults, unbounded=False):
  if dataclasses.is_dataclass(hint):
    if not isinstance(value, typing.Mapping):
      faults.append(f"{where} must be a group of fields, got {quoted(value)}")
      return None
    return _build(hint, value, where, faults)
  if typing.get_origin(hint) is tuple:
    if not isinstance(value, (list, tuple)):
      faults.append(f"{where} must be a tuple, got {quoted(value)}")
      return ()
    if len(value) > _MOST_ITEMS:
      faults.append(
        f"{where} has {len(value)} entries; use at most {_MOST_ITEMS}"
      )
      return ()
    item = typing.get_args(hint)[0]
    return tuple(
      _convert(item, v, where, faults, unbounded and place == len(value) - 1)
      for place, v in enumerate(value)
    )
  accepted = (int, float) if hint is float else hint
  if not isinstance(value, accepted) or (
    isinstance(value, bool) and hint is not bool
  ):
    faults.append(
      f"{where} must be {hint.__name__}, got {quoted(value)}"
      f" ({type(value).__name__})"
    )
    return value
  if unbounded and value == math.inf:
    return value
  if fault := _value_fault(hint, value):
    faults.append(f"{where} is {quoted(value)}; {fault}")
    return None
  return hint(value)


def _value_fault(kind, value) -> str:
  """Says what is wrong with a value of a right type; "" = nothing."""
  if kind is float:
    if not abs(value) <= MOST_FLOAT:
      return "use a finite number that float32 can hold"
    if value and abs(value) < _LEAST_FLOAT:
      return f"use 0, or a number of at least {_LEAST_FLOAT} as float32 has it"
  if kind is int and not -(2**63) <= value < 2**63:
    return "use an integer of at most 64 bits"
  if kind is str:
    if not naming.is_unicode(value) or "\0" in value:
      return "use Unicode text without the character NUL; rename a file"
    longest = max(len(part.encode()) for part in value.split("/"))
    if longest > _MOST_NAME or len(value.encode()) > _MOST_TEXT:
      return (
        f"use names of at most {_MOST_NAME} bytes and paths of at most"
        f" {_MOST_TEXT}"
      )
  return ""


def harmless(kind: type, path: str = "config") -> frozenset[str]:
  """Names of the fields under which a run may be resumed when they change.

  Args:
    kind: settings dataclass.
    path: name of the whole.

  Returns:
    Dotted names; where a whole group may change, the group's.
  """
  found = set()
  hints = typing.get_type_hints(kind)
  for field in dataclasses.fields(kind):
    where = f"{path}.{field.name}"
    if field.metadata.get("harmless"):
      found.add(where)
    elif dataclasses.is_dataclass(hints[field.name]):
      found |= harmless(hints[field.name], where)
  return frozenset(found)


def binding(chosen: Any) -> dict[str, Any]:
  """The settings that must stay when a run is resumed, as plain values."""
  return {
    field.name: binding(value) if dataclasses.is_dataclass(value) else value
    for field in dataclasses.fields(chosen)
    if not field.metadata.get("harmless")
    for value in [getattr(chosen, field.name)]
  }
