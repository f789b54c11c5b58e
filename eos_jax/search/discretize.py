"""Rounds a policy to a static plan of whole tokens that meets every limit."""

from collections.abc import Mapping, Sequence
import dataclasses

import numpy as np

from eos_jax import ops
from eos_jax.array_typing import Scalar
from eos_jax.search import constraints as constraints_lib
from eos_jax.search import expected, objective, reachable
from eos_jax.search import policy as policy_lib
from eos_jax.search import space as space_lib

# A strength below this changes less than float noise between runs does.
_NEGLIGIBLE = 0.01
# A search ends near its limit, not on it. One that is this near is
# meant to be there; one that stays further below does not want the rest.
NEAR = 0.1


def discretize(
  policy: policy_lib.Policy,
  space: space_lib.SearchSpace,
  *,
  constraints: tuple[constraints_lib.Constraint, ...],
  measures: objective.Measures | None = None,
  multipliers: Mapping[str, Scalar] | None = None,
  model: str,
  name: str = "searched",
  note: str = "",
  ceiling: Sequence[int] | None = None,
) -> ops.ReductionPlan:
  """The plan nearest to a policy that meets every limit.

  See `whole_counts` for the counts. A site at which the count does not fall is
  left out unless it changes tokens otherwise.

  Args:
    policy: the searched policy.
    space: its space.
    constraints: with concrete limits; none of them is exceeded.
    measures: of further costs, see `objective.measure`.
    multipliers: of the constraints at the end of the search, by name.
    model: name of the model that the plan is for.
    name: name of the plan and of its operators.
    note: free text for readers of the plan.
    ceiling: S greatest counts, such as those of the plan for a larger budget.

  Returns:
    A plan with static counts of at least one token, not increasing, and all
    operator numbers spelled out. Not differentiable.

  Raises:
    cost.UnreachableBudget: one token per site is still above a limit.
  """
  params = policy_lib.decode(policy, space)
  counts = whole_counts(
    np.asarray(expected.site_counts(params, space), np.float64),
    space,
    constraints=constraints,
    measures=measures,
    multipliers=multipliers,
    ceiling=ceiling,
  )
  sites = []
  before = space.tokens
  for index, count in enumerate(counts):
    spec = _spec_at(params, index, space, name)
    if count < before or _acts_without_removal(spec):
      sites.append(
        ops.PlannedSite(site=space.sites[index], keep=count, spec=spec)
      )
    before = count
  return ops.ReductionPlan(
    name=name,
    model=model,
    tokens=space.tokens,
    layers=space.layers,
    sites=tuple(sites),
    note=note,
  )


def whole_counts(
  relaxed: np.ndarray,
  space: space_lib.SearchSpace,
  *,
  constraints: tuple[constraints_lib.Constraint, ...],
  measures: objective.Measures | None = None,
  multipliers: Mapping[str, Scalar] | None = None,
  ceiling: Sequence[int] | None = None,
) -> list[int]:
  """Whole counts after each site that are near real ones and within limits.

  Counts of free sites are scaled together until all limits are met: down as far
  as it takes, and up to a limit that binds: one that 10 % more would reach, or
  whose multiplier is above 0, so that the search wants more than it allows
  (complementary slackness). Where none binds they are not scaled up. Rounded
  down, they are raised one token at a time, where rounding took the largest
  share, as long as every limit allows and up to the nearest whole number, or
  beyond where that uses up a limit.

  Args:
    relaxed: [S] counts, not increasing.
    space: the search space.
    constraints: with concrete limits.
    measures: of further costs, see `objective.measure`.
    multipliers: of the constraints at the end of the search, by name.
    ceiling: S greatest counts.

  Returns:
    S counts between 1 and V, not increasing.

  Raises:
    cost.UnreachableBudget: one token per site is still above a limit.
  """
  reachable.check_reachable(space, constraints, measures)
  relaxed = np.asarray(relaxed, np.float64)
  most = np.full(len(relaxed), space.tokens)
  if ceiling is not None:
    most = np.minimum(most, ceiling)

  def scaled(factor):
    counts, before = [], float(space.tokens)
    for index, count in enumerate(relaxed):
      count = factor * count if space.count_is_free(index) else count
      before = min(max(count, 1.0), before, float(most[index]))
      counts.append(before)
    return np.array(counts)

  def floored(factor):
    # The sliver keeps a target of 12 that arithmetic left just below it a 12.
    return np.floor(scaled(factor) + 1e-6).astype(int)

  def fits(counts):
    counts = tuple(int(n) for n in counts)
    return not reachable.exceeded(counts, space, constraints, measures)

  near = 1.0 + NEAR
  if multipliers and any(float(multipliers[c.name]) > 0 for c in constraints):
    near = space.tokens / relaxed.min()
  if fits(np.ceil(scaled(near)).astype(int)):  # slack: nothing has to be scaled
    target, bound = scaled(1.0), False
  else:
    low, high = 0.0, near
    for _ in range(60):  # bisection: costs rise with the factor
      middle = (low + high) / 2
      low, high = (middle, high) if fits(floored(middle)) else (low, middle)
    target, bound = scaled(low), True
  counts = np.floor(target + 1e-6).astype(int)
  while not fits(counts):  # constant counts alone are too many
    counts[np.flatnonzero(counts == counts.max())[-1]] -= 1
  values = lambda counts: objective.measure(
    tuple(int(n) for n in counts), space, constraints, measures
  )
  while True:
    best = None
    for index in np.argsort(-target / counts, kind="stable"):
      before = counts[index - 1] if index else space.tokens
      if counts[index] >= min(before, most[index]):
        continue
      raised = counts.copy()
      raised[index] += 1
      # A token that costs nothing uses no limit up.
      wanted = raised[index] <= round(target[index]) or (
        bound and values(raised) != values(counts)
      )
      if wanted and fits(raised):
        best = raised
        break
    if best is None:
      return [int(count) for count in counts]
    counts = best


def plan_counts(
  plan: ops.ReductionPlan, space: space_lib.SearchSpace
) -> tuple[int, ...]:
  """Tokens after each site of a space under a plan of its sites."""
  counts, before = [], space.tokens
  for site in space.sites:
    planned = plan.at(site)
    before = before if planned is None else planned.keep
    counts.append(before)
  return tuple(counts)


def _spec_at(params, index, space, name):
  """The space's spec with the decoded numbers of one site."""
  numbers = {}
  for field in dataclasses.fields(params):
    value = np.asarray(getattr(params, field.name))[index]
    numbers[field.name] = (
      tuple(map(_decimal, value)) if value.ndim else _decimal(value)
    )
  return space.spec.replace(name=name, **numbers)


def _decimal(number):
  """The shortest decimal that float32, in which operators run, rounds to it."""
  return float(str(np.float32(number)))


def _acts_without_removal(spec):
  """Whether an operator changes tokens although all of them stay."""
  strength = max(spec.rho, spec.rho_attn)
  if spec.sources == "all":
    strength = max(strength, spec.gamma)
  return spec.activation * strength > _NEGLIGIBLE
