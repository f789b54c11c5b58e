"""Settings of the search."""

from collections.abc import Iterator
import dataclasses
import math

from eos_jax import models, ops, search
from eos_jax.ops import plan
from eos_jax.training import model_settings, rules, settings

# Who is searched or trained -> the split that each reads.
MODES = {
  "frozen": "the policy alone moves, on the validation split",
  "joint": "policy, projector and decoder move together, on the train split",
  "bilevel": (
    "the policy moves on the validation split, projector and decoder on the"
    " train split"
  ),
}

PURPOSES = ("train", "validation", "test")

_MOST = plan.MOST_NUMBER
# Scores over it stay finite in float32.
_LEAST_TEMPERATURE = 1e-6
# Of neighbouring knots, as a logarithm: float32 tells them apart.
_LEAST_RATIO = 1e-4


def _harmless():
  return dataclasses.field(metadata=settings.HARMLESS)


@dataclasses.dataclass(frozen=True)
class LimitSettings(settings.Checked):
  """Limits that every plan meets beside its budget; 0 = none.

  Attributes:
    final_count: visual tokens after the last site.
    flops: of a prefill with its operators, as a share of the dense model's.
    kv_bytes: of the key-value cache, as a share of the dense model's.
    latency: of a prefill by a measured table, as a share of the dense model's.
    latency_table: JSON file of the table (`configs/benchmark.py:latency`).
    latency_batch: sequences at once, one that was measured.
    text_tokens: of the prompts that these shares are taken at.
  """

  final_count: float
  flops: float
  kv_bytes: float
  latency: float
  latency_table: str
  latency_batch: int
  text_tokens: int

  def _faults(self) -> Iterator[str]:
    yield from self.at_least(
      0, "final_count", "flops", "kv_bytes", "latency", "text_tokens"
    )
    yield from self.at_least(1, "latency_batch")
    if self.latency > 0 and not self.latency_table:
      yield (
        "latency_table is empty, but latency is limited; measure one with"
        " --config=configs/benchmark.py:latency and give its JSON file"
      )


@dataclasses.dataclass(frozen=True)
class RangeSettings(settings.Checked):
  """Lowest and highest value of each number of an operator; () = the default.

  Attributes:
    activation, retention, kappa, gamma, tau, theta, rho, rho_attn, eta, delta:
      as of `ops.OperatorParams`; the high end of tau is infinity.
  """

  activation: tuple[float, ...]
  retention: tuple[float, ...]
  kappa: tuple[float, ...]
  gamma: tuple[float, ...]
  tau: tuple[float, ...] = dataclasses.field(metadata=settings.UNBOUNDED)
  theta: tuple[float, ...]
  rho: tuple[float, ...]
  rho_attn: tuple[float, ...]
  eta: tuple[float, ...]
  delta: tuple[float, ...]

  def _faults(self) -> Iterator[str]:
    for field in dataclasses.fields(self):
      value = getattr(self, field.name)
      if len(value) not in (0, 2):
        shown = settings.quoted(value)
        yield f"{field.name} is {shown}; give (low, high) or ()"
      elif field.name != "tau" and max(map(abs, value), default=0) > _MOST:
        yield (
          f"{field.name} is {value}; use ends of at most {_MOST:g}, which plans"
          " can hold"
        )

  def pairs(self) -> tuple[tuple[str, tuple[float, float]], ...]:
    """The ranges that differ from the default, as a search space has them."""
    return tuple(
      (field.name, value)
      for field in dataclasses.fields(self)
      if (value := getattr(self, field.name))
    )


@dataclasses.dataclass(frozen=True)
class PriorSettings(settings.Checked):
  """Weights of a pull of each number towards the start's; 0 = none.

  Attributes:
    activation, retention, kappa, gamma, tau, theta, rho, rho_attn, eta, delta:
      weight of the squared distance, mean over the sites.
  """

  activation: float
  retention: float
  kappa: float
  gamma: float
  tau: float
  theta: float
  rho: float
  rho_attn: float
  eta: float
  delta: float

  def _faults(self) -> Iterator[str]:
    yield from self.at_least(0, *(f.name for f in dataclasses.fields(self)))

  def weights(self) -> dict[str, float]:
    """The priors that there are, by field."""
    return {name: w for name, w in dataclasses.asdict(self).items() if w}


