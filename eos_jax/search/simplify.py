"""Leaves small parts out of mixtures, so that a plan need not compute them."""

import dataclasses

import jax.numpy as jnp

from eos_jax import ops
from eos_jax.array_typing import Array, Float, Scalar


def simplify(
  params: ops.OperatorParams, negligible: Scalar
) -> ops.OperatorParams:
  """Operator numbers without the small parts of their mixtures.

  A score that has a hundredth of a mixture changes hardly a decision, but costs
  as much as any other: attention rows need the keys of a layer. Search with
  them, and let the last steps do without, or rounding takes them away
  unprepared.

  Args:
    params: numbers [S, ...].
    negligible: share of scores (`pi`) and affinities (`omega`) below which one
      is left out; the greatest always stays. 0 leaves all in.

  Returns:
    The numbers, where what is left out has a share of exactly 0. Gradients
    reach the parts that stay.
  """
  return dataclasses.replace(
    params,
    pi=_without(params.pi, negligible),
    omega=_without(params.omega, negligible),
  )


def _without(
  shares: Float[Array, "S F"], negligible: Scalar
) -> Float[Array, "S F"]:
  greatest = jnp.max(shares, axis=-1, keepdims=True)
  stays = (shares >= negligible) | (shares == greatest)
  kept = jnp.where(stays, shares, 0)
  return kept / jnp.sum(kept, axis=-1, keepdims=True)
