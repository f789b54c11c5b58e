"""Stage 2: which tokens stay, and how much of the others leaves its row.

A kernel maps a `Site` and a `Budget` to a `Selection`. The same kernel serves
the three forms of an operator: soft (`budget.temperature` given), masked (a
hard decision at V rows, `budget.count` traced) and hard (`budget.rows`, the
static number of output rows). `KERNELS` lists them by name.
"""

import jax.numpy as jnp

from eos_jax.ops import cells, pairs, second, topk, types
from eos_jax.ops import site as site_lib


def top_k(site: site_lib.Site, budget: site_lib.Budget) -> site_lib.Selection:
  """The best tokens by score, a share `1 - kappa` of them by another kernel.

  The first `kappa k` (hard: rounded to the nearest integer) go to the best
  scores, the others to what `spec.diversity` picks among the rest. Ties go to
  the lowest index; protected tokens stay. A fused row counts in k and stands
  in the row of the best removed token.
  """
  spec, log_mass = site.spec, site.tokens.log_mass
  free = ~site_lib.protected(site)
  count = budget.count - spec.fused
  if spec.diversity == "none":
    kept, rest = site_lib.among(
      site, free, site.scores, count, budget.temperature
    )
    diverse, later = None, None
  else:
    kept, rest, diverse, later = _two_shares(site, free, count, budget)
  kept = jnp.maximum(kept, types.LOG_ZERO)
  new = None
  if later is not None and not second.KERNELS[spec.diversity].centred:
    new, kept = later, jnp.where(later, types.LOG_ZERO, kept)
    rest = jnp.where(later, log_mass, rest)
  fused = None
  if spec.fused:
    fused = _best_of(site.scores, types.present(rest))
    new = fused if new is None else new | fused
  rows = site_lib.Rows(
    place=_places(site, diverse, later, fused),
    new=new,
    fused=fused,
    second=later,
  )
  return site_lib.emit(site, budget, kept, rest, rows)


def _two_shares(site, free, count, budget):
  """Kept and removed log-mass, scores and members of the second share."""
  log_mass, temperature = site.tokens.log_mass, budget.temperature
  fixed = jnp.where(free, 0, jnp.exp(log_mass))
  count = count - jnp.sum(fixed)
  first = site.params.kappa * count
  first = jnp.round(first) if temperature is None else first
  kept_1, rest_1 = site_lib.split(
    site,
    site.scores,
    jnp.where(free, log_mass, types.LOG_ZERO),
    first,
    temperature=temperature,
  )
  kernel = second.KERNELS[site.spec.diversity]
  diverse = kernel.run(site, second.Left(rest_1, first, count - first))
  kept_2, rest = site_lib.split(
    site, diverse, rest_1, count - first, temperature=temperature
  )
  later = types.present(kept_2) if temperature is None else None
  kept = jnp.logaddexp(kept_1, kept_2)
  kept = jnp.where(free, kept, log_mass)
  # Adding the two shares up again rounds; all of it stays exactly.
  everything = budget.count >= jnp.sum(jnp.exp(log_mass))
  kept = jnp.where(everything, log_mass, kept)
  rest = jnp.where(everything, types.LOG_ZERO, rest)
  return kept, rest, diverse, later


def _best_of(scores, candidates):
  """True at the candidate of the best score, nowhere without one."""
  best = jnp.argmax(jnp.where(candidates, scores, -jnp.inf))
  return candidates & (jnp.arange(scores.shape[0]) == best)


def _places(site, diverse, later, fused):
  """Order of the output rows, as the spec says."""
  spec, count = site.spec, site.scores.shape[0]
  place = jnp.arange(count, dtype=jnp.int32)
  if spec.order == "score":
    ahead = jnp.where(site_lib.protected(site), jnp.inf, site.scores)
    place = topk.descending_rank(ahead)
  if spec.order_second != "merged" and later is not None:
    behind = jnp.arange(count, dtype=jnp.int32)
    if spec.order_second == "score":
      behind = topk.descending_rank(diverse)
    place = jnp.where(later, count + behind, place)
  if fused is not None:
    place = jnp.where(fused, 2 * count, place)
  return place


def pooled(site: site_lib.Site, budget: site_lib.Budget) -> site_lib.Selection:
  """Average cells over the grid: output row k is cell k, without a centre.

  The k cells form rows x columns, the pair of divisors of k whose aspect is
  nearest to the grid's, with adaptive boundaries; a token on a boundary gives
  equal parts to the cells that share it. Protected tokens keep rows of their
  own, in front, and count in k. The decision is fixed, so the soft form is the
  masked one: k is rounded and takes no gradient.
  """
  slots = _slots(site, budget)
  count = budget.count if budget.rows is None else budget.rows
  member, index = cells.members(
    site.tokens.position,
    types.present(site.tokens.log_mass),
    count,
    grid=site.signals.grid,
    extent=site.signals.extent,
    slots=slots,
    protect=site.spec.protect,
  )
  return _cells(site, member, index)