@dataclasses.dataclass(frozen=True)
class SearchSettings(settings.Checked):
  """The search for reduction plans.

  Attributes:
    seed: of the order of the questions.
    budgets: layer averages of visual tokens to find a plan for.
    limits: that every plan meets beside its budget.
    knots: 0 = budgets are searched one after the other. From 2 on: one policy
      for all budgets between the smallest and the largest, with variables of
      its own at so many of them, in one search.
    sites: names of the sites; () = every decoder site.
    start: preset whose numbers the search starts from.
    free: groups of operator variables that move (`search.GROUPS`).
    ranges: of the operators' numbers.
    priors: pulls towards the start's numbers.
    mode: who moves, and on which split (`MODES`).
    labels: False = answers are not read: the loss is the alignment alone, on
      the positions of the prompt.
    relaxation: what stands for the hard decision (`models.RELAXATIONS`).
    binarize: weight that a loss of undecided masses rises to.
    steps: steps for each budget, or of the one search for all.
    whole_from: share of a budget's steps behind which the forward pass has the
      counts of the plan that the policy is rounded to; 1 = never.
    calibration_steps: further steps for each budget, under rounded counts and
      hard decisions, in which all numbers but the counts move.
    batch: questions a step.
    micro_batch: questions whose gradients are computed at once, against memory;
      a divisor of `batch` and a multiple of the devices along data and fsdp; 0
      = all. Each micro-batch counts alike in the loss.
    remat: what the backward pass of the decoder computes again instead of
      keeping it: "" nothing, or one of `models.REMAT`.
    learning_rate: of the policy (Adam).
    model_learning_rate: of the model, where it moves.
    multiplier_learning_rate: ascent step of the Lagrange multipliers.
    penalty: weight of the quadratic constraint term.
    align: weight of the alignment with the unreduced model's hidden states.
    start_multiple: a budget's first layer average, as a multiple of its limit.
    start_decay: share of tokens that each site after the first keeps at the
      very start.
    temperature_start: of the soft top-k, at the first step of a budget.
    temperature_end: the same once annealed.
    anneal_share: share of a budget's steps over which it is annealed.
    check_every: steps between hard checks; divides all steps of a budget.
    check_questions: validation questions of a hard check.
    check_batch: questions a batch of a hard check.
    log_every: steps between lines of metrics.
    save_every: steps between checkpoints; there is one, too, when the search is
      stopped.
    keep: newest checkpoints that are kept.
    trace_steps: first and last step, from 1, of a trace by `jax.profiler` in
      the workdir's tensorboard/; () = none.
  """

  seed: int
  budgets: tuple[float, ...]
  limits: LimitSettings
  knots: int
  sites: tuple[str, ...]
  start: str
  free: tuple[str, ...]
  ranges: RangeSettings
  priors: PriorSettings
  mode: str
  labels: bool
  relaxation: str
  binarize: float
  whole_from: float
  steps: int
  calibration_steps: int
  batch: int
  micro_batch: int
  remat: str = dataclasses.field(metadata=settings.HARMLESS)
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
  log_every: int = _harmless()
  save_every: int = _harmless()
  keep: int = _harmless()
  trace_steps: tuple[int, ...] = _harmless()

  @property
  def trains_model(self) -> bool:
    """Whether projector and decoder move too."""
    return self.mode != "frozen"

  @property
  def budget_steps(self) -> int:
    """Steps of a budget, or of the one search for all."""
    return self.steps + self.calibration_steps

  def _faults(self) -> Iterator[str]:
    if not self.budgets:
      yield "budgets is (); give positive numbers"
    yield from self.budget_faults()
    yield from self.known("start", ops.PRESETS)
    yield from self.known("mode", MODES)
    yield from self.known("relaxation", models.RELAXATIONS)
    yield from self.known("remat", ("", *models.REMAT))
    yield from self.known("free", search.GROUPS)
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
    yield from self.at_least(
      0,
      "seed",
      "knots",
      "micro_batch",
      "binarize",
      "calibration_steps",
      "penalty",
      "align",
      "model_learning_rate",
    )
    yield from self.above_zero(
      "learning_rate",
      "multiplier_learning_rate",
      "start_multiple",
      "start_decay",
      "anneal_share",
    )
    yield from self.at_least(_LEAST_TEMPERATURE, "temperature_end")
    yield from self.fractions("whole_from", "start_decay", "anneal_share")
    if self.temperature_start < self.temperature_end:
      yield (
        f"temperature_start is {self.temperature_start}; use"
        f" temperature_end={self.temperature_end} or more, it is annealed"
      )
    if self.check_every > 0 and self.budget_steps % self.check_every:
      parts = f"steps={self.steps}"
      if self.calibration_steps:
        parts += f" + calibration_steps={self.calibration_steps}"
      yield (
        f"check_every is {self.check_every}, which does not divide {parts};"
        " the last check of a budget judges its plan"
      )
    if not self.penalty:
      yield "penalty is 0; use a number above 0, such as 4.0"
    if not self.labels and not self.align:
      yield "align is 0, but without labels it is all of the loss; use 1.0"
    yield from rules.micro_batch_faults(self.batch, self.micro_batch)
    yield from rules.trace_faults(self.trace_steps)
    yield from self._family_faults()

  def _family_faults(self):
    if not self.knots:
      return
    if self.knots < 2:
      yield f"knots is {self.knots}; use 0, or 2 or more"
    if len(self.budgets) < 2:
      yield (
        f"budgets is {self.budgets}; a search with knots needs the smallest and"
        " the largest"
      )
    elif (
      self.knots <= settings.MOST["knots"]
      and 0 < min(self.budgets)
      and self._knot_ratio() < _LEAST_RATIO
    ):
      yield (
        f"knots is {self.knots}, too many between the budgets"
        f" {min(self.budgets):g} and {max(self.budgets):g}; use fewer, or"
        " budgets that differ more"
      )
    if self.calibration_steps:
      yield (
        f"calibration_steps is {self.calibration_steps}; one search for all"
        " budgets has no rounded counts to calibrate under, use 0"
      )

  def _knot_ratio(self):
    """Logarithm of the ratio of neighbouring knots."""
    whole = math.log(max(self.budgets)) - math.log(min(self.budgets))
    return whole / max(self.knots - 1, 1)


