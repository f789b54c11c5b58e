"""The three forms of an operator under jit, and examples to call them with.

Compiling once is much faster here than dispatching every operation.
"""

import jax
import jax.numpy as jnp

from eos_jax import ops

soft = jax.jit(ops.reduce_soft, static_argnames="spec")
masked = jax.jit(ops.reduce_masked, static_argnames="spec")
hard = jax.jit(ops.reduce_hard, static_argnames=("spec", "keep"))

GRID = (4, 4)
V, D = 16, 6


def example(seed, *, absent=(), dtype=jnp.float32):
  """Random tokens of a 4 x 4 picture, and every signal."""
  keys = jax.random.split(jax.random.key(seed), 18)
  attention = lambda key: jax.nn.softmax(jax.random.normal(key, (V,), dtype))
  valid = jnp.array([i not in absent for i in range(V)])
  tokens = ops.token_set(
    jax.random.normal(keys[0], (V, D), dtype) + 0.5, valid=valid
  )
  signals = ops.Signals(
    keys=jax.random.normal(keys[1], (V, 5), dtype),
    last_row=attention(keys[2]),
    last_row_previous=attention(keys[3]),
    text_rows=attention(keys[4]),
    class_row=attention(keys[5]),
    received=attention(keys[6]),
    text=jax.random.normal(keys[7], (3, D), dtype),
    noise=jax.random.uniform(keys[8], (V,), dtype),
    vision_keys=jax.random.normal(keys[9], (V, 5), dtype),
    rater_rows=attention(keys[10]),
    states=jax.random.normal(keys[11], (V, D), dtype),
    pivots=jax.random.normal(keys[12], (3, D), dtype),
    guide=jax.random.normal(keys[13], (V,), dtype),
    learned=jax.random.normal(keys[14], (V,), dtype),
    self_sums=attention(keys[15]),
    cross_sums=attention(keys[16]),
    grid=GRID,
  )
  return tokens, signals


def permuted(tokens, signals, order):
  """The same example with its tokens in another order."""
  rows = lambda a: a[order] if a.shape[0] == V else a
  return jax.tree.map(rows, tokens), jax.tree.map(rows, signals)


def double(tree):
  """A pytree of floats in float64 (under `jax.enable_x64`)."""
  return jax.tree.map(
    lambda a: (
      a.astype(jnp.float64) if jnp.issubdtype(a.dtype, jnp.floating) else a
    ),
    tree,
  )
