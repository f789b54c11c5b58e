"""The loss of a search: task, alignment and one-sided constraints."""

from collections.abc import Callable, Mapping
from typing import Any

from eos_jax import cost
from eos_jax.array_typing import Array, Float, Scalar
from eos_jax.search import constraints as constraints_lib
from eos_jax.search import expected
from eos_jax.search import space as space_lib

# A cost as a function of the visual tokens after each site [S]; differentiable
# for an array, exact for a sequence of whole numbers, rising in each of them.
Measure = Callable[[expected.Counts], Any]
Measures = Mapping[str, Measure]

# What the product of a fractional limit and a number of layers may be off by.
ROUNDING = 1e-9


def measure(
  counts: expected.Counts,
  space: space_lib.SearchSpace,
  constraints: tuple[constraints_lib.Constraint, ...],
  measures: Measures | None = None,
) -> dict[str, Any]:
  """Values of all measures that the constraints name.

  Args:
    counts: [S] visual tokens after each site.
    space: the search space.
    constraints: one-sided constraints; "layer_average" and "final_count" are
      known here.
    measures: further measures by name, see `search.measures`.

  Returns:
    Scalars by name, each in the unit of its measure: float32 for an array.
  """
  known = {
    name: lambda counts, fn=fn: fn(counts, space)
    for name, fn in expected.MEASURES.items()
  }
  known |= measures or {}
  unknown = [c.name for c in constraints if c.name not in known]
  if unknown:
    raise ValueError(
      f"constraints name unknown measures {unknown}; known are"
      f" {sorted(known)}, more can be given as measures={{name: function}}."
    )
  return {c.name: known[c.name](counts) for c in constraints}


def exceeded(
  counts: tuple[int, ...],
  space: space_lib.SearchSpace,
  constraints: tuple[constraints_lib.Constraint, ...],
  measures: Measures | None = None,
) -> dict[str, float]:
  """Values of those measures that lie above their limits, for whole counts.

  Args:
    counts: S visual tokens after each site.
    space: the search space.
    constraints: with concrete limits.
    measures: see `measure`.
  """
  values = measure(counts, space, constraints, measures)
  return {
    c.name: float(values[c.name])
    for c in constraints
    if values[c.name] > float(c.limit) * (1 + ROUNDING)
  }


def least_counts(space: space_lib.SearchSpace) -> tuple[int, ...]:
  """The fewest whole tokens after each site: 1 from a free site on."""
  counts, before = [], space.tokens
  constant = expected.constant_shares(space)
  for index in range(len(space.sites)):
    if space.count_is_free(index):
      before = 1
    elif space.counts is not None:
      before = min(before, space.counts[index])
    else:
      before = max(1, int(before * constant[index]))
    counts.append(before)
  return tuple(counts)


def check_reachable(
  space: space_lib.SearchSpace,
  constraints: tuple[constraints_lib.Constraint, ...],
  measures: Measures | None = None,
) -> None:
  """Raises `cost.UnreachableBudget` where no plan of the space meets a limit.

  Args:
    space: the search space.
    constraints: with concrete limits.
    measures: see `measure`.
  """
  least = exceeded(least_counts(space), space, constraints, measures)
  limits = {c.name: float(c.limit) for c in constraints}
  for name, value in least.items():
    early = min(space.first_layer)
    why = f"{early} of {space.layers} decoder layers run before the first site"
    raise cost.UnreachableBudget(
      value,
      f"{why} {space.sites[0]!r} with all {space.tokens} tokens; add an earlier"
      f" site, or raise the limit {limits[name]:g}",
      measure=name.replace("_", " "),
    )


def total_loss(
  task: Float[Array, ""],
  values: Mapping[str, Float[Array, ""]],
  multipliers: Mapping[str, Float[Array, ""]],
  *,
  constraints: tuple[constraints_lib.Constraint, ...],
  penalty: float,
  alignment: Scalar = 0.0,
  align: float = 0.0,
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
  """Task loss + `align` * alignment + a Lagrangian term per constraint.

  Gradients: to be descended by policy and model, and *ascended* by the
  multipliers (`optimizer.make_optimizer`). Only the constraint terms depend on
  the multipliers, so each of them gets its own violation as gradient.

  Args:
    task: loss of the task.
    values: measured values by constraint name.
    multipliers: Lagrange multipliers by constraint name.
    constraints: the constraints.
    penalty: weight of the quadratic term, see `constraints.lagrangian`.
    alignment: distance of hidden states to those of the unreduced model.
    align: weight of `alignment`.

  Returns:
    The total and its parts: "task", "alignment", and for each constraint
    "value/", "violation/" (relative; negative is slack) and "multiplier/".
  """
  total = task + align * alignment
  metrics = {"task": task, "alignment": alignment}
  for constraint in constraints:
    name = constraint.name
    excess = constraints_lib.violation(values[name], constraint.limit)
    total = total + constraints_lib.lagrangian(
      excess, multipliers[name], penalty=penalty
    )
    metrics |= {
      f"value/{name}": values[name],
      f"violation/{name}": excess,
      f"multiplier/{name}": multipliers[name],
    }
  return total, metrics | {"total": total}
