"""Matmul FLOPs of prefill and of decoding.

Conventions: a multiply-add counts 2, so a [m, k] x [k, n] product is 2 m n k.
Attention scores and values are counted over the full square N x N, although
causal masking needs half of it: that is what dense kernels execute. Counted
are projections, attention, MLPs, the output head, the projector and the vision
encoder with its patch embedding; not counted are normalisations, softmax,
rotary positions, embedding look-ups and the selection of tokens, which
`eos_jax.cost.operators` counts.
"""

from collections.abc import Sequence
import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from eos_jax.array_typing import Array, Float, Num, Scalar
from eos_jax.ops import types


@dataclasses.dataclass(frozen=True)
class ModelShape:
  """The sizes of a vision-language model that its cost depends on.

  Attributes:
    vision_layers: encoder blocks that are executed.
    vision_width, vision_mlp, vision_heads: sizes of the encoder; its MLP has
      two matrices.
    patch_dim: numbers in a patch (3 x side x side).
    vision_tokens: rows of the encoder at a time, class token included.
    projector_hidden: hidden width of the two-layer projector, 0 for one layer.
    layers, width, heads, kv_heads, head_dim, mlp, vocab: sizes of the decoder;
      its MLP is gated and has three matrices.
    class_tokens: rows of the encoder that the decoder never sees.
    merge: side of the squares of patches that become one visual token.
    crops: tiles of a picture, which the encoder reads one by one.
    newlines: visual tokens of a picture that no encoder makes.
  """

  vision_layers: int
  vision_width: int
  vision_mlp: int
  vision_heads: int
  patch_dim: int
  vision_tokens: int
  projector_hidden: int
  layers: int
  width: int
  heads: int
  kv_heads: int
  head_dim: int
  mlp: int
  vocab: int
  class_tokens: int = 1
  merge: int = 1
  crops: int = 1
  newlines: int = 0

  @property
  def visual_tokens(self) -> int:
    """Tokens that an unreduced picture has in the decoder."""
    patches = self.vision_tokens - self.class_tokens
    return self.crops * patches // self.merge**2 + self.newlines


Counts = Sequence[int] | Num[Array, "L"]
VisionCounts = Sequence[int] | Num[Array, "E"]


def per_layer(
  counts: Counts | VisionCounts, square: int, linear: int
) -> list[int] | Float[Array, "L"]:
  """`square n^2 + linear n` of each count: exact for integers."""
  if isinstance(counts, jax.Array):
    # float32 holds any total to 7 digits; coefficients may exceed int32.
    n = types.working(counts)
    return float(square) * n * n + float(linear) * n
  return [(square * n + linear) * n for n in counts]


def polynomial(
  counts: Counts | VisionCounts, square: int, linear: int
) -> int | Float[Array, ""]:
  """Sum of `square n^2 + linear n` over counts: exact for integers."""
  values = per_layer(counts, square, linear)
  return jnp.sum(values) if isinstance(values, jax.Array) else sum(values)


def add(a: Any, b: Any) -> Any:
  """A + b; next to an array an int, which may exceed int32, becomes a float."""
  if isinstance(a, int) and isinstance(b, int):
    return a + b
  return (float(a) if isinstance(a, int) else a) + (
    float(b) if isinstance(b, int) else b
  )


def with_text(visual_counts: Counts, text_tokens: Any) -> Counts:
  """Sequence lengths: visual counts plus text tokens."""
  arrays = (visual_counts, text_tokens)
  if any(isinstance(value, jax.Array) for value in arrays):
    counts = types.working(jnp.asarray(visual_counts))
    return counts + jnp.asarray(text_tokens, counts.dtype)
  return [int(n) + text_tokens for n in visual_counts]


def decoder_coefficients(shape: ModelShape) -> tuple[int, int]:
  """FLOPs of a decoder layer by the square and the number of its tokens."""
  inner, kv = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
  projections = 2 * shape.width * (2 * inner + 2 * kv)
  return 4 * inner, projections + 6 * shape.width * shape.mlp


def decoder_flops(
  shape: ModelShape,
  visual_counts: Counts,
  text_tokens: Scalar,
  *,
  head_positions: int = 1,
) -> int | Float[Array, ""]:
  """FLOPs of the decoder layers and of the output head.

  Args:
    shape: sizes of the model.
    visual_counts: [L] visual tokens entering each layer.
    text_tokens: [] all other tokens of the sequence.
    head_positions: positions whose logits are computed; prefill needs one.

  Returns:
    [] FLOPs: an int for integer counts, else float32 and differentiable.
  """
  lengths = with_text(visual_counts, text_tokens)
  head = 2 * head_positions * shape.width * shape.vocab
  return add(polynomial(lengths, *decoder_coefficients(shape)), head)


