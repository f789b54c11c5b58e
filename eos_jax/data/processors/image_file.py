"""Opens the image files of users: the only place that does.

Whatever Pillow raises for a damaged file ends in one ValueError with the name
of the file. Pixels that are sound are used even if the text, the profile or the
EXIF data around them are not.
"""

from collections.abc import Callable, Iterator
import functools
import io
import os
import pathlib
from typing import Any
import zlib

from PIL import ExifTags, Image, UnidentifiedImageError

# Above this number Pillow suspects a decompression bomb. A side of a JPEG is at
# most 65,535 pixels.
MAX_PIXELS = 89_478_485
MAX_SIDE = 1 << 17
_MAX_BYTES = 1 << 30
# Pillow runs other programs for these.
_NOT_READ = ("EPS", "WMF")
_TURNS = {
  2: Image.Transpose.FLIP_LEFT_RIGHT,
  3: Image.Transpose.ROTATE_180,
  4: Image.Transpose.FLIP_TOP_BOTTOM,
  5: Image.Transpose.TRANSPOSE,
  6: Image.Transpose.ROTATE_270,
  7: Image.Transpose.TRANSVERSE,
  8: Image.Transpose.ROTATE_90,
}
_PNG = b"\x89PNG\r\n\x1a\n"
# Chunks that decide what the pixels are, and which way up.
_PNG_PIXELS = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")
_PNG_KEPT = (*_PNG_PIXELS, b"eXIf")
_JPEG = b"\xff\xd8"
# Markers of segments that applications and comments have for themselves, but
# for JFIF's and Adobe's, which say what the channels are.
_JPEG_LEFT_OUT = frozenset((*range(0xE1, 0xEE), 0xEF, 0xFE))

Source = pathlib.Path | str | bytes


def open_picture(source: Source) -> Image.Image:
  """Decodes an image and turns it upright by its EXIF orientation.

  `load_image` of transformers (`image_utils.py`) turns images likewise, and
  drops an alpha channel, see `without_alpha`. Images that are given to a
  processor from memory are neither turned nor changed, there as here.
  Orientations that cannot be read are ignored.

  Args:
    source: a file, or the bytes of one.

  Raises:
    ValueError: it cannot be decoded, or has more than `MAX_PIXELS` pixels or a
      side of more than `MAX_SIDE`.
  """
  return _named(source, lambda: _either(_contents(source), _upright))


def check_picture(source: Source) -> None:
  """Checks the header of an image, without decoding its pixels.

  Args:
    source: a file, or the bytes of one.

  Raises:
    ValueError: as by `open_picture`, as far as the header tells.
  """
  _named(source, lambda: _header(source))


def _named(source: Source, read: Callable[[], Any]) -> Any:
  """Names the image in whatever error reading it raises."""
  try:
    return read()
  except Exception as error:  # damage makes Pillow raise nearly anything
    inside = isinstance(source, bytes)
    name = f"of {len(source)} bytes" if inside else source
    what = "it has no known image format"
    if not isinstance(error, UnidentifiedImageError):
      what = (str(error) or type(error).__name__)[:300]
    raise ValueError(
      f"picture {name} cannot be read ({what}); give a PNG, JPEG or another"
      " file that Pillow opens"
    ) from error


def _header(source: Source) -> None:
  ignore = lambda file: None
  _check_regular(source)
  try:
    _opened(io.BytesIO(source) if isinstance(source, bytes) else source, ignore)
  except (_TooLarge, FileNotFoundError):
    raise
  except Exception:
    _either(_contents(source), ignore)


def _contents(source: Source) -> bytes:
  if isinstance(source, bytes):
    return source
  _check_regular(source)
  with open(source, "rb") as file:
    data = file.read(_MAX_BYTES + 1)
  if len(data) > _MAX_BYTES:
    raise ValueError(f"it has more than {_MAX_BYTES:,} bytes")
  return data


def _either(data: bytes, use: Callable[[Image.Image], Any]) -> Any:
  """Applies `use` to the file, if need be without what surrounds its pixels."""
  _check_sums(data)
  try:
    return _opened(io.BytesIO(data), use)
  except _TooLarge:
    raise
  except Exception:
    bare = _without_metadata(data)
    if len(bare) == len(data):
      raise
  return _opened(io.BytesIO(bare), use)


