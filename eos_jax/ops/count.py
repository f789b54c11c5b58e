"""How many tokens stay: the budget rules of the published operators.

Counts that depend on the picture are traced integers under a static greatest
one (`reduce_hard(..., keep=greatest, count=count)`). Products that the origins
compute in Python's floats are looked up in tables, so that they round alike.
"""

from collections.abc import Callable
import math

import jax
import jax.numpy as jnp
import numpy as np

from eos_jax.array_typing import Array, Bool, Float, Int
from eos_jax.ops import second, types
from eos_jax.ops import site as site_lib

# Visual tokens kept after layers 2, 6 and 15 of 32, by the layer average that
# they are named after (`Gumpest/SparseVLMs`, score.py).
SPARSEVLM_1_5 = {
  192: (300, 200, 110),
  128: (303, 110, 36),
  96: (238, 48, 26),
  64: (66, 30, 17),
}
SPARSEVLM_2_0 = {
  192: (300, 200, 118),
  128: (238, 108, 60),
  96: (246, 54, 28),
  64: (66, 34, 20),
}
# Scale and bias of the rank rule of version 1.0, by the same names.
SPARSEVLM_1_0 = {192: (13.5, 0.0), 128: (9.0, 6.0), 64: (0.8, 0.0)}


def _table(length: int, rule: Callable[[int], int]) -> Int[Array, "N"]:
  """`rule` of 0 .. length, evaluated in Python."""
  values = [rule(number) for number in range(length + 1)]
  return jnp.asarray(np.array(values, np.int32))


def outliers(
  values: Float[Array, "*B V"],
) -> tuple[Int[Array, ""], Float[Array, ""]]:
  """Number of tokens to keep by the outliers among all values (PruMerge).

  The share of values above Q3 + 1.5 (Q3 - Q1), quartiles interpolated
  linearly, over the whole batch; times V, rounded down, is the number for each
  picture (`42Shawn/LLaVA-PruMerge`, clip_encoder.py, with its rounding of
  V (m / N) in floats). No gradients.

  Args:
    values: [*B, V] class attention.

  Returns:
    [] the number, which may be 0, and [] the share.

  >>> import jax.numpy as jnp
  >>> number, share = outliers(jnp.array([1.0] * 7 + [9.0]))
  >>> int(number), float(share)
  (1, 0.125)
  """
  values = jax.lax.stop_gradient(values).astype(jnp.float32)
  tokens, total = values.shape[-1], values.size
  low, high = jnp.percentile(values, jnp.array([25.0, 75.0]))
  above = jnp.sum(values > high + 1.5 * (high - low))
  number = _table(total, lambda m: int(tokens * (m / total)))[above]
  return number, above.astype(jnp.float32) / total


def raster_rows(
  first: Bool[Array, "V"], number: Int[Array, ""], *, tokens: int
) -> Int[Array, ""]:
  """Number of raster steps that are not among the tokens already kept.

  What PruMerge+ adds to its n outliers: positions 0, g, 2 g, ... before the
  last token, g = V // n // 3 (see `second.raster`).

  Args:
    first: [V] bool, True at the tokens already kept.
    number: [] how many of them there are.
    tokens: V of the whole raster.
  """
  position = jnp.arange(tokens, dtype=jnp.int32)
  target = position % second.raster_step(tokens, number) == 0
  target &= position < tokens - 1
  return jnp.sum(target & ~first).astype(jnp.int32)


def rank(
  rows: Float[Array, "R V"],
  *,
  mask: Array | None = None,
  scale: float = 1.0,
  bias: float = 0.0,
) -> tuple[Int[Array, ""], Int[Array, ""]]:
  """Number of tokens to keep by the numerical rank of attention (SparseVLM).

  min(int(rank scale + bias), V - 1); V, so that nothing is removed, where the
  rank is V. A singular value counts from max(R, V) eps s_max on, in float32
  (`Gumpest/SparseVLMs` 1.0, score.py). No gradients.

  Args:
    rows: [R, V] head-mean attention of the raters to the visual tokens.
    mask: [R] bool, False on rows that are padding.
    scale: factor of the rank.
    bias: what is added.

  Returns:
    [] the number, and [] the rank.
  """
  rows = jax.lax.stop_gradient(rows).astype(jnp.float32)
  tokens = rows.shape[1]
  real = rows.shape[0]
  if mask is not None:
    rows = jnp.where(mask[:, None], rows, 0)
    real = jnp.sum(mask)
  singular = jnp.linalg.svd(rows, compute_uv=False)
  least = jnp.maximum(real, tokens) * jnp.finfo(jnp.float32).eps
  found = jnp.sum(singular > least * singular[0]).astype(jnp.int32)
  table = _table(min(rows.shape), lambda r: int(r * scale + bias))
  number = jnp.clip(table[found], 0, tokens - 1)
  return jnp.where(found == tokens, tokens, number), found


def clusters(removed: int, *, recycle: float = 0.3) -> int:
  """Number of clusters that u removed tokens form (SparseVLM).

  Of the recycled ones the tenth part, rounded down, and one more.

  >>> clusters(276), clusters(0)
  (9, 1)
  """
  return site_lib.recycled_number(removed, recycle) // 10 + 1


