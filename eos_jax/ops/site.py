"""The records of the selection stage, and what its kernels share."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from eos_jax.array_typing import Array, Bool, Float, Int
from eos_jax.ops import topk, types


@dataclasses.dataclass(frozen=True)
class Site:
  """What the stages after scoring read.

  Attributes:
    tokens: V tokens.
    signals: signals of the site.
    params: numbers of the operator.
    spec: the operator.
    scores: [V] standardised scores.
    cosine: [V, V] feature cosines, None when the operator needs none.
    raw: [V] mixture of the scores before anything is standardised.
  """

  tokens: types.TokenSet
  signals: types.Signals
  params: types.OperatorParams
  spec: types.OperatorSpec
  scores: Array
  cosine: Any
  raw: Any = None


@dataclasses.dataclass(frozen=True)
class Budget:
  """How many tokens stay, and in which form the decision is taken.

  Attributes:
    count: [] mass (soft) or number of tokens (masked, hard) that stays, or [I]
      one for each image of the example.
    temperature: [] T of the soft form, None for a hard decision.
    rows: static number of output rows of the hard form, None for V rows.
  """

  count: Any
  temperature: Any = None
  rows: int | None = None


@dataclasses.dataclass(frozen=True)
class Selection:
  """The decision, before anything moves.

  Attributes:
    log_kept: [V] log-mass that stays in each input row.
    log_rest: [V] log-mass that leaves it.
    index: [K] input row that an output row stands for.
    log_mass: [K] log-mass of each output row.
    transport: [V, K] where a kernel itself says where each row's information
      goes (edges, cells), rows summing to at most 1; None otherwise.
    centred: [K] False where an output row has no token of its own (pooled
      cells, clusters, the fused row); None where all have one.
    fused: [K] True at the fused row; None where there is none.
    second: [K] True on rows of the second share; None where there is none.
    gathered: static; False where output row k is input row k.
  """

  log_kept: Array
  log_rest: Array
  index: Array
  log_mass: Array
  transport: Any = None
  centred: Any = None
  fused: Any = None
  second: Any = None
  gathered: bool = True

  def take(self, values: Array, *, axis: int = 0) -> Array:
    """Entries of input rows in the order of the output rows.

    Without a gather where the rows are the same: its transpose is a scatter,
    which costs a CPU more than the rest of the operator.
    """
    if not self.gathered:
      return values
    return jnp.take(values, self.index, axis=axis, mode="clip")

  def where_centred(self, values: Array, otherwise: Any) -> Array:
    """`values` [K] on rows that have a token of their own."""
    if self.centred is None:
      return values
    return jnp.where(self.centred, values, jnp.asarray(otherwise, values.dtype))


@dataclasses.dataclass(frozen=True)
class Rows:
  """How the input rows become output rows; arrays are [V].

  Attributes:
    place: order of the output rows, ascending.
    new: True where a row is output without being its own centre.
    fused: True at the row that stands for the fused one.
    second: True on rows of the second share.
  """

  place: Any
  new: Any = None
  fused: Any = None
  second: Any = None


def protected(site: Site) -> Bool[Array, "V"]:
  """True for the leading present tokens that always stay."""
  rows = jnp.arange(site.scores.shape[0], dtype=jnp.int32)
  return (rows < site.spec.protect) & types.present(site.tokens.log_mass)


def split(
  site: Site,
  scores: Float[Array, "V"],
  log_mass: Float[Array, "V"],
  count: Any,
  *,
  temperature: Any,
) -> tuple[Float[Array, "V"], Float[Array, "V"]]:
  """Log of the kept and of the removed mass, soft or hard top-k, [V] each.

  With a count for each image, every image keeps its own best tokens.
  """

  def best(log_mass, count):
    if temperature is None:
      return topk.hard_top_k(scores, log_mass, count)
    return topk.soft_top_k(scores, log_mass, count, temperature=temperature)

  if jnp.ndim(count) == 0:
    return best(log_mass, count)
  image = site.tokens.image
  own = jnp.arange(count.shape[0])[:, None] == image[None, :]
  alone = jnp.where(own, log_mass[None, :], types.LOG_ZERO)
  kept, rest = jax.vmap(best)(alone, count)
  # An image without a count keeps nothing.
  counted = jnp.any(own, axis=0)
  rest = jnp.where(counted, jnp.max(rest, axis=0), log_mass)
  return jnp.max(kept, axis=0), rest


def among(
  site: Site, candidates: Any, scores: Any, count: Any, temperature: Any
) -> tuple[Array, Array]:
  """Top-k over some tokens; the others stay and count in `count`."""
  log_mass = site.tokens.log_mass
  outside = types.present(log_mass) & ~candidates
  if jnp.ndim(count) == 0:
    count = count - jnp.sum(jnp.where(outside, jnp.exp(log_mass), 0))
  kept, rest = split(
    site,
    scores,
    jnp.where(candidates, log_mass, types.LOG_ZERO),
    count,
    temperature=temperature,
  )
  return jnp.where(outside, log_mass, kept), rest


def recycled_number(removed: int, share: float) -> int:
  """Tokens of `removed` ones that come back: int(q u) + 1.

  Rule and rounding are SparseVLM's (`Gumpest/SparseVLMs`,
  modelling_sparse_llama.py).

  >>> recycled_number(276, 0.3)
  83
  """
  return int(share * removed) + 1


def recycled(site: Site, left: Bool[Array, "V"]) -> Bool[Array, "V"]:
  """Which of the removed tokens pass their information on.

  The `recycled_number` of best score for q = `spec.recycle`; all for q = 1,
  none for q = 0.

  Args:
    site: V tokens, scores and the operator.
    left: [V] the removed tokens.
  """
  share = site.spec.recycle
  if share == 1:
    return left
  if share == 0:
    return jnp.zeros_like(left)
  # Looked up, so that products are rounded as Python's floats are.
  numbers = [recycled_number(u, share) for u in range(left.shape[0] + 1)]
  table = jnp.asarray(np.array(numbers, np.int32))
  count = table[jnp.sum(left)]
  rank = topk.descending_rank(jnp.where(left, site.scores, -jnp.inf))
  return left & (rank < count)


def recycled_rows(
  site: Site, marked: Bool[Array, "V"]
) -> tuple[Int[Array, "R"], Bool[Array, "R"]]:
  """Returns the rows that `recycled` marked, and which of the R are real.

  R is static: the most that can be recycled of V tokens. Rows ascend; those
  that are not real are V, which an update with mode="drop" leaves out.
  """
  tokens, share = marked.shape[0], site.spec.recycle
  most = tokens if share == 1 else recycled_number(tokens, share)
  (rows,) = jnp.nonzero(marked, size=min(most, tokens), fill_value=tokens)
  return rows.astype(jnp.int32), rows < tokens


def emit(
  site: Site,
  budget: Budget,
  log_kept: Float[Array, "V"],
  log_rest: Float[Array, "V"],
  rows: Rows,
  transport: Any = None,
) -> Selection:
  """Output rows: all V, or the first `budget.rows` that are present, in order.

  Args:
    site: V tokens.
    budget: form of the decision.
    log_kept: [V] log-mass that stays in its own row.
    log_rest: [V] log-mass that leaves its row.
    rows: which rows are output and in which order.
    transport: function of `index` [K] that gives the shares [V, K] of kernels
      which decide them, or None.
  """
  count = log_kept.shape[0]
  out = log_kept
  if rows.new is not None:
    out = jnp.where(rows.new, site.tokens.log_mass, log_kept)
  gathered = budget.rows is not None
  if gathered:
    # Places are unique and the absent rows of no matter among themselves.
    place = -rows.place.astype(jnp.float32)
    place = jnp.where(types.present(out), place, -jnp.inf)
    index = topk.best_first(place, budget.rows)
  else:
    index = jnp.arange(count, dtype=jnp.int32)
  take = lambda flag: flag if flag is None or not gathered else flag[index]
  new = take(rows.new)
  return Selection(
    log_kept=log_kept,
    log_rest=log_rest,
    index=index,
    log_mass=take(out),
    transport=None if transport is None else transport(index),
    centred=None if new is None else ~new,
    fused=take(rows.fused),
    second=take(rows.second),
    gathered=gathered,
  )