def _check_regular(source: Source) -> None:
  if isinstance(source, bytes) or os.path.isfile(source):
    return
  if os.path.exists(source):
    raise ValueError("it is not a regular file")  # a pipe would never end


class _TooLarge(ValueError):
  """An image of more pixels than are decoded."""


def _opened(
  source: io.BytesIO | pathlib.Path | str, use: Callable[[Image.Image], Any]
) -> Any:
  with Image.open(source, formats=_formats()) as file:
    _check_size(file)
    return use(file)


def _check_size(image: Image.Image) -> None:
  width, height = image.size
  if width * height > MAX_PIXELS or max(image.size) > MAX_SIDE:
    raise _TooLarge(
      f"it has {height:,} x {width:,} pixels; at most {MAX_PIXELS:,} are read,"
      f" and {MAX_SIDE:,} on a side; make it smaller"
    )


@functools.cache
def _formats() -> tuple[str, ...]:
  Image.init()
  return tuple(name for name in Image.ID if name not in _NOT_READ)


def _upright(file: Image.Image) -> Image.Image:
  """The decoded pixels, turned; metadata stays as it is."""
  file.load()
  _check_size(file)  # the header of an icon may not tell
  try:
    orientation = file.getexif().get(ExifTags.Base.Orientation)
  except Exception:  # damaged EXIF data say nothing about the pixels
    orientation = None
  turn = _TURNS.get(orientation) if isinstance(orientation, int) else None
  return without_alpha(file if turn is None else file.transpose(turn))


def without_alpha(image: Image.Image) -> Image.Image:
  """Three channels, as image loaders make them: an alpha channel is dropped.

  This is what transformers' `load_image`, lmms-eval and LLaVA's own code do
  with files. One colour that stands for transparent stays in `info`, where
  `pixels.rgb` finds it, as the processors in transformers do.
  """
  if isinstance(image.info.get("transparency"), bytes):
    image = image.convert("RGBA")  # a palette's alpha; PIL warns otherwise
  return image.convert("RGB")


def _without_metadata(data: bytes) -> bytes:
  """A PNG or JPEG file with its pixels and orientation alone."""
  if data.startswith(_PNG):
    chunks = _png_chunks(data)
    kept = [c for kind, c, sound in chunks if sound and kind in _PNG_KEPT]
    return b"".join((_PNG, *kept))
  kept, start = [_JPEG], len(_JPEG)
  while data.startswith(_JPEG) and data[start : start + 1] == b"\xff":
    marker = data[start + 1 : start + 2]
    if marker in (b"", b"\xda"):  # the pixels begin
      break
    end = start + 2 + int.from_bytes(data[start + 2 : start + 4], "big")
    exif = data.startswith(b"Exif\0\0", start + 4)
    if exif or marker[0] not in _JPEG_LEFT_OUT:
      kept.append(data[start:end])
    start = end
  return b"".join((*kept, data[start:])) if len(kept) > 1 else data


def _check_sums(data: bytes) -> None:
  """Refuses PNG files with damaged pixels, which Pillow may not notice."""
  for kind, _, sound in _png_chunks(data) if data.startswith(_PNG) else ():
    if not sound and kind in _PNG_PIXELS:
      raise ValueError(f"the checksum of a {kind.decode()} chunk is wrong")


def _png_chunks(data: bytes) -> Iterator[tuple[bytes, bytes, bool]]:
  """Type, bytes and soundness of each chunk; the last one may be cut short."""
  start = len(_PNG)
  while start + 8 <= len(data):
    length = int.from_bytes(data[start : start + 4], "big")
    kind, end = data[start + 4 : start + 8], start + 12 + length
    sound = end > len(data)  # cut short: decoding tells whether pixels are lost
    if not sound:
      sum_ = zlib.crc32(data[start + 4 : end - 4])
      sound = sum_ == int.from_bytes(data[end - 4 : end], "big")
    yield kind, data[start:end], sound
    if kind == b"IEND":
      return
    start = end
