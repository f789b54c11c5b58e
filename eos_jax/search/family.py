"""One policy for every budget: variables at knots, joined by straight lines.

Every array of a family has a leading axis: a row for each knot, and one that
all budgets share, which is added. At a budget between two knots the knots' rows
are interpolated, linearly in the logarithm of the budget. A step of a search
draws one budget: what serves all of them is learned in every step, what serves
one in those nearby. The multipliers of a budget's limit have knots alone.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from eos_jax import ops
from eos_jax.array_typing import Array, Float, Scalar
from eos_jax.search import constraints as constraints_lib
from eos_jax.search import expected, objective
from eos_jax.search import policy as policy_lib
from eos_jax.search import space as space_lib
from eos_jax.search.discretize import NEAR, discretize, plan_counts

# Fractional parts of its multiples are spread evenly, however many are taken.
_GOLDEN = (math.sqrt(5.0) - 1.0) / 2.0


@dataclasses.dataclass(frozen=True)
class Knots:
  """Budgets at which a family has variables of its own.

  Attributes:
    budgets: layer averages of visual tokens, rising, at least two.
  """

  budgets: tuple[float, ...]

  def __post_init__(self):
    rising = all(
      a < b for a, b in zip(self.budgets, self.budgets[1:], strict=False)
    )
    if len(self.budgets) < 2 or self.budgets[0] <= 0 or not rising:
      raise ValueError(
        f"budgets={self.budgets} of the knots must be at least two positive"
        " numbers, rising"
      )

  @classmethod
  def spread(cls, least: float, most: float, number: int) -> "Knots":
    """`number` knots in equal ratios from `least` to `most`.

    >>> [round(b, 3) for b in Knots.spread(4.0, 16.0, 3).budgets]
    [4.0, 8.0, 16.0]
    """
    if number < 2 or not 0 < least < most:
      raise ValueError(
        f"knots from {least} to {most} in a number of {number}: give two or"
        " more, from a positive budget to a larger one"
      )
    found = np.geomspace(least, most, number)
    return cls((float(least), *map(float, found[1:-1]), float(most)))

  def weights(self, budget: Scalar) -> Float[Array, "K"]:
    """Share of each knot at a budget [], which may be traced; the sum is 1.

    Outside of the knots the nearest one alone counts.

    >>> Knots((4.0, 8.0, 16.0)).weights(8.0).tolist()
    [0.0, 1.0, 0.0]
    """
    places = jnp.log(jnp.asarray(self.budgets, jnp.float32))
    at = jnp.clip(
      jnp.log(jnp.asarray(budget, jnp.float32)), places[0], places[-1]
    )
    gaps = jnp.diff(places)
    rise = jnp.clip((at - places[:-1]) / gaps, 0.0, 1.0)
    # How far the budget lies beyond each knot; the shares are the differences.
    beyond = jnp.concatenate([jnp.ones(1), rise, jnp.zeros(1)])
    return beyond[:-1] - beyond[1:]

  def budget_at(self, step: Scalar) -> Float[Array, ""]:
    """Budget of a step: spread evenly in the logarithm over any run of steps.

    Args:
      step: [] number of the step, traced or not.
    """
    low, high = math.log(self.budgets[0]), math.log(self.budgets[-1])
    # Both ends are reached: a limit that is never drawn has no multiplier.
    share = jnp.mod((jnp.asarray(step) + 0.5) * _GOLDEN, 1.0)
    stretched = jnp.clip(1.1 * share - 0.05, 0.0, 1.0)
    return jnp.exp(low + (high - low) * stretched)


def init_family(
  space: space_lib.SearchSpace,
  knots: Knots,
  *,
  multiple: float = 1.0,
  decay: float | None = None,
) -> policy_lib.Policy:
  """Warm start of a family: `init_policy` at the layer average of each knot.

  Args:
    space: the search space.
    knots: of the family.
    multiple: see `init_policy`.
    decay: see `init_policy`.

  Returns:
    A policy of arrays [K + 1, S, ...], the last row 0.

  Raises:
    cost.UnreachableBudget: the sites cannot reach the smallest budget.
  """
  policies = [
    policy_lib.init_policy(
      space,
      constraints=constraints_lib.limits(layer_average=budget),
      multiple=multiple,
      decay=decay,
    )
    for budget in knots.budgets
  ]
  shared = jax.tree.map(jnp.zeros_like, policies[0])
  return jax.tree.map(lambda *leaves: jnp.stack(leaves), *policies, shared)


def at(family: Any, knots: Knots, budget: Scalar) -> Any:
  """The member of a family at a budget.

  Args:
    family: tree of arrays [K + 1, ...], or [K, ...] without a shared row.
    knots: of the family.
    budget: [] layer average, may be traced.

  Returns:
    A tree of arrays [...]. Gradients reach the two nearest knots, and
    the shared row.
  """
  weights = jnp.append(knots.weights(budget), 1.0)

  def member(leaf):
    rows = len(knots.budgets)
    if leaf.shape[0] not in (rows, rows + 1):
      raise ValueError(
        f"an array of the family has {leaf.shape[0]} rows, expected {rows}, one"
        " a knot, and perhaps one that is shared"
      )
    return jnp.tensordot(weights[: leaf.shape[0]], leaf, axes=1)

  return jax.tree.map(member, family)


def binding(
  family: policy_lib.Policy,
  space: space_lib.SearchSpace,
  knots: Knots,
  budget: float,
  multipliers: Mapping[str, Float[Array, "K"]],
) -> dict[str, float]:
  """Multipliers of all constraints at a budget, for `whole_counts`.

  A search that uses up a budget wants more than every smaller one: where a knot
  at or above this budget rests on its own, multipliers are at least 1. Between
  knots a policy may lie below a limit all the same.

  Args:
    family: the searched policies [K + 1, S, ...].
    space: the search space.
    knots: of the family.
    budget: layer average between the smallest and the largest knot.
    multipliers: of all constraints at the knots.
  """
  found = {n: float(v) for n, v in at(multipliers, knots, budget).items()}
  for knot in knots.budgets:
    params = policy_lib.decode(at(family, knots, knot), space)
    counts = expected.site_counts(params, space)
    average = float(expected.layer_average(counts, space))
    if knot >= budget and average >= (1 - NEAR) * knot:
      return constraints_lib.wanted(found)
  return found


def plans(
  family: policy_lib.Policy,
  space: space_lib.SearchSpace,
  knots: Knots,
  budgets: Sequence[float],
  *,
  constraints: tuple[constraints_lib.Constraint, ...] = (),
  measures: objective.Measures | None = None,
  multipliers: Mapping[str, Float[Array, "K"]] | None = None,
  model: str,
  name: str = "searched",
) -> dict[float, ops.ReductionPlan]:
  """Plans of a family for any budgets, monotone: less never keeps more.

  Args:
    family: the searched policies [K + 1, S, ...].
    space: the search space.
    knots: of the family.
    budgets: layer averages between the smallest and the largest knot.
    constraints: further limits, which all plans meet.
    measures: of further costs, see `objective.measure`.
    multipliers: of all constraints at the knots, see `whole_counts`.
    model: name of the model.
    name: of the plans; "@" and the budget follow.

  Returns:
    Plans by budget, from the largest budget to the smallest. At each site a
    plan keeps at most as many tokens as the one before it.

  Raises:
    ValueError: a budget outside of the knots.
    cost.UnreachableBudget: one token per site is still above a limit.
  """
  outside = [
    b for b in budgets if not knots.budgets[0] <= b <= knots.budgets[-1]
  ]
  if outside:
    raise ValueError(
      f"budgets {outside} lie outside of the family, which was searched from"
      f" {knots.budgets[0]:g} to {knots.budgets[-1]:g}"
    )
  found, ceiling = {}, (space.tokens,) * len(space.sites)
  for budget in sorted(set(budgets), reverse=True):
    plan = discretize(
      at(family, knots, budget),
      space,
      constraints=(
        *constraints_lib.limits(layer_average=budget),
        *constraints,
      ),
      measures=measures,
      multipliers=multipliers
      and binding(family, space, knots, budget, multipliers),
      model=model,
      name=f"{name}@{budget:g}",
      ceiling=ceiling,
    )
    found[budget] = plan
    ceiling = plan_counts(plan, space)
  return found