def kept_beside_clusters(
  keep: int, *, tokens: int, recycle: float = 0.3
) -> int:
  """Greatest n for which n kept tokens and their clusters are at most `keep`.

  >>> kept_beside_clusters(309, tokens=576)
  300
  """
  fits = (
    n
    for n in range(min(keep, tokens), 0, -1)
    if n + clusters(tokens - n, recycle=recycle) <= keep
  )
  return next(fits, 0)


def pyramid(tokens: int, ratios: tuple[float, ...]) -> tuple[int, ...]:
  """Tokens after each stage of PyramidDrop: int(V ratio).

  >>> pyramid(576, (0.5, 0.25, 0.125))
  (288, 144, 72)
  """
  return tuple(int(tokens * ratio) for ratio in ratios)


def dart(budget: int, *, pivots: int = 4, text_pivots: int = 4) -> int:
  """Tokens that DART keeps for a nominal budget: more than that.

  p + k (p + q) with k = budget // (p + q), for p visual and q text pivots.

  >>> dart(192), dart(128), dart(64)
  (196, 132, 68)
  """
  return pivots + budget // (pivots + text_pivots) * (pivots + text_pivots)


def evit(tokens: int, rate: float) -> int:
  """Tokens that EViT keeps of V, without the fused one: ceil(rate V).

  >>> evit(196, 0.7)
  138
  """
  return math.ceil(rate * tokens)


def crop_shares(
  thumbnail: Float[Array, "V"],
  *,
  side: int,
  crops: tuple[int, int],
  retention: float = 0.25,
  temperature: float = 10.0,
) -> Float[Array, "crops"]:
  """Share of its tokens that each crop keeps (GlobalCom2).

  The thumbnail's class scores are summed over the part that each crop shows,
  s_c; r_c = min(1, retention (1 + softmax(s / temperature)_c - mean)). The
  parts have side // crops tokens a side, and the last ones what is left over
  (`xuyang-liu16/GlobalCom2`, llava_arch.py).

  Args:
    thumbnail: [V] class scores, V = side x side.
    side: tokens on a side of the thumbnail.
    crops: rows and columns of the crops.
    retention: share that is kept on average.
    temperature: of the softmax.

  Returns:
    [rows x columns] shares, row by row.
  """
  row, column = np.divmod(np.arange(side * side), side)
  part = []
  for place, number in ((row, crops[0]), (column, crops[1])):
    step = max(side // number, 1)
    part.append(np.minimum(place // step, number - 1))
  crop = jnp.asarray(part[0] * crops[1] + part[1])
  number = crops[0] * crops[1]
  sums = jax.ops.segment_sum(thumbnail, crop, number) / temperature
  power = jnp.exp(sums - jnp.max(sums))
  share = power / (jnp.sum(power) + 1e-8)
  return jnp.minimum(retention * (1 + share - jnp.mean(share)), 1.0)


def candidates(tokens: int, granularity: int = 1) -> Int[np.ndarray, "C"]:
  """Numbers of kept tokens that DiffRate chooses among: V, V - g, ...

  >>> candidates(12, 4).tolist()
  [12, 8, 4]
  """
  return np.arange(tokens, 0, -granularity)


def learned(
  logits: Float[Array, "C"], *, tokens: int, granularity: int = 1
) -> tuple[Float[Array, ""], Float[Array, "V1"]]:
  """DiffRate's learned number of tokens, with straight-through gradients.

  A softmax over candidate numbers c: the number is ceil(E c) + 1 (the class
  token), its gradient that of E c. Token i of the order of importance, the
  class token first, is kept with probability P(i < c + 1).

  Source: `OpenGVLab/DiffRate` (ddp.py), arXiv 2305.17997.

  Args:
    logits: [C] over `candidates(tokens, granularity)`.
    tokens: V patches.
    granularity: g, step of the candidates.

  Returns:
    [] the number, the class token included, and [V + 1] the probabilities.
  """
  numbers = candidates(tokens, granularity)
  share = jax.nn.softmax(logits)
  mean = jnp.sum(share * numbers.astype(np.float32))
  number = mean + jax.lax.stop_gradient(jnp.ceil(mean) + 1 - mean)
  place = np.arange(tokens + 1)
  within = jnp.asarray(place[:, None] < numbers[None, :] + 1, share.dtype)
  return number, types.product(within, share)


def learned_mask(
  probability: Float[Array, "V1"],
  number: Float[Array, ""],
  current: int | Int[Array, ""] | None = None,
) -> Float[Array, "V1"]:
  """1 on the `number` most important tokens, with the probabilities' gradient.

  Args:
    probability: [V + 1] from `learned`.
    number: [] from `learned`.
    current: [] tokens that are there: those after it were removed before, and
      count as 1 here; None is all.
  """
  place = jnp.arange(probability.shape[0])
  kept = place < jax.lax.stop_gradient(number)
  if current is not None:
    kept |= place >= current
  hard = kept.astype(probability.dtype)
  return hard + probability - jax.lax.stop_gradient(probability)
