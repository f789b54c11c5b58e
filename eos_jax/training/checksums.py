"""Checksums of arrays, wherever their parts are."""

from collections.abc import Mapping
import math

import jax
import jax.numpy as jnp
import numpy as np

from eos_jax.array_typing import Array

_BITS = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32}


def sums(leaves: Mapping[str, Array]) -> dict[str, int]:
  """Returns the sum of the bits of each array.

  Numbers are weighted by their places, and the sum is modulo 2^32. Weights are
  odd: a number that changes changes the sum. The order of addition changes
  nothing, so that it is the same however an array is sharded. Every process of
  several gets the sums of whole arrays.
  """
  # One after the other: on a CPU that stands for several devices, many programs
  # with collectives at once wait for each other until XLA aborts the process.
  return {name: int(np.asarray(_sum(leaf))) for name, leaf in leaves.items()}


@jax.jit
def _sum(array: Array) -> Array:
  if array.dtype == bool:
    array = array.astype(jnp.uint8)
  if array.ndim < 3:
    return _weighted(array, jnp.uint32(0))
  size = math.prod(array.shape[1:]) % 2**32

  # A CPU holds all that it adds up: here that is one layer's.
  def add(layer, total):
    before = layer.astype(jnp.uint32) * jnp.uint32(size)
    return total + _weighted(array[layer], before)

  return jax.lax.fori_loop(0, array.shape[0], add, jnp.uint32(0))


def _weighted(array: Array, before: Array) -> Array:
  """Sum of the bits of numbers, in front of which there are `before` others."""
  kind = _BITS[array.dtype.itemsize]
  bits = jax.lax.bitcast_convert_type(array, kind).astype(jnp.uint32)
  place, step = jnp.full(array.shape, before), 1
  for axis in reversed(range(array.ndim)):
    count = jax.lax.broadcasted_iota(jnp.uint32, array.shape, axis)
    place += jnp.uint32(step % 2**32) * count
    step *= array.shape[axis]
  return (bits * (2 * place + 1)).sum(dtype=jnp.uint32)
