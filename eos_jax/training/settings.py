"""Settings of the tasks as frozen dataclasses, built from a config file."""

import dataclasses
import typing
from typing import Any


@dataclasses.dataclass(frozen=True)
class DataSettings:
  """Where data come from.

  Attributes:
    suite: builder config of `mini_suite`: "default", "held_out" or "tiny".
    directory: where prepared data are kept; "" = where tfds keeps them.
  """

  suite: str
  directory: str


@dataclasses.dataclass(frozen=True)
class StageSettings:
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


@dataclasses.dataclass(frozen=True)
class PretrainSettings:
  """Pretraining of the shipped model.

  Attributes:
    seed: of initialisation and data order.
    data: the data sets.
    vision: first stage.
    answers: second stage.
    questions: questions of a picture that share a sequence.
    places: questions about places that are added to a picture's own ones
      before these are drawn.
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
  answers: StageSettings
  questions: int
  places: int
  text_length: int
  weights: tuple[float, ...]
  log_every: int
  save_every: int
  output: str
  test_questions: int


@dataclasses.dataclass(frozen=True)
class SearchSettings:
  """The search for reduction plans.

  Attributes:
    seed: of the order of the questions.
    data: the data sets.
    weights: share of questions from mini_suite and easy_vqa.
    budgets: layer averages of visual tokens to find a plan for.
    sites: names of the sites; () = every decoder site.
    start: preset whose numbers the search starts from.
    free: groups of operator variables that move (`search.GROUPS`).
    mode: "frozen" (the policy alone moves) or "joint" (projector and decoder
      too).
    steps: steps for each budget.
    batch: questions a step.
    learning_rate: of the policy (Adam).
    model_learning_rate: of the model in joint mode.
    multiplier_learning_rate: ascent step of the Lagrange multipliers.
    penalty: weight of the quadratic constraint term.
    align: weight of the alignment with the unreduced model's hidden states.
    start_multiple: a budget's first layer average, as a multiple of its limit.
    start_decay: share of tokens that each site after the first keeps at the
      very start.
    temperature_start: of the soft top-k, at the first step of a budget.
    temperature_end: the same once annealed.
    anneal_share: share of a budget's steps over which it is annealed.
    check_every: steps between hard checks; divides `steps`.
    check_questions: validation questions of a hard check.
    check_batch: questions a batch of a hard check.
    log_every: steps between lines of metrics.
    save_every: steps between checkpoints.
  """

  seed: int
  data: DataSettings
  weights: tuple[float, ...]
  budgets: tuple[float, ...]
  sites: tuple[str, ...]
  start: str
  free: tuple[str, ...]
  mode: str
  steps: int
  batch: int
  learning_rate: float
  model_learning_rate: float
  multiplier_learning_rate: float
  penalty: float
  align: float
  start_multiple: float
  start_decay: float
  temperature_start: float
  temperature_end: float
  anneal_share: float
  check_every: int
  check_questions: int
  check_batch: int
  log_every: int
  save_every: int

  def __post_init__(self):
    if self.mode not in ("frozen", "joint"):
      raise ValueError(f"mode is {self.mode!r}; use 'frozen' or 'joint'")
    if not self.budgets or min(self.budgets) <= 0:
      raise ValueError(f"budgets is {self.budgets}; give positive numbers")
    if self.steps % self.check_every:
      raise ValueError(
        f"check_every={self.check_every} does not divide steps={self.steps};"
        " the last check of a budget judges its plan"
      )


@dataclasses.dataclass(frozen=True)
class EvaluationSettings:
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


def build(kind: type, values: Any, path: str = "config") -> Any:
  """Builds a settings dataclass from a mapping, listing every fault at once.

  Args:
    kind: dataclass to build.
    values: mapping of its fields, such as an `ml_collections.ConfigDict`.
    path: name of the mapping in messages.

  Raises:
    ValueError: unknown, missing or mistyped fields.
  """
  faults: list[str] = []
  result = _build(kind, values, path, faults)
  if faults:
    raise ValueError("the config has faults:\n  " + "\n  ".join(faults))
  return result


def _build(kind, values, path, faults):
  hints = typing.get_type_hints(kind)
  known = {field.name: field for field in dataclasses.fields(kind)}
  for name in values:
    if name not in known:
      faults.append(
        f"{path}.{name} is unknown; known here: {', '.join(sorted(known))}"
      )
  found = {}
  for name, field in known.items():
    where = f"{path}.{name}"
    if name not in values:
      if field.default is dataclasses.MISSING:
        faults.append(f"{where} is missing")
      continue
    found[name] = _convert(hints[name], values[name], where, faults)
  if faults:
    return None
  try:
    return kind(**found)
  except ValueError as error:
    faults.append(f"{path}: {error}")
    return None


def _convert(hint, value, where, faults):
  if dataclasses.is_dataclass(hint):
    return _build(hint, value, where, faults)
  origin = typing.get_origin(hint)
  if origin is tuple:
    item = typing.get_args(hint)[0]
    return tuple(_convert(item, v, where, faults) for v in value)
  accepted = (int, float) if hint is float else hint
  if not isinstance(value, accepted) or (
    isinstance(value, bool) and hint is not bool
  ):
    faults.append(
      f"{where} must be {hint.__name__}, got {value!r} ({type(value).__name__})"
    )
    return value
  return hint(value)
