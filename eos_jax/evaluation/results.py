"""Results of plans, scores and costs alike for all questions; their file."""

from collections.abc import Iterable, Mapping
import dataclasses
import pathlib
from typing import Any

from eos_jax import cost, files, ops

# Name of the plans that a search returned; others are of presets or users.
SEARCHED = "eos"
# Where a search trained the model too: what its two halves are worth alone.
PLAN_ALONE, WEIGHTS_ALONE = "eos_plan_alone", "eos_weights_alone"
OURS = (SEARCHED, PLAN_ALONE, WEIGHTS_ALONE)

# Name and unit of the score of questions with one right answer each: the mean
# accuracy over tasks, with the accuracy of each task as its parts.
ACCURACY, FRACTION = "accuracy", "fraction"


@dataclasses.dataclass(frozen=True)
class Score:
  """A score of a model on a set of questions.

  Attributes:
    value: the number that papers print.
    unit: of the value, such as "%" or `FRACTION`.
    error: standard error of the value; None where it is not known.
    parts: further numbers by name: breakdowns and counts.
  """

  value: float
  unit: str
  error: float | None = None
  parts: Mapping[str, float] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Result:
  """Scores and costs of a model under a plan.

  Attributes:
    name: of the plan, or "dense".
    limit: token budget (layer average) of the plan; None for dense.
    plan: digest of the plan (`ReductionPlan.digest`); None without a plan.
    sites: tokens that each site of the plan keeps.
    note: of the plan.
    reason: why no plan reaches the budget, else "".
    weights: fingerprint of the model's weights.
    scores: by name.
    layer_average: visual tokens, mean over decoder layers as executed; None
      where nothing was run.
    final: visual tokens after the last site.
    flops: of a prefill with a prompt of mean length, from pixels to the first
      answer token, operators included.
    kv_bytes: of the key-value cache after the prefill, two bytes a number.
  """

  name: str
  limit: float | None = None
  plan: str | None = None
  sites: Mapping[str, int] = dataclasses.field(default_factory=dict)
  note: str = ""
  reason: str = ""
  weights: str = ""
  scores: Mapping[str, Score] = dataclasses.field(default_factory=dict)
  layer_average: float | None = None
  final: int = 0
  flops: int = 0
  kv_bytes: int = 0

  @property
  def kept(self) -> str:
    """Visual tokens after each site, such as "48>16"."""
    return ">".join(map(str, self.sites.values()))

  @property
  def accuracy(self) -> Score:
    """The score `ACCURACY`."""
    return self.scores[ACCURACY]

  def to_dict(self) -> dict[str, Any]:
    """Returns plain values for JSON."""
    return dataclasses.asdict(self)

  @classmethod
  def from_dict(cls, values: Mapping[str, Any]) -> "Result":
    """Returns the result that `to_dict` gave these values of."""
    scores = {name: Score(**score) for name, score in values["scores"].items()}
    return cls(**{**values, "scores": scores})


def measured(
  name: str,
  limit: float | None,
  plan: ops.ReductionPlan | None,
  scores: Mapping[str, Score],
  budget: cost.Budget,
) -> Result:
  """Returns the result of a plan.

  Args:
    name: of the plan, or "dense".
    limit: token budget of the plan; None for dense.
    plan: None = dense.
    scores: by name.
    budget: costs of the plan.
  """
  sites = plan.sites if plan else ()
  return Result(
    name,
    limit,
    plan=plan.digest if plan else None,
    sites={site.site: site.keep for site in sites},
    note=plan.note if plan else "",
    scores=scores,
    layer_average=float(budget.layer_average),
    final=budget.final,
    flops=budget.total_flops,
    kv_bytes=budget.kv_bytes,
  )


def write(
  path: pathlib.Path, results: Iterable[Result], facts: Mapping[str, Any]
) -> None:
  """Writes results and the facts of their run, with a digest."""
  value = files.plain({**facts, "results": [r.to_dict() for r in results]})
  files.write_json(path, {**value, "digest": _digest(value)})


def read(path: pathlib.Path) -> tuple[dict[str, Any], list[Result]]:
  """Returns the facts and the results that `write` wrote.

  Raises:
    OSError: there are none.
    ValueError: they are damaged, or were changed.
  """
  facts = files.read_json(path)
  if not isinstance(facts, dict) or facts.get("digest") != _digest(facts):
    raise ValueError(f"the contents of {path} do not match their digest")
  return facts, [Result.from_dict(values) for values in facts.pop("results")]


def _digest(value):
  """Of everything that does not depend on where and how fast a run was."""
  left_out = ("config", "seconds", "digest")
  return files.digest({n: v for n, v in value.items() if n not in left_out})
