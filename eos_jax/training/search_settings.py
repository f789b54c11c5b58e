"""Settings of the search."""

from collections.abc import Iterator
import dataclasses
import math
from typing import Self

from eos_jax import models, ops, search
from eos_jax.naming import quoted
from eos_jax.ops import plan
from eos_jax.search import space
from eos_jax.training import data_settings, settings, shared_settings

# Who is searched or trained -> the split that each reads.
MODES = {
  "frozen": "the policy alone moves, on the validation split",
  "joint": "policy, projector and decoder move together, on the train split",
  "bilevel": (
    "the policy moves on the validation split, projector and decoder on the"
    " train split"
  ),
}

# Default budgets, as shares of a model's visual tokens.
SHARES = (1 / 3, 2 / 9, 1 / 9, 1 / 36)

_MOST = plan.MOST_NUMBER
# Scores over it stay finite in float32.
_LEAST_TEMPERATURE = 1e-6
# Of neighbouring knots, as a logarithm: float32 tells them apart.
_LEAST_RATIO = 1e-4
# The searched numbers of an operator; see `ops.OperatorParams`.
NUMBERS = tuple(
  each.name
  for each in dataclasses.fields(ops.OperatorParams)
  if each.name not in space.SIMPLEX
)


def sites_of(cfg: models.VLMConfig) -> tuple[str, ...]:
  """Returns the sites where a search may reduce unless others are named.

  All layers of a decoder of up to eight; of a larger one its input, where
  projectors' reducers act, and the places of FastV and PyramidDrop.
  """
  layers = cfg.decoder.layers
  chosen = range(layers)
  if layers > 8:
    chosen = sorted({0, layers // 16, layers // 4, layers // 2})
  return tuple(f"decoder.{layer}" for layer in chosen)


@dataclasses.dataclass(frozen=True)
class LimitSettings(settings.Checked):
  """Limits that every plan meets in addition to its budget; 0 = none.

  Attributes:
    final_count: visual tokens after the last site.
    flops: of a prefill with its operators, as a share of the dense model's.
    kv_bytes: of the key-value cache, as a share of the dense model's.
    latency: of a prefill by a measured table, as a share of the dense model's.
    latency_table: JSON file of the table (`configs/timing.py:latency`).
    latency_batch: sequences at once, one that was measured.
    text_tokens: of the prompts for which these shares are computed.
  """

  final_count: float = settings.field(0.0, least=0)
  flops: float = settings.field(0.0, least=0)
  kv_bytes: float = settings.field(0.0, least=0)
  latency: float = settings.field(0.0, least=0)
  latency_table: str = ""
  latency_batch: int = settings.field(1, least=1)
  text_tokens: int = settings.field(24, least=0)

  def _faults(self) -> Iterator[str]:
    yield from super()._faults()
    if self.latency > 0 and not self.latency_table:
      yield (
        "latency_table is empty, but latency is limited; measure one with"
        " --config=configs/timing.py:latency and give its JSON file"
      )


class _Ranges(settings.Checked):
  """Lowest and highest value of each number of `NUMBERS`; () = the default.

  The highest value of tau is always infinity.
  """

  def _faults(self) -> Iterator[str]:
    yield from super()._faults()
    for name in NUMBERS:
      value = getattr(self, name)
      if len(value) not in (0, 2):
        yield f"{name} is {quoted(value)}; give (low, high) or ()"
      elif name != "tau" and max(map(abs, value), default=0) > _MOST:
        yield (
          f"{name} is {value}; use ends of at most {_MOST:g}, which plans can"
          " hold"
        )

  def pairs(self) -> tuple[tuple[str, tuple[float, float]], ...]:
    """Returns the ranges that differ from the default, for a search space."""
    pairs = ((name, getattr(self, name)) for name in NUMBERS)
    return tuple((name, value) for name, value in pairs if value)


class _Priors(settings.Checked):
  """Weights that pull each number of `NUMBERS` towards the start's; 0 = none.

  A weight is that of the squared distance, mean over the sites.
  """

  def weights(self) -> dict[str, float]:
    """Returns the weights that are not 0, by number."""
    return {name: w for name in NUMBERS if (w := getattr(self, name))}


def _of_each_number(name, base, hint, default, **rule):
  """Returns a settings dataclass with one field for each of `NUMBERS`."""
  made = [
    (number, hint, settings.field(default, **rule, unbounded=number == "tau"))
    for number in NUMBERS
  ]
  return dataclasses.make_dataclass(
    name,
    made,
    bases=(base,),
    frozen=True,
    namespace={"__doc__": base.__doc__, "__module__": __name__},
  )


RangeSettings = _of_each_number("RangeSettings", _Ranges, tuple[float, ...], ())
PriorSettings = _of_each_number("PriorSettings", _Priors, float, 0.0, least=0)


@dataclasses.dataclass(frozen=True)
class SearchSettings(shared_settings.TrainingSettings):
  """The search for reduction plans.

  Attributes:
    budgets: layer averages of visual tokens to find a plan for; () = `SHARES`
      of the model's tokens.
    limits: that every plan meets in addition to its budget.
    knots: 0 = budgets are searched one after the other. From 2 on: one search
      for all budgets between the smallest and the largest, with one policy that
      has separate variables at this number of budgets.
    sites: names of the sites; () = every layer of a small decoder, and four
      layers up to the middle of a larger one, see `sites_of`.
    start: preset whose numbers the search starts from.
    free: groups of operator variables that move (`search.GROUPS`).
    ranges: of the operators' numbers.
    priors: pulls towards the start's numbers.
    mode: what moves, and on which split (`MODES`); with "joint" and "bilevel"
      projector and decoder move too, by a separate optimiser, which needs data
      with a train split.
    labels: False = answers are not read: the loss is the alignment alone, on
      the positions of the prompt.
    relaxation: what replaces the hard decision (`models.RELAXATIONS`);
      "straight_through" runs the soft and the hard operators in every step.
    binarize: final weight of a loss of undecided masses, which rises to it.
    steps: steps for each budget, or of the one search for all; 0 = 60, and 240
      for large models.
    whole_from: share of a budget's steps after which the forward pass uses the
      rounded token counts; 1 = never.
    calibration_steps: further steps for each budget, under rounded counts and
      hard decisions, in which all numbers but the counts move.
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
    check_every: steps between hard checks on validation questions; divides all
      steps of a budget; 0 = these.
    save_every: steps between checkpoints; 0 = as many as a budget has.
  """

  budgets: tuple[float, ...] = settings.field((), once=True)
  limits: LimitSettings = settings.group(LimitSettings)
  knots: int = settings.field(0, least=0)
  sites: tuple[str, ...] = ()
  start: str = settings.field("hybrid", choices=ops.PRESETS)
  free: tuple[str, ...] = settings.field(
    (
      "where",
      "how_many",
      "scores",
      "transfer",
      "temperature",
      "reweight",
      "normalization",
      "size_bias",
      "affinity",
    ),
    choices=search.GROUPS,
  )
  ranges: RangeSettings = settings.group(RangeSettings)
  priors: PriorSettings = settings.group(PriorSettings)
  mode: str = settings.field("frozen", choices=MODES)
  labels: bool = True
  relaxation: str = settings.field("annealed", choices=models.RELAXATIONS)
  binarize: float = settings.field(0.0, least=0)
  steps: int = settings.field(0, least=0)
  whole_from: float = settings.field(0.75, least=0, most=1)
  calibration_steps: int = settings.field(0, least=0)
  learning_rate: float = settings.field(0.1, above=0)
  model_learning_rate: float = settings.field(1e-4, least=0)
  multiplier_learning_rate: float = settings.field(0.05, above=0)
  penalty: float = settings.field(4.0, least=0)
  align: float = settings.field(0.3, least=0)
  start_multiple: float = settings.field(1.1, above=0)
  start_decay: float = settings.field(0.8, above=0, most=1)
  temperature_start: float = 0.5
  temperature_end: float = settings.field(0.001, least=_LEAST_TEMPERATURE)
  anneal_share: float = settings.field(0.9, above=0, most=1)
  log_every: int = 5
  save_every: int = settings.field(0, least=0, resumable=True)

  @property
  def trains_model(self) -> bool:
    """Whether projector and decoder move too."""
    return self.mode != "frozen"

  def for_model(self, cfg: models.VLMConfig) -> Self:
    """Returns the same job, with what follows from the model filled in."""
    job = super().for_model(cfg)
    steps = self.steps or (240 if shared_settings.is_large(cfg) else 60)
    whole = steps + self.calibration_steps
    budgets = self.budgets or tuple(
      round(share * cfg.tokens, 4) for share in SHARES
    )
    return settings.completed(
      job,
      budgets=budgets,
      sites=self.sites or sites_of(cfg),
      steps=steps,
      check_every=self.check_every or whole,
      save_every=self.save_every or whole,
    )

  @property
  def budget_steps(self) -> int:
    """Steps of a budget, or of the one search for all."""
    return self.steps + self.calibration_steps

  def _faults(self) -> Iterator[str]:
    yield from super()._faults()
    yield from shared_settings.budget_faults(self.budgets)
    if self.temperature_start < self.temperature_end:
      yield (
        f"temperature_start is {self.temperature_start}; use"
        f" temperature_end={self.temperature_end} or more, it is annealed"
      )
    if self.steps and self.check_every and self.budget_steps % self.check_every:
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
    yield from self._family_faults()

  def _family_faults(self):
    if not self.knots or not self.budgets:
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
class SearchJob(
  SearchSettings, shared_settings.JudgedSettings, shared_settings.ModelSettings
):
  """A search for a model, and the comparison of what it finds."""

  evaluation: shared_settings.EvaluationSettings = settings.group(
    shared_settings.EvaluationSettings,
    resumable=True,
    questions=500,
    presets=("prune", "merge_proportional"),
  )
  data: data_settings.DataSettings = settings.group(
    data_settings.DataSettings, suite="held_out"
  )
