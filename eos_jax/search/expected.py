"""How many visual tokens a policy keeps: real numbers with gradients."""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np

from eos_jax import cost, ops
from eos_jax.array_typing import Array, Float
from eos_jax.search import space as space_lib


def site_counts(
  params: ops.OperatorParams, space: space_lib.SearchSpace
) -> Float[Array, "S"]:
  """Expected visual tokens after each site, the class token not counted.

  Args:
    params: decoded numbers with a leading site axis.
    space: the search space they belong to.

  Returns:
    Float32 counts, not increasing; differentiable in activation and retention.
  """
  current = jnp.float32(space.tokens)
  counts = []
  for index in range(len(space.sites)):
    current = ops.keep_count(
      current, params.activation[index], params.retention[index]
    )
    counts.append(current)
  return jnp.stack(counts)


def expected_counts(
  params: ops.OperatorParams, space: space_lib.SearchSpace
) -> Float[Array, "L"]:
  """Expected visual tokens that enter each decoder layer."""
  reached = np.searchsorted(
    space.first_layer, np.arange(space.layers), side="right"
  )
  counts = site_counts(params, space)
  return jnp.concatenate([jnp.full(1, space.tokens, jnp.float32), counts])[
    reached
  ]


def layer_average(
  params: ops.OperatorParams, space: space_lib.SearchSpace
) -> Float[Array, ""]:
  """Expected visual tokens, averaged over the decoder layers."""
  return cost.layer_average(expected_counts(params, space))


def final_count(
  params: ops.OperatorParams, space: space_lib.SearchSpace
) -> Float[Array, ""]:
  """Expected visual tokens after the last site."""
  return cost.final_count(expected_counts(params, space))


# What the product of a fractional limit and L may be off by.
ROUNDING = 1e-9

# Measures that need nothing but the space; see `objective.measure`.
MEASURES = {"layer_average": layer_average, "final_count": final_count}


def shares(
  counts: Sequence[float] | np.ndarray, space: space_lib.SearchSpace
) -> Float[np.ndarray, "S"]:
  """Share of its tokens that each site keeps, for given counts after sites."""
  counts = np.asarray(counts, np.float64)
  before = np.concatenate([[space.tokens], counts[:-1]])
  return counts / before


def layer_weights(
  space: space_lib.SearchSpace,
) -> Float[np.ndarray, "edges"]:
  """Decoder layers run before the first site's cut, then after each site's.

  The sum is L. A site has weight 0 where another one follows before the next
  decoder layer.
  """
  edges = np.array([0, *space.first_layer, space.layers], np.float64)
  return np.diff(edges)


def check_reachable(space: space_lib.SearchSpace, limit: float) -> None:
  """Raises `cost.UnreachableBudget` where one token a site is too many."""
  weights = layer_weights(space)
  least = float(weights[0] * space.tokens + weights[1:].sum()) / space.layers
  if least > limit + ROUNDING:
    raise cost.UnreachableBudget(
      least,
      f"{int(weights[0])} of {space.layers} decoder layers run before the first"
      f" site {space.sites[0]!r} with all {space.tokens} tokens; add an earlier"
      " site",
    )
