"""Selection kernels that rank pairs of tokens instead of tokens (ToMe)."""

import jax
import jax.numpy as jnp

from eos_jax.array_typing import Array, Bool, Float, Int
from eos_jax.ops import site as site_lib
from eos_jax.ops import topk, types


def bipartite_minimum(tokens: int, *, protect: int = 0) -> int:
  """Fewest tokens that one bipartite step can leave: at most half merge.

  >>> bipartite_minimum(145, protect=1), bipartite_minimum(20)
  (73, 10)
  """
  return tokens - max((tokens - protect) // 2, 0)


def _edges(
  site: site_lib.Site, giver: Bool[Array, "V"], taker: Bool[Array, "V"]
) -> tuple[Float[Array, "V"], Int[Array, "V"]]:
  """Cosine of each giver's best edge (-inf without one), and its taker."""
  image = site.tokens.image
  allowed = giver[:, None] & taker[None, :] & (image[:, None] == image[None, :])
  edges = jnp.where(allowed, site.cosine, -jnp.inf)
  return jnp.max(edges, 1), jnp.argmax(edges, 1).astype(jnp.int32)


def _transport(partner, giver, dtype):
  """Function of the output rows' index: each giver's edge, as shares."""

  def shares(index: Int[Array, "K"]) -> Float[Array, "V K"]:
    hit = (partner[:, None] == index[None, :]) & giver[:, None]
    return hit.astype(dtype)

  return shares


def bipartite(
  site: site_lib.Site, budget: site_lib.Budget
) -> site_lib.Selection:
  """ToMe's matching: the tokens with the closest partner merge into it.

  Present tokens alternate between sets A (even) and B (odd), counted over the
  present ones. Each A token has one edge, to the B token of greatest cosine;
  the `valid - k` closest edges merge their A token away. Protected tokens
  neither give nor receive. The soft form is the masked one.

  Output order as published: protected, kept A (ascending where tokens are
  protected, by descending cosine of their edge otherwise), then B. Where
  nothing merges the tokens stay in order.
  """
  return _match(site, budget, distilled=False)


def bipartite_distilled(
  site: site_lib.Site, budget: site_lib.Budget
) -> site_lib.Selection:
  """ToMe's matching for a distillation token without a class token.

  The second present token, the first of set B, neither gives nor receives.
  Output order as published: the first kept A, the distillation token, the other
  kept A by descending cosine of their edge, then the other B.
  """
  if site.spec.protect:
    raise ValueError(
      f"protect is {site.spec.protect} for operator {site.spec.name!r}, but"
      " 'bipartite_distilled' is for models without a class token: set protect"
      " to 0, or use 'bipartite' with protect=2 for both tokens"
    )
  return _match(site, budget, distilled=True)


def _match(site, budget, *, distilled):
  """The matching, with the second token set aside if `distilled`."""
  log_mass, spec = site.tokens.log_mass, site.spec
  count = log_mass.shape[0]
  valid = types.present(log_mass)
  _check_least(budget, valid, spec, spec.protect + distilled)
  number = jnp.cumsum(valid, dtype=jnp.int32) - 1
  odd = number % 2 == 1
  fixed = valid & (number == 1) if distilled else site_lib.protected(site)
  giver, taker = valid & ~fixed & ~odd, valid & ~fixed & odd
  best, partner = _edges(site, giver, taker)
  edge = giver & jnp.isfinite(best)
  # Rank by closeness, so that ties merge the lowest index first.
  rank = topk.descending_rank(jnp.where(edge, best, -jnp.inf))
  present = jnp.sum(valid, dtype=jnp.int32)
  removed = present - topk.whole(budget.count)
  leaving = edge & (rank < removed)
  rows = jnp.arange(count, dtype=jnp.int32)
  place = rank if spec.protect == 0 else rows
  if distilled:
    ahead = jnp.where(fixed, 2 * removed + 1, 2 * rank)
    place = jnp.where(fixed | giver, ahead, 2 * count + rows)
  else:
    group = jnp.where(giver, 1, jnp.where(taker, 2, 0))
    place = group * count + jnp.where(giver, place, rows)
  # A traced count cannot be refused: what it would leave is no number.
  shares = _transport(partner, edge, log_mass.dtype)
  possible = jnp.where(removed <= jnp.sum(edge, dtype=jnp.int32), 1, jnp.nan)
  return site_lib.emit(
    site,
    budget,
    jnp.where(leaving, types.LOG_ZERO, log_mass),
    jnp.where(leaving, log_mass, types.LOG_ZERO),
    site_lib.Rows(place=jnp.where(removed > 0, place, rows)),
    lambda index: shares(index) * possible.astype(log_mass.dtype),
  )


def _check_least(budget, valid, spec, protect):
  """Refuses a known count below what one step can leave."""
  keep, tokens = budget.rows, valid.shape[0]
  if keep is None:
    if any(isinstance(a, jax.core.Tracer) for a in (budget.count, valid)):
      return
    keep, tokens = float(budget.count), int(jnp.sum(valid))
  least = bipartite_minimum(tokens, protect=protect)
  if keep < least:
    raise ValueError(
      f"keep is {keep:g}, but one bipartite step of operator {spec.name!r}"
      f" leaves at least {least} of {tokens} tokens: spread the reduction over"
      " more sites"
    )


def kth(site: site_lib.Site, budget: site_lib.Budget) -> site_lib.Selection:
  """ToMe's k-th variant: the last of every `spec.stride` tokens is a target.

  All others merge into their most similar target of the whole picture. What
  is left over at the end of the list is lost, as in the published code
  (`facebookresearch/ToMe`, tome/merge.py). Protected tokens stay in front and
  are not counted off. The budget has to be the number of targets.
  """
  log_mass, step = site.tokens.log_mass, site.spec.stride
  count, fixed = log_mass.shape[0], site.spec.protect
  if step < 2:
    raise ValueError(
      f"stride is {step} for operator {site.spec.name!r}: 'kth' needs groups of"
      " 2 or more tokens"
    )
  targets = (count - fixed) // step
  if budget.rows is not None and budget.rows != targets + fixed:
    raise ValueError(
      f"keep is {budget.rows - fixed}, but of {count - fixed} tokens every"
      f" {step}th is a target of operator {site.spec.name!r}: set keep to"
      f" {targets}"
    )
  stays = types.present(log_mass) & site_lib.protected(site)
  valid = types.present(log_mass) & ~stays
  place = jnp.cumsum(valid) - 1
  whole = valid & (place < jnp.sum(valid) // step * step)
  taker = whole & (place % step == step - 1)
  giver = whole & ~taker
  _, partner = _edges(site, giver, taker)
  kept = jnp.where(taker | stays, log_mass, types.LOG_ZERO)
  rest = jnp.where(taker | stays, types.LOG_ZERO, log_mass)
  rows = site_lib.Rows(place=jnp.arange(count, dtype=jnp.int32))
  transport = _transport(partner, giver, log_mass.dtype)
  return site_lib.emit(site, budget, kept, rest, rows, transport)
