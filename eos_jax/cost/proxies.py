"""The FLOPs that papers print, for comparison with their tables only.

Both count a multiply-add as 1 (true FLOPs are twice that) and leave out the
vision encoder, the projector, the output head and the selection. They differ
in the MLP: two matrices or, as in gated MLPs, three. For costs of one's own
use `prefill_flops`.
"""

from collections.abc import Sequence

from eos_jax.cost import flops


def pruned_lengths(
  *,
  visual_tokens: int,
  text_tokens: int,
  layers: int,
  after: int,
  keep_ratio: float,
) -> list[int]:
  """All tokens of each layer where one pruning follows the first layers.

  As `vbdi/divprune` counts (`tflops.py`): `round((1 - r) visual)` tokens go,
  with Python's rounding of halves to the even number.

  Args:
    visual_tokens: of an unreduced picture.
    text_tokens: all other tokens of the sequence.
    layers: decoder layers.
    after: layers that still see all tokens.
    keep_ratio: share r of the visual tokens that stays.

  Returns:
    [layers] lengths.

  >>> pruned_lengths(visual_tokens=576, text_tokens=25, layers=4, after=2,
  ...                keep_ratio=0.25)
  [601, 601, 169, 169]
  """
  full = text_tokens + visual_tokens
  kept = full - round((1 - keep_ratio) * visual_tokens)
  return [full if layer < after else kept for layer in range(layers)]


def two_matrix_proxy(lengths: Sequence[int], *, width: int, mlp: int) -> int:
  """The proxy of FastV and DivPrune: sum of 4 n d^2 + 2 n^2 d + 2 n d m.

  `vbdi/divprune`, `tflops.py`: text included, MLP counted as two matrices.

  Args:
    lengths: all tokens, text included, of each layer.
    width: hidden size d.
    mlp: MLP width m.

  Returns:
    Multiply-adds.
  """
  linear = 4 * width * width + 2 * width * mlp
  return flops.polynomial(lengths, 2 * width, linear)


def gated_proxy(lengths: Sequence[int], *, width: int, mlp: int) -> int:
  """The proxy of SparseVLM and PyramidDrop: sum of 4 n d^2 + 2 n^2 d + 3 n d m.

  `Gumpest/SparseVLMs`, `modelling_sparse_llama.py`: MLP counted as three
  matrices. With visual tokens alone it is the figure of most later tables
  (LLaVA-1.5-7B at 576 tokens: 3.817 T).

  Args:
    lengths: tokens of each layer; with or without text, as the table has it.
    width: hidden size d.
    mlp: MLP width m.

  Returns:
    Multiply-adds.

  >>> round(gated_proxy([576] * 32, width=4096, mlp=11008) / 1e12, 3)
  3.817
  """
  linear = 4 * width * width + 3 * width * mlp
  return flops.polynomial(lengths, 2 * width, linear)
