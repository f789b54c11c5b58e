"""Rounds a policy to a static plan with whole tokens, never above its limit."""

import dataclasses

import numpy as np

from eos_jax import ops
from eos_jax.search import expected
from eos_jax.search import policy as policy_lib
from eos_jax.search import space as space_lib

# A strength below this changes less than float noise between runs does.
_NEGLIGIBLE = 0.01


def discretize(
  policy: policy_lib.Policy,
  space: space_lib.SearchSpace,
  *,
  limit: float,
  model: str,
  name: str = "searched",
  note: str = "",
) -> ops.ReductionPlan:
  """The plan nearest to a policy whose layer average is at most `limit`.

  Counts of sites that the search moved are scaled together until their average
  is the limit, rounded down, and then raised one token at a time, where
  rounding took the largest share, as long as the limit allows. A site at which
  the count does not fall is left out unless it changes tokens otherwise.

  Args:
    policy: the searched policy.
    space: its space.
    limit: layer average of visual tokens that must not be exceeded.
    model: name of the model that the plan is for.
    name: name of the plan and of its operators.
    note: free text for readers of the plan.

  Returns:
    A plan with static counts of at least one token, not increasing, and all
    operator numbers spelled out. Not differentiable.

  Raises:
    cost.UnreachableBudget: one token per site is still above the limit.
  """
  params = policy_lib.decode(policy, space)
  counts = whole_counts(
    np.asarray(expected.site_counts(params, space), np.float64),
    space,
    limit=limit,
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
  relaxed: np.ndarray, space: space_lib.SearchSpace, *, limit: float
) -> list[int]:
  """Whole counts after each site for real-valued ones, see `discretize`.

  Args:
    relaxed: [S] counts, not increasing.
    space: the search space.
    limit: layer average that must not be exceeded.

  Returns:
    S counts between 1 and V, not increasing.
  """
  expected.check_reachable(space, limit)
  weights = expected.layer_weights(space)
  room = limit * space.layers - weights[0] * space.tokens + expected.ROUNDING
  weights = weights[1:]

  def scaled(factor):
    counts, before = [], float(space.tokens)
    for index, count in enumerate(relaxed):
      count = factor * count if space.count_is_free(index) else count
      before = min(max(count, 1.0), before)
      counts.append(before)
    return np.array(counts)

  low, high = 0.0, float(space.tokens)
  for _ in range(60):  # bisection; the weighted sum rises with the factor
    middle = (low + high) / 2
    low, high = (
      (low, middle) if weights @ scaled(middle) > room else (middle, high)
    )
  target = scaled(low)
  paid = [i for i in range(len(weights)) if weights[i] > 0]
  counts = np.ones(len(weights), int)
  counts[paid] = _fit(target[paid], weights[paid], room, space.tokens)
  before = space.tokens
  for index in range(len(counts)):
    if weights[index] == 0:
      # Free of charge: another site cuts again before the next layer runs.
      counts[index] = np.clip(
        round(target[index]), counts[index:].max(), before
      )
    before = counts[index]
  return [int(count) for count in counts]


def _fit(target, weights, room, tokens):
  """Whole, non-increasing counts near `target` with weighted sum <= `room`."""
  # The sliver keeps a target of 12 that bisection left just below it a 12.
  counts = np.floor(target + 1e-6).astype(int)
  while weights @ counts > room:  # constant counts alone are too many
    counts[np.flatnonzero(counts == counts.max())[-1]] -= 1
  while True:
    slack = room - weights @ counts
    ceiling = np.concatenate([[tokens], counts[:-1]])
    can_rise = (counts < ceiling) & (weights <= slack)
    if not can_rise.any():
      return counts
    counts[np.argmax(np.where(can_rise, target / counts, -np.inf))] += 1


def _spec_at(params, index, space, name):
  """The space's spec with the decoded numbers of one site."""
  numbers = {}
  for field in dataclasses.fields(params):
    value = np.asarray(getattr(params, field.name))[index]
    numbers[field.name] = (
      tuple(float(v) for v in value) if value.ndim else float(value)
    )
  return space.spec.replace(name=name, **numbers)


def _acts_without_removal(spec):
  """Whether an operator changes tokens although all of them stay."""
  strength = max(spec.rho, spec.rho_attn)
  if spec.sources == "all":
    strength = max(strength, spec.gamma)
  return spec.activation * strength > _NEGLIGIBLE
