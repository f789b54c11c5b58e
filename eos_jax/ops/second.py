"""How the second share of a budget is spent, on what the first one left.

A kernel maps a `Site` and what is `Left` to scores [V]; the best of the tokens
left, by these scores, are the second share. Kernels marked discrete decide
about sets of tokens and take the hard decision in every form; no gradient
passes through it. `KERNELS` lists them by name.
"""

import dataclasses

import jax
import jax.numpy as jnp

from eos_jax.array_typing import Array, Float
from eos_jax.ops import score, topk, types
from eos_jax.ops import site as site_lib


@dataclasses.dataclass(frozen=True)
class Left:
  """What the first share leaves to the second.

  Attributes:
    log_mass: [V] log-mass that is left in each row.
    first: [] how many tokens the first share took.
    count: [] how many the second share may take.
  """

  log_mass: Array
  first: Array
  count: Array


def grid(site: site_lib.Site, left: Left) -> Float[Array, "V"]:
  """An even spread over the grid."""
  del left
  spread = score.grid(site.tokens, site.signals)
  return score.standardise(spread, site.tokens.log_mass)


def uniqueness(site: site_lib.Site, left: Left) -> Float[Array, "V"]:
  """Unlikeness to the tokens of greater importance, the kept ones first."""
  del left
  tokens = site.tokens
  unlike = score.uniqueness(
    site.cosine, site.scores, tokens.log_mass, tokens.image
  )
  return score.standardise(unlike, tokens.log_mass)


