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
    valid: `[B, I, V]` False behind the last token.
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
  side, columns = cfg.vision.grid[0], cfg.grid[1]
  newline = layout.newline.reshape(-1, layout.newline.shape[-1])
  count = jnp.arange(newline.shape[1])[None]
  whole = count // side * columns + count % side
  ended = newline.astype(jnp.int32)
  row = jnp.cumsum(ended, axis=1) - ended
  # The last token that ended a row, this one not counted, and what follows it.
  first = jax.lax.cummax(jnp.where(newline, count + 1, side**2), axis=1)
  first = jnp.pad(first, ((0, 0), (1, 0)), constant_values=side**2)[:, :-1]
  below = (side + row) * columns + count - first
  return jnp.where(count < side**2, whole, below)
