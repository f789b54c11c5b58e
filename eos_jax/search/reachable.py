"""Which limits whole counts meet, and whether a space can meet them at all."""

from eos_jax import cost
from eos_jax.search import constraints as constraints_lib
from eos_jax.search import expected
from eos_jax.search import space as space_lib
from eos_jax.search.objective import Measures, measure

# What the product of a fractional limit and a number of layers may be off by.
ROUNDING = 1e-9


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
    measures: see `objective.measure`.
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
    measures: see `objective.measure`.
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
