"""How many visual tokens a policy keeps, and what constraints ask of counts.

Counts are visual tokens after each site of a space, the class token not
counted: an array of real numbers with gradients while a search runs, whole
numbers once it is rounded. The measures here and in `measures` take both, and
are exact for whole numbers.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from eos_jax import cost, ops
from eos_jax.array_typing import Array, Float
from eos_jax.search import space as space_lib

Counts = Sequence[int] | Float[Array, "S"]


def site_counts(
  params: ops.OperatorParams, space: space_lib.SearchSpace
) -> Float[Array, "S"]:
  """Expected visual tokens after each site.

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


def layer_counts(
  counts: Counts, space: space_lib.SearchSpace
) -> list[int] | Float[Array, "L"]:
  """Visual tokens that enter each decoder layer, for counts after sites [S].

  >>> space = space_lib.SearchSpace(("decoder.1", "decoder.3"), tokens=9,
  ...                               layers=4, spec=ops.presets.HYBRID)
  >>> layer_counts((5, 2), space)
  [9, 5, 5, 2]
  """
  reached = np.searchsorted(
    space.first_layer, np.arange(space.layers), side="right"
  )
  if isinstance(counts, jax.Array):
    full = jnp.full(1, space.tokens, counts.dtype)
    return jnp.concatenate([full, counts])[reached]
  edges = (space.tokens, *counts)
  return [edges[index] for index in reached]


def layer_average(
  counts: Counts, space: space_lib.SearchSpace
) -> float | Float[Array, ""]:
  """Visual tokens after sites [S], averaged over the decoder layers."""
  return cost.layer_average(layer_counts(counts, space))


def final_count(
  counts: Counts, space: space_lib.SearchSpace
) -> int | Float[Array, ""]:
  """Visual tokens after the last site, of counts after sites [S]."""
  return cost.final_count(layer_counts(counts, space))


# Measures that need nothing but the space; see `objective.measure`.
MEASURES = {"layer_average": layer_average, "final_count": final_count}


def shares(
  counts: Sequence[float] | np.ndarray, space: space_lib.SearchSpace
) -> Float[np.ndarray, "S"]:
  """Share of its tokens that each site keeps, for given counts after sites."""
  counts = np.asarray(counts, np.float64)
  before = np.concatenate([[space.tokens], counts[:-1]])
  return counts / before


def constant_shares(space: space_lib.SearchSpace) -> Float[np.ndarray, "S"]:
  """Share of its tokens that each site keeps where the search moves nothing."""
  if space.counts is not None:
    return shares(space.counts, space)
  kept = 1.0 - space.spec.activation * (1.0 - space.spec.retention)
  return np.full(len(space.sites), kept)
