"""An order of the cells of a raster whose every prefix spreads evenly."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from eos_jax.array_typing import Array, Int

# Repulsion is added up in fixed point, in two words of this many bits each, so
# that the order is the same on every device.
_BITS = 22
# Sums that differ by less are equal, in units of the lower word.
_TIE = 1 << 14


@functools.lru_cache(maxsize=32)
def rank(rows: int, columns: int) -> np.ndarray:
  """Rank of each raster cell in an order that spreads evenly, [rows * columns].

  Farthest-point order on the torus: every prefix of it covers the grid about
  evenly, and for a 12 x 12 grid the first 4 and the first 16 are lattices of
  stride 6 and 3. Of equally far cells the one that the others repel least
  (sum of 1 / distance^2) comes next, then the lowest raster index.
  """
  r, c = np.divmod(np.arange(rows * columns), columns)
  nearest = np.full(rows * columns, np.inf)
  repulsion = np.zeros(rows * columns)
  found = np.zeros(rows * columns, np.int32)
  pick = rows // 3 * columns + columns // 3
  for step in range(rows * columns):
    found[pick] = step
    dr, dc = np.abs(r - r[pick]), np.abs(c - c[pick])
    dr, dc = np.minimum(dr, rows - dr), np.minimum(dc, columns - dc)
    squared = dr * dr + dc * dc
    nearest = np.minimum(nearest, squared)
    repulsion += 1 / np.maximum(squared, 1)
    # Rounded, so that the order does not hang on the last bits.
    far = np.where(nearest == nearest.max(), repulsion.round(9), np.inf)
    pick = int(np.argmin(far))
  return found


def rank_within(
  extent: Int[Array, "2"], grid: tuple[int, int]
) -> Int[Array, "V"]:
  """`rank` of an image in the upper left corner of a raster, [rows * columns].

  Args:
    extent: [2] rows and columns of the image, traced or not.
    grid: rows and columns of the raster.

  Returns:
    Ranks by raster index; cells beyond the image come last.
  """
  cells, columns = grid[0] * grid[1], grid[1]
  extent = jnp.asarray(extent, jnp.int32)
  height, width = extent[0], extent[1]
  index = jnp.arange(cells, dtype=jnp.int32)
  r, c = index // columns, index % columns
  inside = (r < height) & (c < width)
  high, low = (jnp.asarray(word) for word in _inverses(grid))

  def visit(step, state):
    pick, nearest, upper, lower, found = state
    found = found.at[pick].set(step)
    dr, dc = jnp.abs(r - r[pick]), jnp.abs(c - c[pick])
    dr, dc = jnp.minimum(dr, height - dr), jnp.minimum(dc, width - dc)
    squared = jnp.where(inside, dr * dr + dc * dc, 0)
    nearest = jnp.minimum(nearest, squared)
    lower = lower + low[squared]
    upper = upper + high[squared] + (lower >> _BITS)
    lower = lower & (2**_BITS - 1)
    farthest = jnp.max(jnp.where(inside, nearest, -1))
    best = inside & (nearest == farthest)
    pick = jnp.argmax(best & _near_least(upper, lower, best))
    return pick.astype(jnp.int32), nearest, upper, lower, found

  start = height // 3 * columns + width // 3
  most = jnp.iinfo(jnp.int32).max
  nearest = jnp.full(cells, most, jnp.int32)
  none = jnp.zeros(cells, jnp.int32)
  last = jnp.full(cells, cells, jnp.int32)
  state = (start, nearest, none, none, last)
  return jax.lax.fori_loop(0, height * width, visit, state)[-1]


def _near_least(upper, lower, among):
  """Where a sum in two words is the least among some, or all but the least."""
  most = jnp.iinfo(jnp.int32).max
  first = jnp.min(jnp.where(among, upper, most))
  second = jnp.min(jnp.where(among & (upper == first), lower, most))
  # The upper word of a sum that is nearly the least is at most one greater.
  step = jnp.clip(upper - first, 0, 1) << _BITS
  return (upper - first <= 1) & (step + lower - second <= _TIE)


@functools.lru_cache(maxsize=32)
def _inverses(grid):
  """1 / d^2 of every squared distance on a torus, as two words each."""
  most = (grid[0] // 2) ** 2 + (grid[1] // 2) ** 2
  whole = [(1 << 2 * _BITS) // max(d, 1) for d in range(most + 1)]
  words = [divmod(value, 1 << _BITS) for value in whole]
  return tuple(np.array(word, np.int32) for word in zip(*words, strict=True))
