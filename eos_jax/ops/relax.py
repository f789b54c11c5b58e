"""Ways to relax a hard decision, other than annealing the soft top-k.

Each acts on what `reduce_soft` is given or returns; `reduce_hard` knows nothing
of them.
"""

import math

import jax
import jax.numpy as jnp

from eos_jax.array_typing import Array, Float, Scalar
from eos_jax.ops import types


def logistic_jitter(
  key: Array, shape: tuple[int, ...], *, temperature: Scalar
) -> Float[Array, "..."]:
  """Logistic noise for `reduce_soft(jitter=...)`, scaled by a temperature.

  Args:
    key: random key.
    shape: of the result, `(V,)` for one example.
    temperature: [] that of the soft top-k: the noise then moves a mass as much
      at any temperature.
  """
  return temperature * jax.random.logistic(key, shape)


def straight_through(soft: types.Reduced, hard: types.Reduced) -> types.Reduced:
  """The hard result, with the gradients of the soft one.

  Straight-through estimator (Bengio et al., arXiv 1308.3432) on every real
  number of a result; masses of removed tokens are `LOG_ZERO`, so that nothing
  downstream sees them and no gradient comes back through them. So the gradient
  by a number to keep knows nothing of what another token would bring: a search
  has to take that one from a soft pass (`training.search` does).

  Args:
    soft: of `reduce_soft`.
    hard: of `reduce_masked`, on the same tokens.

  Returns:
    `hard`, differentiable as `soft` is.
  """

  def both(relaxed, exact):
    if not jnp.issubdtype(exact.dtype, jnp.floating):
      return exact
    slope = relaxed - jax.lax.stop_gradient(relaxed)  # value 0
    return jax.lax.stop_gradient(exact) + slope

  return jax.tree.map(both, soft, hard)


def noise_gate(
  key: Array, x: Float[Array, "*B V D"], log_share: Float[Array, "*B V"]
) -> Float[Array, "*B V D"]:
  """Replaces what is gone of each token by noise of the same variance.

  Tokens stay visible to attention: a gate that fades a token instead of masking
  it (variance-preserving noise gating, arXiv 2603.07135):
  `sqrt(p) x + sqrt(1 - p) rms(x) noise`.

  Args:
    key: draws the noise.
    x: [*B, V, D] features.
    log_share: [*B, V] log of the share p of each token that is left, <= 0.

  Returns:
    [*B, V, D] features of the same root mean square, in expectation. Gradients
    reach x and the shares; by a share the slope of either root is at most 501.
  """
  dtype = types.working_dtype(x.dtype)
  share = jnp.exp(log_share)
  kept, gone = _root(share), _root(1.0 - share)
  rms = jnp.sqrt(jnp.mean(jnp.square(x.astype(dtype)), axis=-1) + 1e-12)
  noise = jax.random.normal(key, x.shape, dtype)
  mixed = kept[..., None] * x.astype(dtype)
  return (mixed + (gone * rms)[..., None] * noise).astype(x.dtype)


def _root(share: Array) -> Array:
  """About the square root, exact at 0 and 1, with a finite slope at 0.

  At a whole number to keep and a low temperature, the share of the first
  removed token takes the whole slope of the number, however small it is.
  """
  low = 1e-6
  span = math.sqrt(1.0 + low) - math.sqrt(low)
  return (jnp.sqrt(share + low) - math.sqrt(low)) / span


def indecision(
  log_mass: Float[Array, "*B V"], before: Float[Array, "*B V"]
) -> Float[Array, ""]:
  """How far masses are from 0 and 1: mean cross-entropy to the nearer one.

  To be weighted into a loss with a rising weight, so that a relaxation decides
  before it is rounded (ramped binarisation, arXiv 2510.16598).

  Args:
    log_mass: [*B, V] log masses after a site.
    before: [*B, V] log masses that reached it; absent tokens do not count.

  Returns:
    [] nats, 0 where every token is kept or removed; differentiable in both.
  """
  share = jnp.exp(log_mass - before)
  nearer = jnp.maximum(jnp.maximum(share, 1.0 - share), 0.5)
  weight = jax.lax.stop_gradient(jnp.exp(before))
  total = jnp.sum(weight * -jnp.log(nearer))
  return total / jnp.maximum(jnp.sum(weight), 1e-6)
