"""Checksums of arrays, wherever their parts are."""

from collections.abc import Mapping
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np

from eos_jax.array_typing import Array

_BITS = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32}


def sums(leaves: Mapping[str, Array], *, mixed: bool = False) -> dict[str, int]:
  """Returns the sum of the bits of each array.

  Numbers are weighted by their places, and the sum is modulo 2^32. Weights are
  odd: a number that changes changes the sum. The order of addition changes
  nothing, so that it is the same however an array is sharded. Every process of
  several gets the sums of whole arrays.

  Args:
    leaves: arrays by name.
    mixed: sum a hash of each number and its place instead, which also tells
      arrays apart that differ by a rule, such as by a factor of 2.
  """
  # One after the other: on a CPU that stands for several devices, many programs
  # with collectives at once wait for each other until XLA aborts the process.
  return {
    name: int(np.asarray(_sum(leaf, mixed))) for name, leaf in leaves.items()
  }


@functools.partial(jax.jit, static_argnames="mixed")
def _sum(array: Array, mixed: bool) -> Array:
  if array.dtype == bool:
    array = array.astype(jnp.uint8)
  if array.ndim < 3:
    return _added(array, jnp.uint32(0), mixed)
  size = math.prod(array.shape[1:]) % 2**32

  # A CPU holds all that it adds up: here that is one layer's.
  def add(layer, total):
    before = layer.astype(jnp.uint32) * jnp.uint32(size)
    return total + _added(array[layer], before, mixed)

  return jax.lax.fori_loop(0, array.shape[0], add, jnp.uint32(0))


def _added(array: Array, before: Array, mixed: bool) -> Array:
  """Sum of the bits of numbers, in front of which there are `before` others."""
  kind = _BITS[array.dtype.itemsize]
  bits = jax.lax.bitcast_convert_type(array, kind).astype(jnp.uint32)
  place, step = jnp.full(array.shape, before), 1
  for axis in reversed(range(array.ndim)):
    count = jax.lax.broadcasted_iota(jnp.uint32, array.shape, axis)
    place += jnp.uint32(step % 2**32) * count
    step *= array.shape[axis]
  terms = _hash(bits ^ _hash(place)) if mixed else bits * (2 * place + 1)
  return terms.sum(dtype=jnp.uint32)


def _hash(bits: Array) -> Array:
  """The last steps of MurmurHash3, a bijection of 32 bits."""
  for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
    bits = (bits ^ (bits >> shift)) * jnp.uint32(factor)
  return bits ^ (bits >> 16)
