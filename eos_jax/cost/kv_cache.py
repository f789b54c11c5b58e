"""Bytes of the key-value cache after prefill."""

import jax.numpy as jnp

from eos_jax.array_typing import Array, Float, Scalar
from eos_jax.cost import dtypes, flops


def kv_cache_bytes_by_layer(
  shape: flops.ModelShape,
  visual_counts: flops.Counts,
  text_tokens: Scalar,
  *,
  dtype: str = "bfloat16",
) -> tuple[int, ...] | Float[Array, "L"]:
  """Bytes of keys and values that each decoder layer holds, one sequence.

  A layer caches what enters it: layers before a site hold all visual tokens.
  Padding of a static cache and the scales of a quantised one are not counted.

  Args:
    shape: sizes of the model.
    visual_counts: [L] visual tokens entering each decoder layer.
    text_tokens: [] all other tokens of the sequence.
    dtype: of the cached numbers, a key of `dtypes.BYTES`.

  Returns:
    [L] bytes: integers for integer counts, else float32 and differentiable.

  >>> shape = flops.ModelShape(0, 1, 1, 1, 0, 1, 0, layers=2, width=2, heads=2,
  ...                          kv_heads=1, head_dim=4, mlp=3, vocab=5)
  >>> kv_cache_bytes_by_layer(shape, [3, 1], 1)  # 16 a token
  (64, 32)
  """
  per_token = 2 * shape.kv_heads * shape.head_dim * dtypes.bytes_of(dtype)
  lengths = flops.with_text(visual_counts, text_tokens)
  values = flops.per_layer(lengths, 0, per_token)
  return tuple(values) if isinstance(values, list) else values


def kv_cache_bytes(
  shape: flops.ModelShape,
  visual_counts: flops.Counts,
  text_tokens: Scalar,
  *,
  dtype: str = "bfloat16",
) -> int | Float[Array, ""]:
  """Bytes of keys and values of all decoder layers, one sequence.

  Args:
    shape: sizes of the model.
    visual_counts: [L] visual tokens entering each decoder layer.
    text_tokens: [] all other tokens of the sequence.
    dtype: of the cached numbers, a key of `dtypes.BYTES`.

  Returns:
    [] bytes, the sum of `kv_cache_bytes_by_layer`: an int for integer counts,
    else float32 and differentiable.

  >>> shape = flops.ModelShape(0, 1, 1, 1, 0, 1, 0, layers=2, width=2, heads=2,
  ...                          kv_heads=1, head_dim=4, mlp=3, vocab=5)
  >>> kv_cache_bytes(shape, [3, 1], 1)  # 2 x 4 x 2 bytes x (4 + 2) tokens
  96
  >>> kv_cache_bytes(shape, [3, 1], 1, dtype="int8")
  48
  """
  values = kv_cache_bytes_by_layer(
    shape, visual_counts, text_tokens, dtype=dtype
  )
  return sum(values) if isinstance(values, tuple) else jnp.sum(values)
