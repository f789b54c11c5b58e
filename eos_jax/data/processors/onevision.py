"""Pictures of LLaVA-OneVision: the whole in small, and tiles of it in large.

A single picture is scaled into that one of the listed resolutions which keeps
most of it, padded to it with black, and cut into tiles of the encoder's size;
the squeezed whole comes first. Several pictures in one prompt are one padded
square each. In the prompt, features of the padding are left out, what is left
is thinned if it is too much, and a learned vector ends each row.

Sources: huggingface/transformers
`models/llava_onevision/image_processing_pil_llava_onevision.py`,
`models/llava_onevision/processing_llava_onevision.py`,
`models/llava_onevision/modeling_llava_onevision.py` (`pack_image_features`),
`image_processing_utils.py` (`select_best_resolution`); LLaVA-VL/LLaVA-NeXT
`llava/model/llava_arch.py`.
"""

from collections.abc import Sequence
import dataclasses
import math
import re

from jaxtyping import Bool, Float32, Int32
import numpy as np

from eos_jax.data.processors import folder as folder_lib
from eos_jax.data.processors import llava, pixels

IMAGE_TOKEN = "<image>"
END_TOKEN = "<|im_end|>"
_STEPS = tuple(range(384, 2304 + 1, 384))
_KNOWN = ("do_pad", "image_grid_pinpoints")
# Rows are thinned only if there is this many times too much of a side.
_TOLERANCE = 1.1


@dataclasses.dataclass(frozen=True)
class Settings:
  """How LLaVA-OneVision reads a picture.

  Attributes:
    values: filter and normalisation of the pixels.
    side: of a tile, pixels.
    resolutions: (height, width) that a picture may be scaled into, pixels;
      multiples of `side`.
    patches: patches on each side of a tile, features after the projector.
    most: how many tiles' worth of features the tiles may take; more are
      thinned ("anyres_max_9": 9).
  """

  values: pixels.PixelSettings = llava.SIGLIP
  side: int = 384
  resolutions: tuple[tuple[int, int], ...] = tuple(
    (height, width) for height in _STEPS for width in _STEPS
  )
  patches: int = 27
  most: int = 9

  @property
  def capacity(self) -> int:
    """Tiles of the largest resolution, and the whole."""
    return 1 + max(h * w for h, w in self.resolutions) // self.side**2


def read_settings(folder: folder_lib.Folder) -> Settings:
  """Settings of a model folder.

  Raises:
    ValueError: a field has no value that can be used or is unknown.
  """
  fields = folder.picture
  folder.image_class(["LlavaOnevisionImageProcessor"])
  fields.refuse_unknown(_KNOWN)
  if not fields.flag("do_resize", True):
    raise fields.fault("do_resize", "true", "set it to true")
  edge, height, width = fields.extent("size", {"height": 384, "width": 384})
  side = edge or height
  if not edge and height != width:
    raise fields.fault("size", "a square", "correct the file")
  vision = folder.vision
  across = vision.whole("image_size", side) // vision.whole("patch_size", 14)
  tokens = folder.processor.whole("num_image_tokens", max(across**2, 1))
  patches = math.isqrt(tokens)
  if patches**2 != tokens:
    raise folder.processor.fault(
      "num_image_tokens", "the square of a whole number", "correct the file"
    )
  return Settings(
    # Without values the class in transformers takes CLIP's.
    fields.padded_settings(llava.CLIP),
    side,
    _resolutions(folder, side),
    patches,
    _most(folder),
  )


def special_tokens(settings: Settings) -> tuple[str, ...]:
  """Tokens that the tokenizer has to know in addition to the image token."""
  del settings
  return ("<|im_start|>", "<|im_end|>")


def _resolutions(folder: folder_lib.Folder, side: int):
  """The listed resolutions, all multiples of the tile."""
  name = "image_grid_pinpoints"
  place = folder.picture if folder.picture.get(name) else folder.config
  listed = place.get(name, [list(pair) for pair in Settings.resolutions])
  whole = isinstance(listed, list) and all(
    isinstance(pair, list)
    and len(pair) == 2
    and all(isinstance(v, int) and v > 0 and v % side == 0 for v in pair)
    for pair in listed
  )
  if not whole or not listed:
    raise place.fault(
      name,
      f"a list of [height, width], multiples of the tile's {side} pixels",
      "correct the file",
    )
  return tuple((height, width) for height, width in listed)


def _most(folder: folder_lib.Folder) -> int:
  """The number at the end of `anyres_max_9`."""
  name = "vision_aspect_ratio"
  place = folder.processor if folder.processor.get(name) else folder.config
  found = re.fullmatch(
    r"anyres_max_(\d+)", str(place.get(name, "anyres_max_9"))
  )
  if not found:
    raise place.fault(name, '"anyres_max_" and a number', "correct the file")
  return int(found[1])


