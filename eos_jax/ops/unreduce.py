"""Back from the rows of a reduction to the tokens that were there before."""

import jax
import jax.numpy as jnp

from eos_jax.array_typing import Array, Int, Shaped
from eos_jax.ops import types

# An assignment below this is what is left of a softmax, not a receiver.
_LEAST_SHARE = 1e-3


def source_map(reduced: types.Reduced) -> Int[Array, "V"]:
  """Output row that holds the information of each input row, `[V]`.

  Its own row where it has one, else the row that got the greatest share of it,
  -1 where it was dropped. No gradients.

  Args:
    reduced: result of `reduce_hard` or `reduce_masked` for one example.
  """
  there = types.present(reduced.tokens.log_mass)
  rows = jnp.arange(reduced.assignment.shape[0])
  stands = (reduced.index[None, :] == rows[:, None]) & there[None, :]
  share = jnp.where(there[None, :], reduced.assignment, 0)
  goes = jnp.where(jnp.max(share, 1) > _LEAST_SHARE, jnp.argmax(share, 1), -1)
  found = jnp.where(jnp.any(stands, 1), jnp.argmax(stands, 1), goes)
  return jax.lax.stop_gradient(found).astype(jnp.int32)


def unreduce(
  values: Shaped[Array, "K *D"], reduced: types.Reduced
) -> Shaped[Array, "V *D"]:
  """Gives every input row the value of the output row that holds it.

  Zeros where a token was dropped: `facebookresearch/ToMe` calls it unmerge,
  `OpenGVLab/DiffRate` uncompress. Gradients flow to `values`.

  Args:
    values: [K, *D] of the output rows.
    reduced: the reduction that made these rows.

  >>> import jax.numpy as jnp
  >>> from eos_jax import ops
  >>> tokens = ops.token_set(jnp.array([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0]]))
  >>> signals = ops.Signals(class_row=jnp.array([0.5, 0.1, 0.4]))
  >>> spec = ops.presets.MERGE
  >>> out = ops.reduce_hard(tokens, signals, spec.params(), spec=spec, keep=2)
  >>> (unreduce(out.tokens.x, out)[:, 1] * 100).round().tolist()
  [5.0, 5.0, 100.0]
  """
  kept = reduced.index.shape[0]
  if values.ndim < 1 or values.shape[0] != kept:
    raise ValueError(
      f"values has shape {values.shape}, it needs one entry for each of the"
      f" {kept} rows of the reduction"
    )
  rows = source_map(reduced)
  found = values[jnp.maximum(rows, 0)]
  held = jnp.expand_dims(rows >= 0, range(1, values.ndim))
  return jnp.where(held, found, jnp.zeros((), values.dtype))
