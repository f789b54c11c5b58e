"""Bytes of the key-value cache after prefill."""

from eos_jax.array_typing import Array, Float, Scalar
from eos_jax.cost import flops


def kv_cache_bytes(
  shape: flops.ModelShape,
  visual_counts: flops.Counts,
  text_tokens: Scalar,
  *,
  bytes_per_value: int = 2,
) -> int | Float[Array, ""]:
  """Bytes of keys and values of all decoder layers, one sequence.

  A layer caches what enters it: layers before a site hold all visual tokens.
  Padding of a static cache is not counted.

  Args:
    shape: sizes of the model.
    visual_counts: [L] visual tokens entering each decoder layer.
    text_tokens: [] all other tokens of the sequence.
    bytes_per_value: 2 for bfloat16.

  Returns:
    [] bytes: an int for integer counts, else float32 and differentiable.

  >>> shape = flops.ModelShape(0, 1, 1, 1, 0, 1, 0, layers=2, width=2, heads=2,
  ...                          kv_heads=1, head_dim=4, mlp=3, vocab=5)
  >>> kv_cache_bytes(shape, [3, 1], 1)  # 2 x 4 x 2 bytes x (4 + 2) tokens
  96
  """
  per_token = 2 * shape.kv_heads * shape.head_dim * bytes_per_value
  lengths = flops.with_text(visual_counts, text_tokens)
  return flops.polynomial(lengths, 0, per_token)
