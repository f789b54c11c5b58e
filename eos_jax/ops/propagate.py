"""Stage 5: what later layers must know about the output rows."""

import jax
import jax.numpy as jnp

from eos_jax.array_typing import Array, Float
from eos_jax.ops import site as site_lib
from eos_jax.ops import types

# Sizes grown by similarity can fall to 0 or below; their log counts from here.
_LEAST_SIZE = 1e-6


def propagate(
  site: site_lib.Site,
  selection: site_lib.Selection,
  y: Float[Array, "K D"],
  size: Float[Array, "K"],
) -> types.TokenSet:
  """The output rows as a `TokenSet`.

  Attention bias `b' = b + delta (log s' - log s) + rho_attn log w`, with w the
  sigmoid of the score: delta = 1 is ToMe's proportional attention (log size
  added to the logits of a key), and reweighting acts on attention because a
  normalisation layer cancels a pure scaling of the features. Rows without a
  token of their own start from bias 0 and size 1.

  Args:
    site: V tokens, scores and numbers.
    selection: the K output rows.
    y: [K, D] their features.
    size: [K] their sizes.

  Returns:
    K tokens with the original raster positions of the rows they stand for.
    Empty rows have size 1 and bias 0.
  """
  tokens, params, take = site.tokens, site.params, selection.take
  there = types.present(selection.log_mass)
  size = jnp.where(there, size, 1)
  bias, before = take(tokens.bias), take(tokens.size)
  bias = selection.where_centred(bias, 0)
  before = selection.where_centred(before, 1)
  log = lambda value: jnp.log(jnp.maximum(value, _LEAST_SIZE))
  bias += params.delta * (log(size) - log(before))
  weight = jax.nn.log_sigmoid(take(site.scores))
  bias += params.rho_attn * params.activation * weight
  return types.TokenSet(
    x=y,
    log_mass=selection.log_mass,
    size=size,
    bias=jnp.where(there, bias, 0),
    position=take(tokens.position),
    image=take(tokens.image),
  )
