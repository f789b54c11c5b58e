"""Pictures to numbers: what the processors of all families share.

PIL resizes on 8-bit values, as the processors that the weights were trained
with did, so sizes and roundings follow them; nothing here needs torch.
Heights come before widths everywhere, channels last.
"""

from collections.abc import Callable, Sequence
import dataclasses
import functools
import math

from jaxtyping import Bool, Float32, Int32, UInt8
import numpy as np
from PIL import Image

from eos_jax.data.processors import image_file

open_picture = image_file.open_picture

# A picture in memory: PIL's, or uint8 `[height, width]` or
# `[height, width, 1 | 3 | 4]`.
Picture = Image.Image | np.ndarray
# One uint8 picture after `rgb`, `[height, width, 3]`.
RGB = UInt8[np.ndarray, "_ _ 3"]

# Images above this many pixels are not made whole on the way to a small one: a
# line of 1 x 4000 pixels would become 336 x 1,344,000, or a square of 4000.
_LARGE = 1 << 25


@dataclasses.dataclass(frozen=True)
class PixelSettings:
  """How 8-bit values are resampled and become floats.

  Attributes:
    resample: PIL's code of the filter (0 nearest, 1 Lanczos, 2 bilinear,
      3 bicubic, 4 box, 5 Hamming).
    scale: factor from 8-bit values, usually 1 / 255.
    mean: per channel, subtracted after scaling.
    std: per channel, divided by after that.
  """

  resample: int = int(Image.Resampling.BICUBIC)
  scale: float = 1 / 255
  mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
  std: tuple[float, float, float] = (1.0, 1.0, 1.0)


@dataclasses.dataclass(frozen=True)
class Pictures:
  """I pictures of one prompt, ready for a compiled model.

  A part is what the vision encoder reads at once: a square tile, or, for
  Qwen2-VL, a patch. All arrays have shapes that settings, number of pictures
  and `capacity` determine; the contents of the pictures do not.

  Attributes:
    pixels: float32, normalised, `[I, capacity, side, side, 3]`, or for patches
      `[I, capacity, features]`. Parts that are not valid are zero.
    valid: bool `[I, capacity]`, which parts are there.
    grid: int32 `[I, 2]`, rows and columns of the parts; what they count is
      said by each family's `preprocess`.
    sizes: int32 `[I, 2]`, height and width of the picture as it came, pixels.
    tokens: int32 `[I]`, how many image tokens each takes in the prompt.
  """

  pixels: Float32[np.ndarray, "I capacity ..."]
  valid: Bool[np.ndarray, "I capacity"]
  grid: Int32[np.ndarray, "I 2"]
  sizes: Int32[np.ndarray, "I 2"]
  tokens: Int32[np.ndarray, "I"]


def rgb(picture: Picture) -> RGB:
  """Three 8-bit channels; transparent parts are laid on white.

  This is what the processors in transformers do with images in memory, by
  `convert_to_rgb`. Files have lost their alpha channel in `open_picture`.
  Grey, palette, CMYK and other modes are converted by PIL. Raises ValueError
  for arrays that are no picture, and for pictures without pixels.
  """
  if isinstance(picture, np.ndarray):
    picture = _from_array(picture)
  if not isinstance(picture, Image.Image):
    raise ValueError(
      f"a picture is {type(picture).__name__}; give a PIL picture, a uint8"
      " array, or the result of `open_picture(path)`"
    )
  if 0 in picture.size:
    raise ValueError(
      f"a picture has {picture.height} x {picture.width} pixels; it needs at"
      " least one"
    )
  # A palette or a grey picture can name one colour as transparent.
  if "A" in picture.getbands() or picture.info.get("transparency") is not None:
    picture = picture.convert("RGBA")
    white = Image.new("RGBA", picture.size, (255, 255, 255, 255))
    picture = Image.alpha_composite(white, picture)
  return np.asarray(picture.convert("RGB"))


def _from_array(array: np.ndarray) -> Image.Image:
  """A PIL picture of an array of 8-bit values."""
  channels = array.shape[2] if array.ndim == 3 else 1
  if array.dtype != np.uint8 or array.ndim not in (2, 3):
    raise ValueError(
      f"a picture is an array {array.dtype}{list(array.shape)}; it must be"
      " uint8 [height, width] or [height, width, channels]; scale floats to"
      " 0..255 and convert them"
    )
  if channels not in (1, 3, 4):
    raise ValueError(
      f"a picture is an array {list(array.shape)} with {channels} channels; it"
      " must have 1, 3 or 4, and channels last"
    )
  if 0 in array.shape:
    raise ValueError(
      f"a picture is an array {list(array.shape)} without pixels"
    )
  return Image.fromarray(
    array[..., 0] if channels == 1 and array.ndim == 3 else array
  )