def best_resolution(
  size: tuple[int, int], resolutions: Sequence[tuple[int, int]]
) -> tuple[int, int]:
  """The resolution that keeps most pixels, and of those the smallest.

  >>> best_resolution((480, 640), [(384, 384), (384, 768), (768, 768)])
  (768, 768)
  """
  height, width = size

  def rank(resolution):
    scale = min(resolution[1] / width, resolution[0] / height)
    inner = int(height * scale) * int(width * scale)
    kept = min(inner, height * width)
    return kept, kept - resolution[0] * resolution[1]

  # The first of equals wins, as `max` has it.
  return max(resolutions, key=rank)


def _unpadded(
  size: tuple[int, int], plane: tuple[int, int]
) -> tuple[int, int, int, int]:
  """Top, left, bottom, right of the picture's own features on the plane.

  The encoder never sees the exact borders: they are taken from the shape alone
  and rounded to whole features, by the same amount on both sides.
  """
  (height, width), (rows, cols) = size, plane
  # Seven digits keep errors of binary fractions from losing a row.
  if width / height > cols / rows:
    margin = (rows - int(round(height * (cols / width), 7))) // 2
    return margin, 0, rows - margin, cols
  margin = (cols - int(round(width * (rows / height), 7))) // 2
  return 0, margin, rows, cols - margin


@dataclasses.dataclass(frozen=True)
class Layout:
  """Where the image tokens of a prompt come from; see `layout`.

  With features `[tiles, patches ** 2, D]` of the encoder, flattened to rows
  `[tiles * patches ** 2, D]`, the tokens are
  `(weight[..., None] * rows[index]).sum(1) + newline[:, None] * vector`.

  Attributes:
    index: int32 `[T, 4]`, rows of features.
    weight: float32 `[T, 4]`, their shares; they sum to 1, or to 0 at the end
      of a row.
    newline: bool `[T]`, where the learned vector stands.
    valid: bool `[T]`; False after the last token.
  """

  index: Int32[np.ndarray, "T 4"]
  weight: Float32[np.ndarray, "T 4"]
  newline: Bool[np.ndarray, "T"]
  valid: Bool[np.ndarray, "T"]


