"""Stage 2: which tokens stay, and how much of the others leaves its row.

A kernel maps a `Site` and a `Budget` to a `Selection`. The same kernel serves
the three forms of an operator: soft (`budget.temperature` given), masked (a
hard decision at V rows, `budget.count` traced) and hard (`budget.rows`, the
static number of output rows). `KERNELS` lists them by name.
"""

import dataclasses
from typing import Any

import jax.numpy as jnp

from eos_jax.array_typing import Array, Bool, Float, Int
from eos_jax.ops import cells, score, topk, types


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
  """

  tokens: types.TokenSet
  signals: types.Signals
  params: types.OperatorParams
  spec: types.OperatorSpec
  scores: Array
  cosine: Any


@dataclasses.dataclass(frozen=True)
class Budget:
  """How many tokens stay, and in which form the decision is taken.

  Attributes:
    count: [] mass (soft) or number of tokens (masked, hard) that stays.
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
    centred: static; False where output rows have no token of their own.
    gathered: static; False where output row k is input row k.
  """

  log_kept: Array
  log_rest: Array
  index: Array
  log_mass: Array
  transport: Any = None
  centred: bool = True
  gathered: bool = True

  def take(self, values: Array, *, axis: int = 0) -> Array:
    """Entries of input rows in the order of the output rows.

    Without a gather where the rows are the same: its transpose is a scatter,
    which costs a CPU more than the rest of the operator.
    """
    if not self.gathered:
      return values
    return jnp.take(values, self.index, axis=axis, mode="clip")


def protected(site: Site) -> Bool[Array, "V"]:
  """True for the leading present tokens that always stay."""
  rows = jnp.arange(site.scores.shape[0], dtype=jnp.int32)
  return (rows < site.spec.protect) & types.present(site.tokens.log_mass)


def split(
  scores: Float[Array, "V"],
  log_mass: Float[Array, "V"],
  count: Any,
  *,
  temperature: Any,
) -> tuple[Float[Array, "V"], Float[Array, "V"]]:
  """Log of the kept and of the removed mass, soft or hard top-k, [V] each."""
  if temperature is None:
    return topk.hard_top_k(scores, log_mass, count)
  return topk.soft_top_k(scores, log_mass, count, temperature=temperature)


def _among(candidates, scores, log_mass, count, temperature):
  """Top-k over some tokens; the others stay and count in `count`."""
  outside = types.present(log_mass) & ~candidates
  count = count - jnp.sum(jnp.where(outside, jnp.exp(log_mass), 0))
  kept, rest = split(
    scores,
    jnp.where(candidates, log_mass, types.LOG_ZERO),
    count,
    temperature=temperature,
  )
  return jnp.where(outside, log_mass, kept), rest


def _emit(log_kept, log_rest, order, budget, transport=None) -> Selection:
  """Output rows of kept tokens: all V, or the first `rows` in an order."""
  count = log_kept.shape[0]
  if budget.rows is None:
    index = jnp.arange(count, dtype=jnp.int32)
  else:
    absent = ~types.present(log_kept)
    index = jnp.lexsort((order, absent))[: budget.rows].astype(jnp.int32)
  gathered = budget.rows is not None
  return Selection(
    log_kept=log_kept,
    log_rest=log_rest,
    index=index,
    log_mass=log_kept[index] if gathered else log_kept,
    transport=None if transport is None else transport(index),
    gathered=gathered,
  )


def _grid(site: Site) -> Float[Array, "V"]:
  """An even spread over the grid."""
  return score.grid(site.tokens, site.signals)


def _uniqueness(site: Site) -> Float[Array, "V"]:
  """Unlikeness to the tokens of greater importance, the kept ones first."""
  tokens = site.tokens
  return score.uniqueness(
    site.cosine, site.scores, tokens.log_mass, tokens.image
  )


# Functions of a `Site` that score the tokens for the second share of a budget.
DIVERSITY: dict[str, types.Kernel] = {
  "grid": types.Kernel(_grid, ("grid",)),
  "uniqueness": types.Kernel(_uniqueness, cosine=True),
}


def top_k(site: Site, budget: Budget) -> Selection:
  """The best tokens by score, a share `1 - kappa` of them by diversity.

  The first `kappa k` (hard: rounded to the nearest integer) go to the best
  scores, the others to the best diversity scores among what is left. Output
  rows ascend; ties go to the lowest index; protected tokens stay.
  """
  log_mass, hard = site.tokens.log_mass, budget.temperature is None
  candidates = ~protected(site)
  if site.spec.diversity == "none":
    kept, rest = _among(
      candidates, site.scores, log_mass, budget.count, budget.temperature
    )
  else:
    fixed = jnp.where(candidates, 0, jnp.exp(log_mass))
    free = budget.count - jnp.sum(fixed)
    first = site.params.kappa * free
    first = jnp.round(first) if hard else first
    kept_1, rest_1 = split(
      site.scores,
      jnp.where(candidates, log_mass, types.LOG_ZERO),
      first,
      temperature=budget.temperature,
    )
    diverse = DIVERSITY[site.spec.diversity].run(site)
    kept_2, rest = split(
      score.standardise(diverse, log_mass),
      rest_1,
      free - first,
      temperature=budget.temperature,
    )
    kept = jnp.logaddexp(kept_1, kept_2)
    kept = jnp.where(candidates, kept, log_mass)
    # Adding the two shares up again rounds; all of it stays exactly.
    everything = budget.count >= jnp.sum(jnp.exp(log_mass))
    kept = jnp.where(everything, log_mass, kept)
    rest = jnp.where(everything, types.LOG_ZERO, rest)
  kept = jnp.maximum(kept, types.LOG_ZERO)
  return _emit(kept, rest, jnp.arange(kept.shape[0], dtype=jnp.int32), budget)


def bipartite_minimum(tokens: int, *, protect: int = 0) -> int:
  """Fewest tokens that one bipartite step can leave: at most half merge.

  >>> bipartite_minimum(145, protect=1), bipartite_minimum(20)
  (73, 10)
  """
  return tokens - max((tokens - protect) // 2, 0)


def bipartite(site: Site, budget: Budget) -> Selection:
  """ToMe's matching: the tokens with the closest partner merge into it.

  Present tokens alternate between sets A (even) and B (odd), counted over the
  present ones. Each A token has one edge, to the B token of greatest cosine;
  the `valid - k` closest edges merge their A token away. Protected tokens
  neither give nor receive. The soft form is a soft top-k over the edges.

  Output order as published: protected, kept A (ascending where tokens are
  protected, by descending cosine of their edge otherwise), then B.
  """
  log_mass, image = site.tokens.log_mass, site.tokens.image
  count = log_mass.shape[0]
  if budget.rows is not None:
    least = bipartite_minimum(count, protect=site.spec.protect)
    if budget.rows < least:
      raise ValueError(
        f"keep is {budget.rows}, but one bipartite step of operator "
        f"{site.spec.name!r} leaves at least {least} of {count} tokens: "
        "spread the reduction over more sites"
      )
  valid = types.present(log_mass)
  odd = (jnp.cumsum(valid) - 1) % 2 == 1
  free = valid & ~protected(site)
  giver, taker = free & ~odd, free & odd
  allowed = giver[:, None] & taker[None, :] & (image[:, None] == image[None, :])
  edges = jnp.where(allowed, site.cosine, -jnp.inf)
  best = jnp.max(edges, 1)
  partner = jnp.argmax(edges, 1).astype(jnp.int32)
  giver &= jnp.isfinite(best)
  best = jnp.where(giver, best, 0)
  log_giver = jnp.where(giver, log_mass, types.LOG_ZERO)
  distance = -score.standardise(best, log_giver)
  if budget.temperature is None:
    # Rank by closeness, so that ties merge the lowest index first.
    closeness = jnp.where(giver, best, -jnp.inf)
    rank = topk.descending_rank(closeness)
    leaving = giver & (rank < jnp.sum(valid) - topk.whole(budget.count))
    kept = jnp.where(leaving, types.LOG_ZERO, log_mass)
    rest = jnp.where(leaving, log_mass, types.LOG_ZERO)
    place = jnp.arange(count, dtype=jnp.int32) if site.spec.protect else rank
  else:
    kept, rest = _among(
      giver, distance, log_mass, budget.count, budget.temperature
    )
    place = jnp.arange(count, dtype=jnp.int32)
  in_b = free & odd
  group = jnp.where(~free, 0, jnp.where(in_b, 2, 1))
  place = jnp.where(group == 1, place, jnp.arange(count, dtype=jnp.int32))

  def transport(index: Int[Array, "K"]) -> Float[Array, "V K"]:
    hit = (partner[:, None] == index[None, :]) & giver[:, None]
    return hit.astype(log_mass.dtype)

  return _emit(kept, rest, group * count + place, budget, transport)


def pooled(site: Site, budget: Budget) -> Selection:
  """Average cells over the grid: output row k is cell k, without a centre.

  The k cells form rows x columns, the pair of divisors of k whose aspect is
  nearest to the grid's, with adaptive boundaries; a token on a boundary gives
  equal parts to the cells that share it. Protected tokens keep rows of their
  own, in front, and count in k. The decision is fixed, so the soft form is the
  masked one: k is rounded and takes no gradient.
  """
  tokens = site.tokens
  count = budget.rows if budget.rows is not None else budget.count
  slots = budget.rows if budget.rows is not None else tokens.size.shape[0]
  member, index = cells.members(
    tokens.position,
    types.present(tokens.log_mass),
    count,
    grid=site.signals.grid,
    slots=slots,
    protect=site.spec.protect,
  )
  inside = jnp.where(member > 0, tokens.log_mass[:, None], types.LOG_ZERO)
  return Selection(
    log_kept=jnp.full_like(tokens.log_mass, types.LOG_ZERO),
    log_rest=tokens.log_mass,
    index=index,
    log_mass=jnp.max(inside, 0),
    transport=member.astype(tokens.log_mass.dtype),
    centred=False,
  )


# Functions of a `Site` and a `Budget`.
KERNELS: dict[str, types.Kernel] = {
  "top_k": types.Kernel(top_k),
  "bipartite": types.Kernel(bipartite, cosine=True),
  "cells": types.Kernel(pooled, ("grid",)),
}