def decode_flops(
  shape: ModelShape, cache_counts: Counts, text_tokens: Scalar
) -> int | Float[Array, ""]:
  """FLOPs of one generated token against caches of given lengths.

  One query row a layer: projections, attention over the cached entries and the
  token itself, gated MLP; and the output head. Nothing is selected again while
  decoding.

  Args:
    shape: sizes of the model.
    cache_counts: [L] visual tokens that each layer has cached; `layer_counts`
      of a plan.
    text_tokens: [] all other cached tokens: prompt and answer so far.

  Returns:
    [] FLOPs: an int for integer counts, else float32 and differentiable.

  >>> shape = ModelShape(0, 1, 1, 1, 0, 1, 0, layers=1, width=2, heads=1,
  ...                    kv_heads=1, head_dim=2, mlp=3, vocab=5)
  >>> decode_flops(shape, [3], 1)  # 32 + 36, 8 x (4 + 1), 20
  128
  """
  square, linear = decoder_coefficients(shape)
  lengths = with_text(cache_counts, text_tokens)
  alone = shape.layers * (square + linear) + 2 * shape.width * shape.vocab
  return add(polynomial(lengths, 0, square), alone)


def vision_lengths(
  shape: ModelShape, vision_counts: VisionCounts | None
) -> tuple[VisionCounts, VisionCounts]:
  """Rows that enter each encoder block, and rows that leave it, [E] each.

  A site lies between attention and MLP, so a block attends over the rows that
  the block before left. None: nothing is reduced.
  """
  rows = shape.vision_tokens
  if vision_counts is None:
    vision_counts = [rows] * shape.vision_layers
  if isinstance(vision_counts, jax.Array):
    after = types.working(vision_counts)
    first = jnp.full((1,), rows, after.dtype)
    return jnp.concatenate([first, after[:-1]])[: after.size], after
  before = [rows, *(int(n) for n in vision_counts[:-1])]
  return before[: len(vision_counts)], [int(n) for n in vision_counts]


def projector_weights(shape: ModelShape) -> int:
  """Entries of the projector's matrices, which every visual token meets."""
  width = shape.vision_width * shape.merge**2
  hidden, out = shape.projector_hidden, shape.width
  return width * hidden + hidden * out if hidden else width * out


def projected_rows(
  shape: ModelShape, after: VisionCounts
) -> list[int] | Float[Array, "1"]:
  """Rows [1] that the projector gets, from those that leave each block."""
  left = after[-1:] if len(after) else [shape.vision_tokens]
  if isinstance(left, jax.Array):
    return (left - shape.class_tokens) / shape.merge**2
  return [(rows - shape.class_tokens) // shape.merge**2 for rows in left]


def vision_flops(
  shape: ModelShape, vision_counts: VisionCounts | None = None
) -> int | Float[Array, ""]:
  """FLOPs of patch embedding, encoder blocks and projector.

  Args:
    shape: sizes of the model.
    vision_counts: [E] rows that leave each block, class tokens
      included; a site lies between attention and MLP, so block i attends over
      the rows of block i - 1. None: nothing is reduced.

  Returns:
    [] FLOPs: an int for integer counts, else float32 and differentiable.
  """
  rows, width = shape.vision_tokens, shape.vision_width
  before, after = vision_lengths(shape, vision_counts)
  embed = 2 * (rows - shape.class_tokens) * shape.patch_dim * width
  total = polynomial(before, 4 * width, 8 * width * width)
  total += polynomial(after, 0, 4 * width * shape.vision_mlp)
  total += polynomial(
    projected_rows(shape, after), 0, 2 * projector_weights(shape)
  )
  return shape.crops * add(total, embed)


def prefill_flops(
  shape: ModelShape,
  visual_counts: Counts,
  text_tokens: Scalar,
  vision_counts: VisionCounts | None = None,
  *,
  head_positions: int = 1,
) -> int | Float[Array, ""]:
  """FLOPs of one picture and prompt, from pixels to the first answer token.

  Args:
    shape: sizes of the model.
    visual_counts: [L] visual tokens entering each decoder layer.
    text_tokens: [] all other tokens of the sequence.
    vision_counts: [E] rows leaving each encoder block, None for
      an unreduced encoder.
    head_positions: positions whose logits are computed.

  Returns:
    [] FLOPs (2 per multiply-add), see the conventions of this module. An int
    for integer counts; float32 and differentiable for arrays.

  >>> shape = ModelShape(0, 1, 1, 1, 0, 1, 0, layers=1, width=2, heads=1,
  ...                    kv_heads=1, head_dim=2, mlp=3, vocab=5)
  >>> prefill_flops(shape, [3], 1)  # 4 x (32 + 36) + 8 x 16 + 20
  420
  """
  decoder = decoder_flops(
    shape, visual_counts, text_tokens, head_positions=head_positions
  )
  return add(decoder, vision_flops(shape, vision_counts))