def resize(
  image: RGB,
  size: tuple[int, int],
  resample: int,
  *,
  region: tuple[int, int, int, int] | None = None,
) -> RGB:
  """Resizes to (height, width) by PIL.

  Args:
    image: the picture.
    size: height and width of the whole result, pixels.
    resample: PIL's code of the filter.
    region: top, left, bottom and right of a part of the result, which alone is
      returned. The filter still reads around it. Results too large to be made
      whole for it differ by a step of 255, or a few where the filter
      overshoots black or white: PIL then passes the axes in another order.

  Returns:
    uint8 `[height, width, 3]` of the result or of its region.
  """
  height, width = size
  picture = Image.fromarray(image)
  if region is None or height * width <= _LARGE:
    out = picture
    if image.shape[:2] != size:
      out = picture.resize((width, height), resample)
    if region is not None:
      top, left, bottom, right = region
      out = out.crop((left, top, right, bottom))
    return np.asarray(out)
  top, left, bottom, right = region
  scale_y, scale_x = image.shape[0] / height, image.shape[1] / width
  box = (left * scale_x, top * scale_y, right * scale_x, bottom * scale_y)
  return np.asarray(
    picture.resize((right - left, bottom - top), resample, box=box)
  )


def shortest_edge_size(size: tuple[int, int], edge: int) -> tuple[int, int]:
  """Height and width such that the shorter one is `edge`.

  >>> shortest_edge_size((480, 640), 336)
  (336, 448)
  """
  height, width = size
  if height < width:
    return edge, int(edge * width / height)
  return int(edge * height / width), edge


def center_region(
  size: tuple[int, int], crop: tuple[int, int]
) -> tuple[int, int, int, int]:
  """Top, left, bottom, right of the middle; negative where `size` is smaller.

  >>> center_region((336, 449), (336, 336))
  (0, 56, 336, 392)
  """
  top, left = (size[0] - crop[0]) // 2, (size[1] - crop[1]) // 2
  return top, left, top + crop[0], left + crop[1]


def window(
  image: RGB,
  region: tuple[int, int, int, int],
  color: tuple[int, int, int] = (0, 0, 0),
) -> RGB:
  """Returns a region of an image that lies on an endless plane of one colour.

  Args:
    image: its upper left corner is the origin.
    region: top, left, bottom and right; may lie outside of the image.
    color: of the plane.
  """
  top, left, bottom, right = region
  inner = image[max(top, 0) : max(bottom, 0), max(left, 0) : max(right, 0)]
  out = np.empty((bottom - top, right - left, 3), np.uint8)
  out[:] = np.array(color, np.uint8)
  y, x = max(-top, 0), max(-left, 0)
  out[y : y + inner.shape[0], x : x + inner.shape[1]] = inner
  return out


def center_crop(image: RGB, crop: tuple[int, int]) -> RGB:
  """The middle of a picture; what is missing is black.

  An odd pixel of margin comes before the picture: floor division rounds down.
  """
  return window(image, center_region(image.shape[:2], crop))


def pad_center(image: RGB, size: tuple[int, int]) -> RGB:
  """The picture in the middle of black, an odd pixel of margin after it."""
  return window(image, _padded(image.shape[:2], size))


def pad_square(image: RGB, color: tuple[int, int, int]) -> RGB:
  """The picture in the middle of a square of its longer side."""
  side = max(image.shape[:2])
  return window(image, _padded(image.shape[:2], (side, side)), color)


def _padded(size: tuple[int, int], outer: tuple[int, int]):
  """Where an outer size with an image in its middle lies, by the image."""
  top, left = (outer[0] - size[0]) // 2, (outer[1] - size[1]) // 2
  return -top, -left, outer[0] - top, outer[1] - left


def square_region(
  image: RGB, color: tuple[int, int, int], crop: tuple[int, int]
) -> RGB:
  """`center_crop` of `pad_square`, without the square."""
  side = max(image.shape[:2])
  top, left, _, _ = _padded(image.shape[:2], (side, side))
  y0, x0, y1, x1 = center_region((side, side), crop)
  black = np.zeros((*crop, 3), np.uint8)
  inside = (max(y0, 0), max(x0, 0), min(y1, side), min(x1, side))
  part = window(
    image,
    (inside[0] + top, inside[1] + left, inside[2] + top, inside[3] + left),
    color,
  )
  y, x = max(-y0, 0), max(-x0, 0)
  black[y : y + part.shape[0], x : x + part.shape[1]] = part
  return black


