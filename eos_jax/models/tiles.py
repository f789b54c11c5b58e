"""Tiles of a picture as one row of visual tokens (LLaVA-OneVision).

The encoder sees the whole picture in small, and tiles of it in large. Tokens
of the whole come first, then those of the tiles, row by row over all of them;
padding is left out, what is too much is thinned, and a learned vector, the
newline, ends each row. A `Layout` says how; who prepares the pictures knows it.

For operators all of it is one picture on one raster: the whole on top, the
tiles' plane below. A newline is a token as any other: it counts, it can be
removed, and it has no class attention and no keys of its own.
"""

import dataclasses

import jax
import jax.numpy as jnp

from eos_jax.array_typing import Array, Bool, Float, Int
from eos_jax.models import config as config_lib


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Layout:
  """Where the tokens of pictures come from; V tokens have room.

  Attributes:
    index: `[B, I, V, 4]` rows of the features of all tiles of the picture,
      `tile * patches + patch`.
    weight: `[B, I, V, 4]` their shares; all 0 at a newline.
    newline: `[B, I, V]` True at the ends of rows.
    valid: `[B, I, V]` False after the last token.
  """

  index: Int[Array, "B I V 4"]
  weight: Float[Array, "B I V 4"]
  newline: Bool[Array, "B I V"]
  valid: Bool[Array, "B I V"]

  def check(self, cfg: config_lib.VLMConfig) -> None:
    """Refuses a layout that is not one of a model."""
    if self.index.shape[2] != cfg.tokens:
      raise ValueError(
        f"the layout has room for {self.index.shape[2]} tokens a picture,"
        f" tiles={cfg.tiles} of model {cfg.name!r} for {cfg.tokens}; make it"
        " with that capacity."
      )


def lay_out(
  features: Float[Array, "B N *D"],
  layout: Layout,
  newline: Float[Array, "*D"] | None = None,
) -> Float[Array, "B V *D"]:
  """Features of tiles as rows of tokens, for each of B x I pictures.

  Args:
    features: of all patches of all tiles, tile after tile.
    layout: of the pictures.
    newline: what stands at the ends of rows; None = zeros.
  """
  pictures = features.shape[0]
  index = layout.index.reshape(pictures, -1, 4)
  weight = layout.weight.reshape(pictures, -1, 4).astype(features.dtype)
  wide = (1,) * (features.ndim - 2)
  rows = jnp.zeros((), features.dtype)
  # Tap by tap: all four at once would be four times the rows in memory.
  for tap in range(4):
    chosen = index[:, :, tap].reshape(*index.shape[:2], *wide)
    share = weight[:, :, tap].reshape(*index.shape[:2], *wide)
    rows = rows + share * jnp.take_along_axis(features, chosen, axis=1)
  if newline is None:
    return rows
  ends = layout.newline.reshape(*index.shape[:2], *wide)
  newline = newline.astype(rows.dtype).reshape(1, 1, *newline.shape)
  return jnp.where(ends, newline, rows)


def raster_positions(
  cfg: config_lib.VLMConfig, layout: Layout
) -> Int[Array, "BI V"]:
  """Where tokens lie in the raster `cfg.grid`, for each of B x I pictures."""
  side, width = cfg.vision.grid[0], cfg.grid[1]
  count, row, column = _plane(cfg, layout)
  whole = count // side * width + count % side
  return jnp.where(count < side**2, whole, (side + row) * width + column)


def guide(
  cfg: config_lib.VLMConfig,
  layout: Layout,
  class_row: Float[Array, "BI N"],
) -> Float[Array, "BI V"]:
  """The whole picture's class attention at the place of each token of a tile.

  `ops.signals.crop_guide` (GlobalCom2) for planes of any size; 0 on the whole
  itself, at newlines and on padding.

  Args:
    cfg: shape of the model.
    layout: of the pictures.
    class_row: class attention of all patches of all tiles.
  """
  side = cfg.vision.grid[0]
  count, row, column = _plane(cfg, layout)
  newline = layout.newline.reshape(row.shape)
  own = layout.valid.reshape(row.shape) & ~newline & (count >= side**2)
  whole = class_row[:, : side**2]
  total = jnp.zeros((), whole.dtype)
  # Bilinear, with half-pixel centres, clamped at the borders.
  for y, down in _neighbours(row, own, side):
    for x, across in _neighbours(column, own, side):
      near = jnp.take_along_axis(whole, y * side + x, axis=1)
      total = total + down * across * near
  return jnp.where(own, total, 0)


def _neighbours(place, own, side):
  """The two cells of the whole next to rows or columns, and their shares."""
  length = jnp.max(jnp.where(own, place + 1, 1), axis=1, keepdims=True)
  centre = (place + 0.5) * side / length - 0.5
  centre = jnp.clip(centre, 0, side - 1)
  first = jnp.floor(centre).astype(jnp.int32)
  share = centre - first
  second = jnp.minimum(first + 1, side - 1)
  return (first, 1 - share), (second, share)


def _plane(cfg, layout):
  """Number of each token, and its row and column if it is after the whole."""
  side = cfg.vision.grid[0]
  newline = layout.newline.reshape(-1, layout.newline.shape[-1])
  count = jnp.arange(newline.shape[1])[None]
  ended = newline.astype(jnp.int32)
  row = jnp.cumsum(ended, axis=1) - ended
  # What follows the last token that ended a row, this one not counted.
  first = jax.lax.cummax(jnp.where(newline, count + 1, side**2), axis=1)
  first = jnp.pad(first, ((0, 0), (1, 0)), constant_values=side**2)[:, :-1]
  return count, row, count - first