def blocks(site: site_lib.Site, budget: site_lib.Budget) -> site_lib.Selection:
  """Square blocks of `spec.stride` tokens a side, the remainder cut off.

  As in `mu-cai/matryoshka-mm` (llava_arch.py). The number of blocks is fixed
  by grid and stride, and the budget has to be that number; an image that does
  not fill the grid has fewer, and the rows after them stay empty.
  """
  spec, grid = site.spec, site.signals.grid
  if spec.protect:
    raise ValueError(
      f"protect is {spec.protect}, but operator {spec.name!r} makes rows of"
      " blocks alone: set protect to 0 and leave the class token out, or use"
      " 'cells'"
    )
  shape = cells.block_shape(grid, spec.stride)
  if budget.rows is not None and budget.rows != shape[0] * shape[1]:
    raise ValueError(
      f"keep is {budget.rows}, but blocks of {spec.stride} x {spec.stride}"
      f" tokens of operator {spec.name!r} give {shape[0]} x {shape[1]} on a"
      f" grid of {grid[0]} x {grid[1]}: set keep to {shape[0] * shape[1]}, or"
      " use 'cells' for any number"
    )
  member, index = cells.block_members(
    site.tokens.position,
    types.present(site.tokens.log_mass),
    grid=grid,
    extent=site.signals.extent,
    side=spec.stride,
    slots=_slots(site, budget),
  )
  return _cells(site, member, index)


def _slots(site, budget):
  """Number of output rows."""
  return site.scores.shape[0] if budget.rows is None else budget.rows


def _cells(site, member, index):
  """Output rows that are weighted means of their members."""
  log_mass = site.tokens.log_mass
  inside = jnp.where(member > 0, log_mass[:, None], types.LOG_ZERO)
  return site_lib.Selection(
    log_kept=jnp.full_like(log_mass, types.LOG_ZERO),
    log_rest=log_mass,
    index=index,
    log_mass=jnp.max(inside, 0),
    transport=member.astype(log_mass.dtype),
    centred=jnp.zeros(member.shape[1], bool),
  )


def two_lists(
  site: site_lib.Site, budget: site_lib.Budget
) -> site_lib.Selection:
  """The best by `self_sums` and the best by `cross_sums`, each by itself.

  A share kappa of k (rounded) goes to the first list. The lists may overlap,
  and the hard form then holds a row twice, as `TerryPei/CSP` stores a key
  twice (modify_llama.py); the masked and soft forms hold it once. Where k is
  the number of present tokens or more, each stays once.
  """
  log_mass, signals = site.tokens.log_mass, site.signals
  count = topk.whole(budget.count)
  first = topk.whole(site.params.kappa * count.astype(log_mass.dtype))
  present = types.present(log_mass)
  everything = count >= jnp.sum(present, dtype=jnp.int32)
  first = jnp.where(everything, count, first)
  lists = [
    topk.hard_top_k(sums, log_mass, number)[0]
    for sums, number in (
      (signals.self_sums, first),
      (signals.cross_sums, count - first),
    )
  ]
  kept = jnp.maximum(*lists)
  rest = jnp.where(types.present(kept), types.LOG_ZERO, log_mass)
  if budget.rows is None:
    order = jnp.arange(kept.shape[0], dtype=jnp.int32)
    return site_lib.emit(site, budget, kept, rest, site_lib.Rows(place=order))
  both = jnp.concatenate(lists)
  there = types.present(both).astype(both.dtype)
  order = topk.best_first(there, budget.rows)
  return site_lib.Selection(
    log_kept=kept,
    log_rest=rest,
    index=(order % kept.shape[0]).astype(jnp.int32),
    log_mass=both[order],
  )


def _one_image(run, **reads):
  """A discrete kernel that acts on the tokens of one image."""
  return types.Kernel(run, discrete=True, one_image=True, **reads)


# Functions of a `Site` and a `Budget`.
KERNELS: dict[str, types.Kernel] = {
  "top_k": types.Kernel(top_k),
  "bipartite": _one_image(pairs.bipartite, cosine=True),
  "bipartite_distilled": _one_image(pairs.bipartite_distilled, cosine=True),
  "kth": _one_image(pairs.kth, cosine=True),
  "cells": _one_image(pooled, signals=("grid",), pooled=True),
  "blocks": _one_image(blocks, signals=("grid",), pooled=True),
  "two_lists": types.Kernel(
    two_lists, ("self_sums", "cross_sums"), discrete=True, one_count=True
  ),
}
