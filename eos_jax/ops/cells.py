"""A grid of average cells over the raster of an image."""

import functools
import math

import jax.numpy as jnp
import numpy as np

from eos_jax.array_typing import Array, Bool, Float, Int, Scalar
from eos_jax.ops import topk


@functools.lru_cache(maxsize=4096)
def cell_shape(count: int, grid: tuple[int, int]) -> tuple[int, int]:
  """Rows and columns of `count` cells, aspect nearest to that of the grid.

  Exactly rows x columns = count; a prime count gives a single row or column.
  Of two equally near shapes the one with fewer rows is taken.

  >>> cell_shape(16, (12, 12)), cell_shape(48, (12, 12)), cell_shape(7, (4, 4))
  ((4, 4), (6, 8), (1, 7))
  """
  if count < 1:
    return (1, 1)
  divisors = [r for r in range(1, count + 1) if count % r == 0]
  aspect = math.log(grid[0] / grid[1])
  off = lambda r: round(abs(math.log(r / (count // r)) - aspect), 9)
  rows = min(divisors, key=lambda r: (off(r), r))
  return rows, count // rows


@functools.lru_cache(maxsize=32)
def _shape_table(most: int, grid: tuple[int, int]) -> np.ndarray:
  """Shapes of 0..most cells, [most + 1, 2]: a traced count looks them up."""
  return np.asarray([cell_shape(k, grid) for k in range(most + 1)], np.int32)


def _shape_within(count, extent, most):
  """`cell_shape` of a traced count, 1 to `most`, and a traced grid, [2]."""
  rows = jnp.arange(1, most + 1, dtype=jnp.int32)
  # The aspect of rows^2 / count over that of the grid, as a ratio above 1.
  above = (rows * rows * extent[1]).astype(jnp.float32)
  below = (count * extent[0]).astype(jnp.float32)
  off = jnp.maximum(above / below, below / above)
  off = jnp.where(count % rows == 0, off, jnp.inf)
  # Within rounding: equally near, and the fewer rows are taken.
  rows = jnp.argmax(off <= jnp.min(off) * (1 + 1e-6)).astype(jnp.int32) + 1
  return jnp.stack([rows, count // rows])


def members(
  position: Int[Array, "V"],
  valid: Bool[Array, "V"],
  count: Scalar,
  *,
  grid: tuple[int, int],
  extent: Int[Array, "2"] | None = None,
  slots: int,
  protect: int = 0,
) -> tuple[Float[Array, "V K"], Int[Array, "K"]]:
  """Share of each token in each cell, and one member to stand for each cell.

  Cell (i, j) of a rows x columns partition covers grid rows
  floor(i R / rows) .. ceil((i + 1) R / rows) - 1 and columns alike: an exact
  partition where rows divide R, otherwise neighbours overlap by one line,
  whose tokens are shared in equal parts. No gradients.

  Args:
    position: [V] raster index of each token.
    valid: [V] False for absent tokens, which belong nowhere.
    count: [] number of cells plus protected tokens, traced or not.
    grid: rows and columns of the raster.
    extent: (R, C) of the image in the raster; None = those of the raster.
    slots: static K, output rows; those from `count` on stay empty.
    protect: leading tokens with an output row of their own, in front.

  Returns:
    [V, K] shares, rows summing to 1 (0 for absent tokens), and [K] input row
    of the present member nearest to the middle of each cell.
  """
  tokens = position.shape[0]
  count = topk.whole(count) - protect
  most = max(slots - protect, 0)
  if extent is None:
    table = jnp.asarray(_shape_table(most, grid))
    shape = table[jnp.clip(count, 0, most)]
    side = jnp.asarray(grid, jnp.int32)
  else:
    side = jnp.asarray(extent, jnp.int32)
    count = jnp.minimum(count, side[0] * side[1])  # a cell for each token
    shape = _shape_within(jnp.clip(count, 1, max(most, 1)), side, most)
  cell = jnp.arange(slots, dtype=jnp.int32) - protect
  used = (cell >= 0) & (cell < count)
  place = jnp.stack([cell // shape[1], cell % shape[1]], 1)
  low = place * side[None, :] // shape[None, :]
  high = -((-(place + 1) * side[None, :]) // shape[None, :])
  at = jnp.stack([position // grid[1], position % grid[1]], 1)
  inside = (at[:, None] >= low[None]) & (at[:, None] < high[None])
  free = valid & (jnp.arange(tokens, dtype=jnp.int32) >= protect)
  member = jnp.all(inside, -1) & used[None, :] & free[:, None]
  own = jnp.eye(tokens, slots, dtype=bool)
  member |= own & (valid & ~free)[:, None]
  # Twice the distance to the middle, in integers, so that ties are exact.
  off = 2 * at[:, None] - (low + high - 1)[None]
  distance = jnp.sum(off * off, -1)
  far = jnp.iinfo(jnp.int32).max
  index = jnp.argmin(jnp.where(member, distance, far), 0).astype(jnp.int32)
  share = member.astype(jnp.float32)
  share /= jnp.maximum(jnp.sum(share, 1, keepdims=True), 1)
  return share, index


def block_shape(grid: tuple[int, int], side: int) -> tuple[int, int]:
  """Rows and columns of whole blocks of side x side tokens on a grid.

  >>> block_shape((24, 24), 5)
  (4, 4)
  """
  if not 1 <= side <= min(grid):
    raise ValueError(
      f"side is {side}, use a number from 1 to the shorter side of the grid"
      f" {grid}"
    )
  return grid[0] // side, grid[1] // side


def block_members(
  position: Int[Array, "V"],
  valid: Bool[Array, "V"],
  *,
  grid: tuple[int, int],
  extent: Int[Array, "2"] | None = None,
  side: int,
  slots: int,
) -> tuple[Float[Array, "V K"], Int[Array, "K"]]:
  """Membership of each token in square blocks; the rest has none.

  Args:
    position: [V] raster index of each token.
    valid: [V] False for absent tokens.
    grid: rows and columns of the raster.
    extent: those of the image in the raster; None = the same. An image that is
      shorter than a block is one block there.
    side: tokens on a side of a block.
    slots: static K, output rows; those after the last block stay empty.

  Returns:
    [V, K] 0 or 1, and [K] first present member of each block.
  """
  rows, columns = block_shape(grid, side)
  if extent is not None:
    rows, columns = jnp.maximum(jnp.asarray(extent) // side, 1)
  row, column = position // grid[1] // side, position % grid[1] // side
  block = jnp.where(
    valid & (row < rows) & (column < columns), row * columns + column, -1
  )
  member = block[:, None] == jnp.arange(slots, dtype=jnp.int32)[None, :]
  return member.astype(jnp.float32), jnp.argmax(member, 0).astype(jnp.int32)
