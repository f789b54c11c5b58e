"""Selection kernels that rank pairs of tokens instead of tokens (ToMe)."""

import jax.numpy as jnp

from eos_jax.array_typing import Array, Bool, Float, Int
from eos_jax.ops import score, topk, types
from eos_jax.ops import site as site_lib


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
  neither give nor receive. The soft form is a soft top-k over the edges.

  Output order as published: protected, kept A (ascending where tokens are
  protected, by descending cosine of their edge otherwise), then B.
  """
  log_mass = site.tokens.log_mass
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
  free = valid & ~site_lib.protected(site)
  giver, taker = free & ~odd, free & odd
  best, partner = _edges(site, giver, taker)
  giver &= jnp.isfinite(best)
  best = jnp.where(giver, best, 0)
  rows = jnp.arange(count, dtype=jnp.int32)
  place = rows
  if budget.temperature is None:
    # Rank by closeness, so that ties merge the lowest index first.
    closeness = jnp.where(giver, best, -jnp.inf)
    rank = topk.descending_rank(closeness)
    leaving = giver & (rank < jnp.sum(valid) - topk.whole(budget.count))
    kept = jnp.where(leaving, types.LOG_ZERO, log_mass)
    rest = jnp.where(leaving, log_mass, types.LOG_ZERO)
    # Where nothing merges nothing is sorted, as in the published code.
    sorts = site.spec.protect == 0 and budget.rows != count
    place = rank if sorts else rows
  else:
    log_giver = jnp.where(giver, log_mass, types.LOG_ZERO)
    distance = -score.standardise(best, log_giver)
    kept, rest = site_lib.among(
      site, giver, distance, budget.count, budget.temperature
    )
  group = jnp.where(~free, 0, jnp.where(odd, 2, 1))
  place = group * count + jnp.where(group == 1, place, rows)
  return site_lib.emit(
    site,
    budget,
    kept,
    rest,
    site_lib.Rows(place=place),
    _transport(partner, giver, log_mass.dtype),
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
