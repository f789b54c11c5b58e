"""Bytes that inference holds: parameters, and activations at their peak.

Estimates by rule, not a compiler's allocation: nothing of a layer outlives it
but the residual stream and the key-value cache (counted by `kv_cache`), and
element-wise work happens in place.
"""

import functools

import jax
import jax.numpy as jnp

from eos_jax.array_typing import Array, Float, Scalar
from eos_jax.cost import dtypes, flops

# Scores and logits are float32 whatever the dtype of the model.
_WIDE = 4


def decoder_layer_parameters(shape: flops.ModelShape) -> int:
  """Entries of the matrices of one decoder layer."""
  inner, kv = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
  return shape.width * (2 * inner + 2 * kv + 3 * shape.mlp)


def vision_layer_parameters(shape: flops.ModelShape) -> int:
  """Entries of the matrices of one encoder block."""
  return shape.vision_width * (4 * shape.vision_width + 2 * shape.vision_mlp)


def parameter_count(shape: flops.ModelShape, *, tied: bool = False) -> int:
  """Parameters of encoder, projector and decoder.

  Counted are matrices, the embedding table and the encoder's patch, class and
  position embeddings; scales of norms and biases, below a hundredth, are not.

  Args:
    shape: sizes of the model.
    tied: whether the output head is the embedding table.

  >>> shape = flops.ModelShape(0, 1, 1, 1, 0, 1, 0, layers=1, width=2, heads=1,
  ...                          kv_heads=1, head_dim=2, mlp=3, vocab=5)
  >>> parameter_count(shape)  # 16 + 18 a layer, 2 tables of 10, encoder 4
  58
  """
  width = shape.vision_width
  embed = (shape.patch_dim + shape.class_tokens + shape.vision_tokens) * width
  vision = embed + shape.vision_layers * vision_layer_parameters(shape)
  tables = shape.vocab * shape.width * (1 if tied else 2)
  decoder = tables + shape.layers * decoder_layer_parameters(shape)
  return vision + flops.projector_weights(shape) + decoder


def parameter_bytes(
  shape: flops.ModelShape, *, dtype: str = "bfloat16", tied: bool = False
) -> int:
  """Bytes of the parameters in a dtype, see `parameter_count`.

  >>> shape = flops.ModelShape(0, 1, 1, 1, 0, 1, 0, layers=1, width=2, heads=1,
  ...                          kv_heads=1, head_dim=2, mlp=3, vocab=5)
  >>> parameter_bytes(shape, dtype="float32")
  232
  """
  return parameter_count(shape, tied=tied) * dtypes.bytes_of(dtype)


def activation_bytes(
  shape: flops.ModelShape,
  visual_counts: flops.Counts,
  text_tokens: Scalar,
  vision_counts: flops.VisionCounts | None = None,
  *,
  attention_map: bool,
  batch: int = 1,
  dtype: str = "bfloat16",
  head_positions: int = 1,
) -> int | Float[Array, ""]:
  """Peak bytes of activations in a prefill.

  The greatest over all blocks of encoder and decoder, and the output head, of
  what is alive at once, N the rows of a block:

  - attention: residual stream, queries, keys, values and context; where the
    kernel materialises the scores, H x N x N of them in float32 and as many
    weights in the dtype of the model;
  - MLP: residual stream, its normed copy and the hidden layer, twice as wide
    where it is gated;
  - head: residual stream and float32 logits of the positions asked for.

  Not counted: the key-value cache, parameters, the picture, and what the
  operators of a plan compare (a float32 matrix of V x V where they do).

  Args:
    shape: sizes of the model.
    visual_counts: [L] visual tokens entering each decoder layer.
    text_tokens: [] all other tokens of the sequence.
    vision_counts: [E] rows leaving each encoder block, None for an unreduced
      encoder.
    attention_map: whether the attention kernel holds the scores of all pairs
      (hand-written attention) or works through them in blocks (fused).
    batch: sequences at once.
    dtype: of the activations.
    head_positions: positions whose logits are computed.

  Returns:
    [] bytes: an int for integer counts, else float32 and differentiable almost
    everywhere; the gradient is that of the widest block.

  >>> shape = flops.ModelShape(0, 1, 1, 1, 0, 1, 0, layers=2, width=2, heads=1,
  ...                          kv_heads=1, head_dim=2, mlp=3, vocab=5)
  >>> activation_bytes(shape, [3, 1], 1, attention_map=False)
  80
  >>> activation_bytes(shape, [3, 1], 1, attention_map=True)
  176
  """
  number = dtypes.bytes_of(dtype)
  pair = (_WIDE + number) if attention_map else 0
  inner, kv = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
  width, vision = shape.width, shape.vision_width
  lengths = flops.with_text(visual_counts, text_tokens)
  before, after = flops.vision_lengths(shape, vision_counts)
  parts = [
    (lengths, shape.heads * pair, number * (width + 2 * inner + 2 * kv)),
    (lengths, 0, number * 2 * (width + shape.mlp)),
    (
      before,
      shape.crops * shape.vision_heads * pair,
      shape.crops * number * 5 * vision,
    ),
    (after, 0, shape.crops * number * (2 * vision + shape.vision_mlp)),
  ]
  peaks = [
    _most(flops.per_layer(counts, square, linear))
    for counts, square, linear in parts
    if len(counts)
  ]
  logits = _WIDE * head_positions * shape.vocab
  stream = _most(flops.per_layer(lengths[-1:], 0, number * shape.width))
  peaks.append(flops.add(stream, logits))
  if any(isinstance(peak, jax.Array) for peak in peaks):
    return batch * functools.reduce(jnp.maximum, map(_wide, peaks))
  return batch * max(peaks)


def _most(values):
  """The greatest of a list or an array."""
  return jnp.max(values) if isinstance(values, jax.Array) else max(values)


def _wide(value):
  """An int, which may exceed int32, as a float."""
  return float(value) if isinstance(value, int) else value
