"""Stage 4: features and sizes of the output rows."""

import jax
import jax.numpy as jnp

from eos_jax.array_typing import Array, Float
from eos_jax.ops import site as site_lib
from eos_jax.ops import types

# Smallest sum of weights that a mean divides by.
_LEAST_WEIGHT = 1e-6


def _weights(name, site, importance):
  """Per-token weight of a source or receiver, [V]."""
  if name == "one":
    return jnp.ones_like(importance)
  return {"size": site.tokens.size, "score": importance, "raw": site.raw}[name]


def combine(
  site: site_lib.Site,
  selection: site_lib.Selection,
  shares: Float[Array, "V K"],
) -> tuple[Float[Array, "K D"], Float[Array, "K"]]:
  """Adds to each output row what the removed tokens send it.

  With e the source weights, c_k the sum and mu_k the mean that reach row k,

      y_k = [(chi + rho w_k) x_k + gamma c_k^(1 - zeta) mu_k]
            * (1 + gamma c_k)^(-eta)
      s'_k = s_k + gamma sum_j W^_jk (m_j - m'_j) s_j

  eta = 1, zeta = 0, alpha = beta = size is the size-weighted mean of ToMe;
  eta = 0, zeta = 1 a token plus the mean of its sources (VisionZip); eta = 0,
  zeta = 0, alpha = raw a token plus a weighted sum (PruMerge). Rows without
  a token of their own start from 0 and size 0; where they hold a mean (pooled
  cells, clusters) zeta is 1, the fused row is a sum. `spec.sizes` says what
  receivers add to their size. Nothing is divided by a kept mass. `activation`
  scales rho, and gamma where all tokens are sources.

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
  source = leaving * _weights(spec.alpha, site, importance)
  own = selection.take(_weights(spec.beta, site, importance))
  own = selection.where_centred(own, 1)
  scale = spec.chi + rho * selection.take(importance)
  scale = selection.where_centred(scale, 0)
  size = selection.where_centred(selection.take(tokens.size), 0)
  y = scale[:, None] * selection.take(x)
  if spec.assign == "none" and not spec.fused:
    return y.astype(tokens.x.dtype), size
  weight = types.product(source, shares)
  moved = types.product(shares.T, source[:, None] * x)
  total = weight / own
  divisor = jnp.where(
    _is_mean(spec, selection), jnp.maximum(weight, _LEAST_WEIGHT), own
  )
  y += gamma * moved / divisor[:, None]
  # A row without a token of its own is no mean with itself.
  total = selection.where_centred(total, 0)
  y *= (1 + gamma * total)[:, None] ** -params.eta
  return y.astype(tokens.x.dtype), size + gamma * _gained(
    site, selection, shares, removed * tokens.size
  )


def _is_mean(spec, selection):
  """Where the sources of an output row are averaged, not summed, [K]."""
  mean = jnp.full(selection.index.shape[0], bool(spec.zeta))
  if selection.centred is not None:
    mean |= ~selection.centred
  return mean if selection.fused is None else mean & ~selection.fused


def _gained(site, selection, shares, sizes):
  """What output rows add to their size, [K]."""
  if site.spec.sizes == "keep":
    return selection.where_centred(jnp.zeros(shares.shape[1], sizes.dtype), 1)
  if site.spec.sizes == "similarity":
    shares = shares * selection.take(site.cosine, axis=1)
  return types.product(sizes, shares)