def stride(site: site_lib.Site, left: Left) -> Float[Array, "V"]:
  """Equal steps through the list of what is left, in raster order.

  Of M tokens left every max(1, M // count)-th, from the first on: VisionZip's
  targets (`dvlab-research/VisionZip`, visionzip/clip_encoder.py).
  """
  there = types.present(left.log_mass)
  place = jnp.cumsum(there) - 1
  count = topk.whole(left.count)
  step = jnp.maximum(jnp.sum(there) // jnp.maximum(count, 1), 1)
  target = there & (place % step == 0) & (place // step < count)
  return target.astype(site.scores.dtype)


def raster(site: site_lib.Site, left: Left) -> Float[Array, "V"]:
  """Equal steps g over the whole raster, its last cell left out.

  g = V // n // 3 for a first share of n: PruMerge+ adaptive
  (`42Shawn/LLaVA-PruMerge`, clip_encoder.py). The second share has to be as
  large as what is not yet taken of them, see `count.raster_rows`.
  """
  (rows, columns), position = site.signals.grid, site.tokens.position
  if site.signals.extent is not None:
    row, column = position // columns, position % columns
    rows, columns = site.signals.extent
    position = row * columns + column
  step = raster_step(rows * columns, topk.whole(left.first))
  target = (position % step == 0) & (position < rows * columns - 1)
  return (target & types.present(left.log_mass)).astype(site.scores.dtype)


def raster_step(tokens: int | Array, first: Array) -> Array:
  """The step g of `raster`, at least 1."""
  return jnp.maximum(tokens // jnp.maximum(first, 1) // 3, 1)


def max_min(site: site_lib.Site, left: Left) -> Float[Array, "V"]:
  """Greedy max-min distance: next comes who is farthest from all picked ones.

  Distance is 1 minus the cosine. Where nothing is picked yet, the token whose
  nearest other one is farthest begins: DivPrune (`vbdi/divprune`,
  LLaVA/llava/model/llava_arch.py). Ties go to the lowest index.
  """
  there = types.present(left.log_mass)
  picked = types.present(site.tokens.log_mass) & ~there
  distance = 1 - jax.lax.stop_gradient(site.cosine)
  count = there.shape[0]
  others = there[:, None] & ~jnp.eye(count, dtype=bool)
  alone = jnp.min(jnp.where(others, distance, jnp.inf), axis=0)
  known = jnp.min(jnp.where(picked[:, None], distance, jnp.inf), axis=0)
  # One lonely token is infinitely far from nobody.
  nearest = jnp.where(jnp.any(picked), known, jnp.minimum(alone, 1e9))

  def pick(step, state):
    free, nearest, rank = state
    best = jnp.argmax(jnp.where(free, nearest, -jnp.inf))
    started = jnp.any(picked) | (step > 0)
    nearest = jnp.where(
      started, jnp.minimum(nearest, distance[best]), distance[best]
    )
    return free.at[best].set(False), nearest, rank.at[best].set(step)

  rank = _everywhere(there, count)
  steps = jnp.clip(topk.whole(left.count), 0, jnp.sum(there))
  rank = jax.lax.fori_loop(0, steps, pick, (there, nearest, rank))[2]
  return -rank.astype(site.scores.dtype)


def _everywhere(rows, value):
  """An int32 in each row, varying over devices as the rows do.

  Under `jax.shard_map` a loop has to start from what varies as its result does.
  """
  return jnp.where(rows, value, value).astype(jnp.int32)


def pivots(site: site_lib.Site, left: Left) -> Float[Array, "V"]:
  """For each pivot in turn, the tokens least like it among those left.

  P pivots (`signals.pivots`, in the order of their visits) take k = count / P
  each, rounded up, so that the last may get fewer: DART (`ZichenWen1/DART`,
  modeling_llama_self.py), whose count is a multiple of P.
  """
  there = types.present(left.log_mass)
  states = score.unit(jax.lax.stop_gradient(site.signals.states))
  centres = score.unit(jax.lax.stop_gradient(site.signals.pivots))
  number, count = centres.shape[0], there.shape[0]
  share = -(-topk.whole(left.count) // number)

  def visit(state, visited):
    free, rank = state
    step, pivot = visited
    unlike = jnp.where(free, -types.product(states, pivot), -jnp.inf)
    place = topk.descending_rank(unlike)
    takes = free & (place < share)
    rank = jnp.where(takes, step * count + place, rank)
    return (free & ~takes, rank), None

  start = (there, _everywhere(there, number * count))
  steps = jnp.arange(number, dtype=jnp.int32)
  (_, rank), _ = jax.lax.scan(visit, start, (steps, centres))
  return -rank.astype(site.scores.dtype)


def density(site: site_lib.Site, left: Left) -> Float[Array, "V"]:
  """Density peaks among the recycled tokens: centres of clusters.

  With d the Euclidean distance over sqrt(D) and n clusters: density r_i =
  exp(-mean of the n smallest d_ij^2, itself included) + 1e-6 noise_i,
  separation g_i = least d_ij to a denser token (without one, the greatest
  distance of all), score g_i r_i: SparseVLM (`Gumpest/SparseVLMs`, utils.py).
  The rows picked are not their own centres: they hold the mean of a cluster.
  """
  candidates = site_lib.recycled(site, types.present(left.log_mass))
  rows, real = site_lib.recycled_rows(site, candidates)
  both = real[:, None] & real[None, :]
  at = lambda values: jnp.take(values, rows, axis=0, mode="clip")
  x = at(jax.lax.stop_gradient(site.tokens.x))
  distance = score.distances(x, x)
  squared = jnp.sort(jnp.where(both, distance**2, jnp.inf), axis=1)
  place = jnp.arange(squared.shape[1], dtype=jnp.int32)
  near = place < jnp.minimum(topk.whole(left.count), jnp.sum(real))
  number = jnp.maximum(jnp.sum(near), 1).astype(squared.dtype)
  mean = jnp.sum(jnp.where(near[None], squared, 0), 1) / number
  dense = jnp.exp(-mean) + 1e-6 * at(types.working(site.signals.noise))
  denser = both & (dense[None, :] > dense[:, None])
  apart = jnp.min(jnp.where(denser, distance, jnp.inf), axis=1)
  widest = jnp.max(jnp.where(both, distance, 0))
  apart = jnp.where(jnp.any(denser, axis=1), apart, widest)
  none = jnp.where(candidates, -1, jnp.full((), -1, dense.dtype))
  return none.at[rows].set(apart * dense, mode="drop")


def _shares(run, signals=(), **marks):
  """A kernel, which spends one share of one budget."""
  return types.Kernel(run, signals, one_count=True, **marks)


# Functions of a `Site` and what is `Left`.
KERNELS: dict[str, types.Kernel] = {
  "grid": _shares(grid, ("grid",)),
  "uniqueness": _shares(uniqueness, cosine=True),
  "stride": _shares(stride, discrete=True),
  "raster": _shares(raster, ("grid",), discrete=True, one_image=True),
  "max_min": _shares(max_min, cosine=True, discrete=True),
  "pivots": _shares(pivots, ("states", "pivots"), discrete=True),
  "density": _shares(
    density, ("noise",), discrete=True, centred=False, one_image=True
  ),
}