@dataclasses.dataclass(frozen=True)
class SearchJob(SearchSettings):
  """A search for the shipped model, and the comparison of what it finds.

  Attributes:
    mesh: devices along the axes data, fsdp and tensor; () = all along data.
    data: the data sets.
    weights: share of questions from mini_suite and easy_vqa.
    weights_path: the model's weights; "" = those inside the package.
    evaluation: the comparison.
  """

  mesh: tuple[int, ...] = _harmless()
  data: settings.DataSettings
  weights: tuple[float, ...]
  # A checkpoint knows the weights themselves, wherever they lay.
  weights_path: str = _harmless()
  # The search does not depend on it, and its results are kept one by one.
  evaluation: settings.EvaluationSettings = _harmless()

  def _faults(self) -> Iterator[str]:
    yield from super()._faults()
    yield from model_settings.mesh_faults("mesh", self.mesh)
    yield from rules.share_faults(self.weights)


@dataclasses.dataclass(frozen=True)
class InstructionSettings(settings.Checked):
  """Instructions of the user, in LLaVA's JSON format.

  Attributes:
    path: the JSON file.
    images: folder of its pictures; "" = the one that the file is in.
    apart: set entries that cannot be used apart and count them, instead of
      refusing the file.
    images_anywhere: whether names of images may lead out of their folder.
    train, validation, test: share of the pictures, with their instructions,
      for each purpose; together 1. The policy is searched and checked on
      `validation`, plans are judged on `test`, and `train`, which may be 0, is
      for searches that move the model.
    text_length: tokens of prompt and answer that a row has room for.
    answer_length: most tokens of an answer that is generated.
    pictures: that a row has room for; for SmolVLM a tile is one.
    tiles: rows and columns of tiles that a picture of LLaVA-OneVision has room
      for; () = that of other families.
    size: height and width that a picture of Qwen2-VL has room for, pixels;
      () = that of other families.
  """

  path: str
  images: str
  apart: bool
  images_anywhere: bool
  train: float
  validation: float
  test: float
  text_length: int
  answer_length: int
  pictures: int
  tiles: tuple[int, ...]
  size: tuple[int, ...]

  @property
  def shares(self) -> dict[str, float]:
    """The shares that are not 0, by purpose."""
    whole = {name: getattr(self, name) for name in PURPOSES}
    return {name: share for name, share in whole.items() if share}

  def _faults(self) -> Iterator[str]:
    if not self.path:
      yield (
        "path is empty; give a file of instructions, --config.data.path=FILE"
      )
    yield from self.at_least(0, "train")
    yield from self.above_zero("validation", "test")
    total = self.train + self.validation + self.test
    if abs(total - 1) > 1e-6:
      yield f"train, validation and test sum to {total:g}; let it be 1"
    yield from self.at_least(1, "text_length", "answer_length", "pictures")
    yield from rules.image_shape_faults(self.tiles, self.size)


@dataclasses.dataclass(frozen=True)
class PublishedSearchJob(SearchSettings):
  """A search for a published model, and the comparison of what it finds.

  Attributes:
    model: which.
    mesh: devices along the axes data, fsdp and tensor; () = along fsdp as many
      as the model's shapes allow, the others along data.
    data: the instructions.
    evaluation: the comparison.
  """

  # A checkpoint knows the weights themselves, wherever they lay.
  model: model_settings.ModelSettings = _harmless()
  mesh: tuple[int, ...] = _harmless()
  data: InstructionSettings
  # The search does not depend on it, and its results are kept one by one.
  evaluation: settings.EvaluationSettings = _harmless()

  def _faults(self) -> Iterator[str]:
    yield from super()._faults()
    yield from model_settings.mesh_faults("mesh", self.mesh)
    if self.trains_model and not self.data.train:
      yield (
        f"mode is {self.mode!r}, but data.train is 0; give it a share, such as"
        " 0.6"
      )
