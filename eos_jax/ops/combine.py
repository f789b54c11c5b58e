"""Stage 4: features and sizes of the output rows."""

import jax
import jax.numpy as jnp

from eos_jax.array_typing import Array, Float
from eos_jax.ops import select, types

# Smallest sum of weights that a mean divides by.
_LEAST_WEIGHT = 1e-6


def _weights(name, size, importance):
  """Per-token weight of a source or receiver: "one", "size" or "score"."""
  if name == "one":
    return jnp.ones_like(size)
  return size if name == "size" else importance


def combine(
  site: select.Site,
  selection: select.Selection,
  shares: Float[Array, "V K"],
) -> tuple[Float[Array, "K D"], Float[Array, "K"]]:
  """Adds to each output row what the removed tokens send it.

  With e the source weights, c_k the sum and mu_k the mean that reach row k,

      y_k = [(chi + rho w_k) x_k + gamma c_k^(1 - zeta) mu_k]
            * (1 + gamma c_k)^(-eta)
      s'_k = s_k + gamma sum_j W^_jk (m_j - m'_j) s_j

  eta = 1, zeta = 0, alpha = beta = size is the size-weighted mean of ToMe;
  eta = 0, zeta = 1 a token plus the mean of its sources (VisionZip); eta = 0,
  zeta = 0, alpha = score a token plus a weighted sum (PruMerge). Rows without
  a token of their own (pooled cells) start from size 0. Nothing is divided by
  a kept mass. `activation` scales rho, and gamma where all tokens are sources.

  Args:
    site: V tokens, scores and numbers.
    selection: which mass leaves its row, and the K output rows.
    shares: [V, K] `W^`.

  Returns:
    [K, D] features in the dtype of the tokens, and [K] float32 sizes.
  """
  tokens, params, spec = site.tokens, site.params, site.spec
  x = types.working(tokens.x)
  importance = jax.nn.sigmoid(site.scores)
  removed = jnp.exp(selection.log_rest)
  rho, gamma = params.rho * params.activation, params.gamma
  leaving = removed
  if spec.sources == "all":
    leaving, gamma = jnp.exp(tokens.log_mass), gamma * params.activation
  source = leaving * _weights(spec.alpha, tokens.size, importance)
  own = selection.take(_weights(spec.beta, tokens.size, importance))
  own = own if selection.centred else jnp.ones_like(own)
  scale = spec.chi + rho * selection.take(importance)
  size = selection.take(tokens.size)
  size = size if selection.centred else jnp.zeros_like(size)
  y = scale[:, None] * selection.take(x)
  if spec.assign == "none":
    return y.astype(tokens.x.dtype), size
  weight = source @ shares
  gained = (removed * tokens.size) @ shares
  moved = shares.T @ (source[:, None] * x)
  total = weight / own
  divisor = jnp.maximum(weight, _LEAST_WEIGHT) if spec.zeta else own
  y += gamma * moved / divisor[:, None]
  y *= (1 + gamma * total)[:, None] ** -params.eta
  return y.astype(tokens.x.dtype), size + gamma * gained