def _plane(
  size: tuple[int, int], settings: Settings
) -> tuple[tuple[int, int], tuple[int, int, int, int], tuple[int, int]]:
  """Features of the tiles, the part that is not padding, and thinned to what.

  Returns:
    (rows, columns) of the plane of all tiles, the region of the picture in it,
    and (rows, columns) in the prompt.
  """
  best = best_resolution(size, settings.resolutions)
  plane = tuple(edge // settings.side * settings.patches for edge in best)
  top, left, bottom, right = region = _unpadded(size, plane)
  rows, cols = bottom - top, right - left
  ratio = math.sqrt(rows * cols / (settings.most * settings.patches**2))
  if ratio > _TOLERANCE:
    rows, cols = int(rows // ratio), int(cols // ratio)
  return plane, region, (rows, cols)


def token_count(
  size: tuple[int, int], settings: Settings, *, tiled: bool = True
) -> int:
  """Image tokens of a picture.

  Args:
    size: height and width of the picture, pixels.
    settings: of the model.
    tiled: whether it is cut into tiles, as the only one of its prompt.

  >>> token_count((480, 640), Settings()), token_count((9, 9), Settings())
  (2929, 1485)
  """
  base = settings.patches**2
  if not tiled:
    return base + 1
  rows, cols = _plane(size, settings)[2]
  return base + rows * (cols + 1)


def _axis(count: int, start: int, length: int):
  """Two neighbours, and the share of the second, of `count` even samples.

  This is bilinear interpolation with half-pixel centres, clamped at borders.
  """
  place = (np.arange(count) + 0.5) * (length / max(count, 1)) - 0.5
  place = np.maximum(place, 0)
  first = np.floor(place).astype(np.int64)
  second = np.minimum(first + 1, length - 1)
  return first + start, second + start, place - first


def layout(
  size: tuple[int, int],
  settings: Settings,
  *,
  tiled: bool = True,
  capacity: int | None = None,
) -> Layout:
  """Which features make which image tokens of the prompt.

  Args:
    size: height and width of the picture, pixels.
    settings: of the model.
    tiled: whether it is cut into tiles, as the only one of its prompt.
    capacity: T; None is as many as there are.

  Returns:
    The layout: features of the whole, then the rows of the tiles' plane.

  Raises:
    ValueError: there are more tokens than `capacity`.
  """
  side = settings.patches
  base = np.arange(side**2)
  if tiled:
    index, weight, newline = _tiles_layout(size, settings)
  else:
    index, weight = np.zeros((1, 4), np.int64), np.zeros((1, 4))
    newline = np.ones(1, bool)
  whole = np.zeros((side**2, 4))
  whole[:, 0] = 1
  index = np.concatenate([np.repeat(base[:, None], 4, axis=1), index])
  weight = np.concatenate([whole, weight])
  newline = np.concatenate([np.zeros(side**2, bool), newline])
  count = len(index)
  capacity = count if capacity is None else capacity
  pixels.check_capacity(count, capacity, kind="image tokens", size=size)
  spare = (0, capacity - count)
  return Layout(
    np.pad(index, (spare, (0, 0))).astype(np.int32),
    np.pad(weight, (spare, (0, 0))).astype(np.float32),
    np.pad(newline, spare),
    np.arange(capacity) < count,
  )


def _tiles_layout(size: tuple[int, int], settings: Settings):
  """Rows of features, shares and ends of rows for the tokens of the tiles."""
  side = settings.patches
  plane, (top, left, bottom, right), (rows, cols) = _plane(size, settings)
  y0, y1, dy = _axis(rows, top, bottom - top)
  x0, x1, dx = _axis(cols, left, right - left)

  def flat(y, x):
    """Row of a feature, given its place on the plane of all tiles."""
    y, x = y[:, None], x[None]
    tile = 1 + y // side * (plane[1] // side) + x // side
    return tile * side**2 + y % side * side + x % side

  index = [flat(y0, x0), flat(y0, x1), flat(y1, x0), flat(y1, x1)]
  near, far = (1 - dy)[:, None], dy[:, None]
  weight = [near * (1 - dx), near * dx, far * (1 - dx), far * dx]
  ends = ((0, 0), (0, 1), (0, 0))
  newline = np.zeros((rows, cols + 1), bool)
  newline[:, -1] = True
  return (
    np.pad(np.stack(index, axis=-1), ends).reshape(-1, 4),
    np.pad(np.stack(weight, axis=-1), ends).reshape(-1, 4),
    newline.reshape(-1),
  )


def _tiles(image: pixels.RGB, settings: Settings):
  """8-bit tiles, the whole first, and their rows and columns."""
  side, resample = settings.side, settings.values.resample
  height, width = image.shape[:2]
  best = best_resolution((height, width), settings.resolutions)
  # The side that fills the resolution is exact, the other is rounded up.
  scale_y, scale_x = best[0] / height, best[1] / width
  if scale_x < scale_y:
    inner = (min(math.ceil(height * scale_x), best[0]), best[1])
  else:
    inner = (best[0], min(math.ceil(width * scale_y), best[1]))
  canvas = pixels.pad_center(pixels.resize(image, inner, resample), best)
  rows, cols = best[0] // side, best[1] // side
  tiles = canvas.reshape(rows, side, cols, side, 3).swapaxes(1, 2)
  whole = pixels.resize(image, (side, side), resample)
  tiles = np.concatenate([whole[None], tiles.reshape(-1, side, side, 3)])
  return tiles, (rows, cols)


def _single(image: pixels.RGB, settings: Settings):
  """One padded square."""
  color, side = pixels.mean_color(settings.values), settings.side
  resample = settings.values.resample
  square = pixels.resize_square(image, color, (side, side), resample)
  return square[None], (0, 0)


def preprocess(
  pictures: Sequence[pixels.Picture],
  settings: Settings,
  *,
  capacity: int | None = None,
  tiled: bool | None = None,
) -> pixels.Pictures:
  """Pictures as tiles of the encoder's size, the whole first.

  Args:
    pictures: the I pictures of one prompt, of any size and mode.
    settings: of the model.
    capacity: tiles a picture, the whole among them; None is what the largest
      resolution has, or 1 if pictures are not tiled.
    tiled: whether to cut into tiles; None does so if there is one picture, as
      the model was trained.

  Returns:
    `Pictures` with pixels `[I, capacity, side, side, 3]`; grid counts tiles
    and is 0 where there are none. `layout` says how the features of the tiles
    become tokens.
  """
  tiled = len(pictures) == 1 if tiled is None else tiled

  def cut(image):
    tiles, grid = (_tiles if tiled else _single)(image, settings)
    return pixels.Cut(
      pixels.normalize(tiles, settings.values),
      grid,
      token_count(image.shape[:2], settings, tiled=tiled),
    )

  return pixels.cut_all(
    pictures,
    cut,
    capacity=capacity or (settings.capacity if tiled else 1),
    shape=(settings.side, settings.side, 3),
  )