def resize_square(
  image: RGB, color: tuple[int, int, int], size: tuple[int, int], resample: int
) -> RGB:
  """`resize` of `pad_square`, without a square of more than 2^25 pixels.

  PIL resizes rows first and columns after that. For large squares the rows of
  the margin are added in between, and the rows of the image are sums weighted
  as PIL weights them; a value may differ by rounding.
  """
  height, width = image.shape[:2]
  side = max(height, width)
  if side**2 <= _LARGE:
    return resize(pad_square(image, color), size, resample)
  top, left, bottom, right = _padded((height, width), (side, side))
  if width == side:
    narrow = resize(image, (height, size[1]), resample)
  else:
    margin = np.array(color, np.float32)
    first, weights = _row_weights(width, (left, right), size[1], resample)
    reached = slice(first, first + weights.shape[1])
    narrow = np.empty((height, size[1], 3), np.uint8)
    narrow[:] = np.array(color, np.uint8)
    step = max(_LARGE // (8 * max(width, size[1])), 1)
    for row in range(0, height, step):
      part = image[row : row + step] - margin
      part = np.einsum("hwc,wn->hnc", part, weights, optimize=True) + margin
      part = np.clip(np.floor(part + 0.5), 0, 255)
      narrow[row : row + step, reached] = part
  narrow = window(narrow, (top, 0, bottom, size[1]), color)
  return resize(narrow, size, resample)


def _row_weights(
  width: int, outer: tuple[int, int], count: int, resample: int
) -> tuple[int, Float32[np.ndarray, "width reached"]]:
  """Returns the weights of a padded row's own pixels in the resized row.

  Args:
    width: pixels of the row without its margins.
    outer: left and right end of the padded row, by the first of these pixels.
    count: pixels of the resized row.
    resample: PIL's code of the filter.

  Returns:
    The first pixel of the resized row that they reach, and their weights in
    those that they reach.
  """
  left, right = outer
  scale = (right - left) / count
  reach = 3 * max(scale, 1)  # no filter has more than three pixels' support
  first = max(math.floor((-left - reach) / scale) - 1, 0)
  last = min(math.ceil((width - left + reach) / scale) + 1, count)
  start = max(math.floor(first * scale - reach) - 1, 0)
  end = min(math.ceil(last * scale + reach) + 1, right - left)
  single = np.zeros((width, end - start), np.float32)
  single[np.arange(width), np.arange(width) - left - start] = 1
  box = (first * scale - start, 0, last * scale - start, width)
  found = Image.fromarray(single).resize((last - first, width), resample, box)
  return first, np.asarray(found)


def mean_color(settings: PixelSettings) -> tuple[int, int, int]:
  """The 8-bit colour whose normalised value is about zero, rounded down."""
  color = tuple(int(value * 255) for value in settings.mean)
  if not all(0 <= value <= 255 for value in color):
    raise ValueError(
      f"image_mean is {settings.mean}; expected numbers from 0 to 1, because"
      " images are padded with this colour; correct it, or do not pad"
    )
  return color


@functools.lru_cache(maxsize=16)
def _table(settings: PixelSettings) -> Float32[np.ndarray, "256 3"]:
  """The float of each 8-bit value and channel.

  Scaling is rounded to float32 before the mean is taken off, which is the
  order of the processors in transformers, so that results agree to the bit.
  """
  scaled = (np.arange(256, dtype=np.float64) * settings.scale).astype(
    np.float32
  )
  mean = np.array(settings.mean, np.float32)
  std = np.array(settings.std, np.float32)
  return (scaled[:, None] - mean) / std


def is_finite(settings: PixelSettings) -> bool:
  """Whether all 8-bit values become finite numbers."""
  with np.errstate(all="ignore"):
    return bool(np.isfinite(_table(settings)).all())


def normalize(
  image: UInt8[np.ndarray, "*dims 3"], settings: PixelSettings
) -> Float32[np.ndarray, "*dims 3"]:
  """8-bit values to floats: scaled, less the mean, over the deviation."""
  return _table(settings)[image, np.arange(3)]


@dataclasses.dataclass(frozen=True)
class Cut:
  """One picture as its family's encoder reads it.

  Attributes:
    parts: its normalised tiles or patches.
    grid: rows and columns, as of `Pictures`.
    tokens: image tokens that it takes in the prompt.
  """

  parts: Float32[np.ndarray, "parts ..."]
  grid: tuple[int, int]
  tokens: int


def cut_all(
  pictures: Sequence[Picture],
  cut: Callable[[RGB], Cut],
  *,
  capacity: int,
  shape: tuple[int, ...],
  kind: str = "tiles",
) -> Pictures:
  """Puts pictures of different numbers of parts in arrays of one shape.

  Args:
    pictures: I pictures of any mode.
    cut: cuts one of them.
    capacity: parts of each that there is room for.
    shape: of a part.
    kind: what parts are called.

  Raises:
    ValueError: a picture has more parts than there is room for.
  """
  pixels = np.zeros((len(pictures), capacity, *shape), np.float32)
  valid = np.zeros((len(pictures), capacity), bool)
  numbers = np.zeros((len(pictures), 5), np.int32)
  for place, picture in enumerate(pictures):
    image = rgb(picture)
    found = cut(image)
    count, size = len(found.parts), image.shape[:2]
    check_capacity(count, capacity, kind=kind, size=size)
    pixels[place, :count] = found.parts
    valid[place, :count] = True
    numbers[place] = (*found.grid, *size, found.tokens)
  return Pictures(pixels, valid, numbers[:, :2], numbers[:, 2:4], numbers[:, 4])


def check_capacity(
  count: int, capacity: int, *, kind: str, size: tuple[int, int]
) -> None:
  """Refuses a picture that has more parts than there is room for."""
  if count > capacity:
    raise ValueError(
      f"a picture of {size[0]} x {size[1]} pixels has {count} {kind}, but"
      f" capacity is {capacity}; raise it to {count} or more, or make the"
      " picture smaller"
    )
