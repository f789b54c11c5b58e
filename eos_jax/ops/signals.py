"""Signals that published operators make from attention and embeddings.

A model that has the tensors calls these to fill `Signals`; the operators only
read the results. No gradients are stopped here.
"""

import jax
import jax.numpy as jnp

from eos_jax.array_typing import Array, Bool, Float, Int
from eos_jax.ops import topk, types


def head_mean(attention: Float[Array, "H *N V"]) -> Float[Array, "*N V"]:
  """Mean over heads, in float32, `[*N, V]`."""
  return jnp.mean(types.working(attention), axis=0)


def text_raters(
  visual: Float[Array, "V D"],
  text: Float[Array, "T D"],
  mask: Bool[Array, "T"] | None = None,
  *,
  valid: Bool[Array, "V"] | None = None,
) -> tuple[Bool[Array, "T"], Float[Array, "T"]]:
  """Text tokens that speak of the picture (SparseVLM).

  m_i = mean over visual tokens of the softmax over text of their inner
  products; raters are the tokens above the mean of m
  (`Gumpest/SparseVLMs`, modelling_sparse_llama.py).

  Args:
    visual: [V, D] visual tokens at the decoder input.
    text: [T, D] text embeddings there.
    mask: [T] False on padding, which is no rater and counts nowhere.
    valid: [V] False on visual padding, which counts nowhere.

  Returns:
    [T] True at raters, and [T] m.

  >>> import jax.numpy as jnp
  >>> text_raters(jnp.eye(2), 9 * jnp.eye(3)[:, :2])[0].tolist()
  [True, True, False]
  """
  logits = types.product(types.working(visual), types.working(text).T)
  if mask is None:
    mask = jnp.ones(text.shape[0], bool)
  logits = jnp.where(mask[None, :], logits, types.LOG_ZERO)
  share = jax.nn.softmax(logits, axis=1)
  if valid is None:
    share = jnp.mean(share, axis=0)
  else:
    share = jnp.sum(jnp.where(valid[:, None], share, 0), axis=0)
    share /= jnp.maximum(jnp.sum(valid), 1)
  share = jnp.where(mask, share, 0)
  mean = jnp.sum(share) / jnp.maximum(jnp.sum(mask), 1)
  return mask & (share > mean), share


def rater_rows(
  attention: Float[Array, "H T V"], raters: Bool[Array, "T"]
) -> Float[Array, "V"]:
  """Mean attention of the raters to each visual token, `[V]` (SparseVLM).

  Args:
    attention: [H, T, V] of the text rows to the visual keys.
    raters: [T] from `text_raters`.
  """
  rows = jnp.where(raters[:, None], head_mean(attention), 0)
  return jnp.sum(rows, 0) / jnp.maximum(jnp.sum(raters), 1)


def full_width_row(
  query: Float[Array, "D"], keys: Float[Array, "N D"]
) -> Float[Array, "N"]:
  """Attention of one row over all heads as one of full width, `[N]`.

  softmax(q k^T / sqrt(D)): PruMerge's class attention
  (`42Shawn/LLaVA-PruMerge`, clip_encoder.py); the caller drops the class token.

  Args:
    query: [D] class token's query, heads not split.
    keys: [N, D] all keys, heads not split.
  """
  logits = types.product(types.working(keys), types.working(query))
  return jax.nn.softmax(logits * query.shape[-1] ** -0.5)


def softmax_plus_one(
  logits: Float[Array, "*N V"],
) -> Float[Array, "*N V"]:
  """exp(z) / (1 + sum exp z) over the last axis: rows sum to less than 1.

  >>> import jax.numpy as jnp
  >>> softmax_plus_one(jnp.zeros(3)).tolist()
  [0.25, 0.25, 0.25]
  """
  logits = types.working(logits)
  greatest = jnp.maximum(jnp.max(logits, -1, keepdims=True), 0)
  greatest = jax.lax.stop_gradient(greatest)
  power = jnp.exp(logits - greatest)
  return power / (jnp.exp(-greatest) + jnp.sum(power, -1, keepdims=True))


def modality_sums(
  logits: Float[Array, "R N"],
  visual_rows: Bool[Array, "R"],
  visual_columns: Bool[Array, "N"],
  *,
  recent: int,
) -> tuple[Float[Array, "M"], Float[Array, "M"]]:
  """What cache entries receive from their own and the other modality (CSP).

  Column sums of `softmax_plus_one` over the last rows, apart for pairs of the
  same and of different modality (`TerryPei/CSP`, modify_llama.py).

  Args:
    logits: [R, N] of the last R queries of one head, masked.
    visual_rows: [R] True where a query is a visual token.
    visual_columns: [N] True where a key is one.
    recent: last entries that stay in any case; they are cut off.

  Returns:
    `self_sums` and `cross_sums` of the other entries, [N - recent] each.
  """
  old = logits.shape[1] - recent
  weights = softmax_plus_one(logits)[:, :old]
  same = visual_rows[:, None] == visual_columns[None, :old]
  return (
    jnp.sum(jnp.where(same, weights, 0), 0),
    jnp.sum(jnp.where(same, 0, weights), 0),
  )


def dart_pivots(
  keys: Float[Array, "N d"],
  visual: Bool[Array, "N"],
  text: Bool[Array, "N"],
  *,
  pivots: int = 4,
  text_pivots: int = 4,
) -> Int[Array, "P"]:
  """Rows of DART's pivots: visual ones by the L1 norm of the key, then text.

  The published code visits them in the order of a Python set, an accident that
  changes the result; here visual pivots come first, each group by descending
  norm.

  Args:
    keys: [N, d] keys of the layer before the site, heads side by side.
    visual: [N] True at visual tokens.
    text: [N] True at the text after them.
    pivots: how many visual ones.
    text_pivots: how many of the text.
  """
  norm = jnp.sum(jnp.abs(types.working(keys)), -1)
  best = lambda where, number: jnp.argsort(
    topk.descending_rank(jnp.where(where, norm, -1))
  )[:number]
  rows = [best(visual, pivots), best(text, text_pivots)]
  return jnp.concatenate(rows).astype(jnp.int32)


def crop_guide(
  thumbnail: Float[Array, "V"], *, side: int, shape: tuple[int, int]
) -> Float[Array, "rows columns"]:
  """The thumbnail's scores over the joined crops (GlobalCom2).

  Bilinear between cell centres, without smoothing (`xuyang-liu16/GlobalCom2`,
  llava_arch.py).

  Args:
    thumbnail: [V] class scores, V = side x side.
    side: tokens on a side of the thumbnail.
    shape: rows and columns of the joined crops, padding cut off.
  """
  grid = types.working(thumbnail).reshape(side, side)
  return jax.image.resize(grid, shape, "bilinear", antialias=False)
