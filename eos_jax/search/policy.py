"""Unconstrained variables of a search, and the numbers they stand for."""

from collections.abc import Sequence
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from eos_jax import ops
from eos_jax.array_typing import Array, Float
from eos_jax.search import constraints as constraints_lib
from eos_jax.search import expected, objective, reachable
from eos_jax.search import space as space_lib

Policy = dict[str, Float[Array, "S ..."]]

# A warm start keeps this share of a range away from its ends, and gives this
# share of a mixture to its idle members: at the very end of a sigmoid or a
# softmax a variable has no gradient and could never leave.
_MARGIN = 0.02
# A warm start's sites act almost fully; 1 would have no gradient either.
_ACTIVATION = 0.9


def decode(policy: Policy, space: space_lib.SearchSpace) -> ops.OperatorParams:
  """Maps a policy to operator numbers.

  Bounded numbers pass a sigmoid, mixtures a softmax, and tau is its floor plus
  an exponential, so equal steps are equal ratios.

  Args:
    policy: unconstrained arrays, one entry for every free field.
    space: the search space; what is not free comes from it as a constant.

  Returns:
    Operator numbers, float32, every leaf with a leading site axis `[S, ...]`.
    Constants have zero gradient.
  """
  if set(policy) != set(space.fields):
    raise ValueError(
      f"policy has fields {sorted(policy)}, but the space frees"
      f" {sorted(space.fields)}; make it with init_policy(space, ...)."
    )
  values = {
    field.name: jnp.asarray(_constant(space, field.name))
    for field in dataclasses.fields(ops.OperatorParams)
  }
  moves = np.array([space.site_is_free(i) for i in range(len(space.sites))])
  for name, raw in policy.items():
    free = moves.reshape((-1,) + (1,) * (raw.ndim - 1))
    values[name] = jnp.where(free, _squash(raw, name, space), values[name])
  return ops.OperatorParams(**values)


def init_policy(
  space: space_lib.SearchSpace,
  *,
  constraints: tuple[constraints_lib.Constraint, ...] = (),
  measures: objective.Measures | None = None,
  multiple: float = 1.0,
  decay: float | None = None,
  counts: Sequence[float] | np.ndarray | None = None,
) -> Policy:
  """Warm start: the numbers of the spec, at a chosen number of tokens.

  Args:
    space: the search space.
    constraints: limits that the search is meant to meet.
    measures: of further costs, see `objective.measure`.
    multiple: the start's costs as a multiple of the limit that binds first;
      above 1 leaves the search something to decide.
    decay: share of its tokens that every site after the first keeps; the first
      one is fitted. Without it, or where it is too small for those limits, one
      fitted share serves all sites.
    counts: visual tokens after each site, instead of all of these.

  Returns:
    A dict of float32 arrays with a leading site axis.

  Raises:
    cost.UnreachableBudget: the sites cannot meet a limit.
  """
  if counts is None:
    wider = tuple(
      dataclasses.replace(c, limit=multiple * c.limit) for c in constraints
    )
    reachable.check_reachable(space, wider, measures)
    counts = _fitted_counts(space, wider, measures, decay)
  elif len(counts) != len(space.sites):
    raise ValueError(
      f"counts={list(counts)} needs one number per site, {len(space.sites)}."
    )
  activation, retention = _acting(space, expected.shares(counts, space))
  start = {"activation": activation, "retention": retention}
  policy = {}
  for name in space.fields:
    value = start.get(name, _constant(space, name).astype(np.float64))
    policy[name] = jnp.asarray(_unsquash(value, name, space), jnp.float32)
  return policy


def _fitted_counts(space, constraints, measures, decay):
  """Counts after each site, at least 1, that the first limit to bind allows."""
  constant = expected.constant_shares(space)

  def walk(share):
    counts = [float(space.tokens)]
    first = True
    for index in range(len(space.sites)):
      keep = constant[index]
      if space.count_is_free(index):
        keep = share if first or decay is None else decay
        first = False
      counts.append(min(max(counts[-1] * keep, 1.0), counts[-1]))
    return counts[1:]

  def fits(counts):
    counts = jnp.asarray(counts, jnp.float32)
    values = objective.measure(counts, space, constraints, measures)
    return all(values[c.name] <= c.limit for c in constraints)

  if fits(walk(1.0)):
    decay = None
  low, high = 1e-6, 1.0
  for _ in range(40):  # bisection in the logarithm; costs rise in the share
    middle = float(np.sqrt(low * high))
    low, high = (middle, high) if fits(walk(middle)) else (low, middle)
  return walk(low)


def _acting(space, shares):
  """Activation and retention `[S]` that keep the given shares of the tokens."""
  if "how_many" not in space.free:
    retention = _constant(space, "retention").astype(np.float64)
    removed = np.maximum(1.0 - retention, 1e-6)
    return np.clip((1.0 - shares) / removed, 0.0, 1.0), retention
  activation = _constant(space, "activation").astype(np.float64)
  if "where" in space.free:
    # Not above the share that has to go, however small the share that stays.
    activation = 1.0 - np.minimum(1.0 - _ACTIVATION, shares / 2.0)
  return activation, 1.0 - (1.0 - shares) / activation


def _constant(space, name):
  """The value of a field at all sites where the search does not move it."""
  number = np.asarray(getattr(space.spec, name), np.float32)
  rows = np.broadcast_to(number, (len(space.sites), *number.shape))
  if name == "retention" and space.counts is not None:
    kept = expected.shares(space.counts, space)
    rows = (1.0 - (1.0 - kept) / space.spec.activation).astype(np.float32)
  return rows


def _squash(raw, name, space):
  raw = raw.astype(jnp.float32)
  if name in space_lib.SIMPLEX:
    return jax.nn.softmax(raw, axis=-1)
  low, high = space.range_of(name)
  if name == "tau":
    return low + jnp.exp(raw)
  return low + (high - low) * jax.nn.sigmoid(raw)


def _unsquash(value, name, space):
  """Inverse of `_squash`, away from the ends where gradients die."""
  if name in space_lib.SIMPLEX:
    share = 1.0 - _MARGIN
    return np.log(share * value + _MARGIN / value.shape[-1])
  low, high = space.range_of(name)
  if name == "tau":
    return np.log(np.maximum(value - low, _MARGIN * low))
  share = (value - low) / (high - low)
  # Counts come from retention and activation; to clip these as tightly as the
  # rest would move the start away from the counts asked for.
  margin = 1e-3 if name in ("activation", "retention") else _MARGIN
  share = np.clip(share, margin, 1.0 - margin)
  return np.log(share / (1.0 - share))
