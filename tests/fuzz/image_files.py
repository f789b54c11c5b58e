"""Seeded damaged and odd image files of many formats, for campaigns."""

import dataclasses
import io
import random
import struct
import zlib

import numpy as np
from PIL import Image
from PIL import features as pillow

from tests import campaign

# By format: its modes, and what it is saved with.
FORMATS = {
  "PNG": (("1", "L", "LA", "P", "RGB", "RGBA", "I;16"), {}),
  "JPEG": (("L", "RGB", "CMYK"), {"quality": 90}),
  "GIF": (("1", "L", "P", "RGBA"), {}),
  "WEBP": (("RGB", "RGBA"), {"lossless": True}),
  "BMP": (("1", "L", "P", "RGB", "RGBA"), {}),
  "TIFF": (
    ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr", "I;16", "F"),
    {},
  ),
  "PPM": (("1", "L", "RGB", "I;16", "F"), {}),
  "ICO": (("RGB", "RGBA"), {"sizes": [(33, 21)]}),
  "TGA": (("L", "LA", "P", "RGB", "RGBA"), {"compression": "tga_rle"}),
  "JPEG2000": (("L", "LA", "RGB", "RGBA", "YCbCr"), {}),
}
# Formats that can say how their image is to be turned.
TURNED = ("PNG", "JPEG", "WEBP", "TIFF")
KINDS = (
  "sound",
  "turned",
  "broken exif",
  "large metadata",
  "cut",
  "cut",
  "damaged",
  "damaged",
  "damaged",
  "bomb",
  "none",
)


@dataclasses.dataclass(frozen=True)
class Odd:
  """A file, and how reading it may end.

  Attributes:
    name: of the file, without a folder.
    data: its bytes.
    what: was done to it.
    sound: whether its pixels have to be read.
    allowed: the undamaged file's pixels as they may come out, RGB; empty where
      no pixels may come out. None allows any, where no checksum guards them.
  """

  name: str
  data: bytes
  what: str
  sound: bool
  allowed: tuple[np.ndarray, ...] | None


def files(count: int, seed: int) -> list[Odd]:
  """Draws so many files."""
  draw = random.Random(seed)
  return [_file(number, draw) for number in range(count)]


def _file(number, draw):
  kind, format_ = KINDS[number % len(KINDS)], draw.choice([*FORMATS])
  if kind in ("turned", "broken exif"):  # the tags of a TIFF are its header
    format_ = draw.choice(TURNED if kind == "turned" else TURNED[:-1])
  if kind == "large metadata":
    format_ = draw.choice(("PNG", "JPEG"))
  name = f"{number}.{format_.lower()}"
  if kind == "none":
    what, data = _no_image(draw)
    return Odd(name, data, what, False, ())
  if kind == "bomb":
    what, data = _bomb(draw)
    return Odd(name, data, what, False, ())
  mode = draw.choice(FORMATS[format_][0])
  image = image_of(mode, (33, 21), draw)
  data = encoded(image, format_)
  upright = as_rgb(data)
  said = f"{format_} {mode}: {kind}"
  if kind == "sound":
    return Odd(name, data, said, True, (upright,))
  if kind == "turned":
    exif = Image.Exif()
    exif[274] = turn = draw.randint(1, 8)
    data = encoded(image, format_, exif=exif)
    return Odd(name, data, f"{said} {turn}", True, (turned(upright, turn),))
  if kind == "broken exif":
    exif = broken_exif(draw)
    data = encoded(image, format_, exif=exif)
    allowed = tuple(turned(upright, turn) for turn in range(1, 9))
    return Odd(name, data, said, True, allowed)
  if kind == "large metadata":
    what, data = (_png_metadata if format_ == "PNG" else _jpeg_metadata)(
      data, draw
    )
    return Odd(name, data, f"{said}, {what}", True, (upright,))
  if kind == "cut":
    at = draw.randrange(len(data))
    return Odd(name, data[:at], f"{said} at {at}", False, (upright,))
  what, data = campaign.damaged(data, draw)
  guarded = (upright,) if format_ == "PNG" else None
  return Odd(name, data, f"{said}, {what}", False, guarded)


def image_of(mode: str, size: tuple[int, int], draw: random.Random):
  """A smooth random image with some transparent pixels, of any mode."""
  values = np.random.default_rng(draw.randrange(2**32))
  small = values.integers(0, 256, (4, 5, 4), np.uint8)
  image = Image.fromarray(small).resize(size, Image.Resampling.BICUBIC)
  if mode == "RGBA":
    return image
  if mode == "LA":
    return image.convert("LA")
  image = image.convert("RGB")
  if mode == "PA":
    image = image.convert("P").convert("PA")
  elif mode == "I;16":
    grey = np.asarray(image.convert("L")).astype(np.uint16)
    return Image.fromarray(grey * 257)
  return image.convert(mode)


def encoded(image: Image.Image, format_: str, **more) -> bytes:
  """The bytes of a file."""
  file = io.BytesIO()
  image.save(file, format=format_, **FORMATS[format_][1], **more)
  return file.getvalue()


def as_rgb(data: bytes) -> np.ndarray:
  """What Pillow reads, in three channels as the package makes them."""
  from eos_jax.data.processors import image_file, pixels

  with Image.open(io.BytesIO(data)) as image:
    image.load()
    return pixels.rgb(image_file.without_alpha(image))


def turned(image: np.ndarray, orientation: int) -> np.ndarray:
  """An image as viewers show it under an EXIF orientation, by its definition.

  The value names the sides of the scene that the first row and the first column
  are: 1 top left, 2 top right, 3 bottom right, 4 bottom left, 5 left top, 6
  right top, 7 right bottom, 8 left bottom.
  """
  if orientation > 4:
    image = image.swapaxes(0, 1)
    orientation = {5: 1, 6: 2, 7: 3, 8: 4}[orientation]
  rows = slice(None, None, -1 if orientation in (3, 4) else 1)
  columns = slice(None, None, -1 if orientation in (2, 3) else 1)
  return image[rows, columns]


def broken_exif(draw: random.Random) -> bytes:
  """EXIF data that are no EXIF data, or hold odd values."""
  exif = Image.Exif()
  exif[274] = draw.choice((0, 3, 6, 9, 65535))
  exif[271] = "maker"
  exif[282] = 72.0
  data = exif.tobytes()
  kind = draw.choice(("cut", "damaged", "random", "type", "length"))
  if kind == "cut":
    return data[: draw.randrange(6, len(data))]
  if kind == "damaged":
    return b"Exif\0\0" + campaign.damaged(data[6:], draw)[1]
  if kind == "random":
    return b"Exif\0\0" + draw.randbytes(draw.randint(0, 80))
  changed = bytearray(data)
  at = data.find(struct.pack("<H", 274), 6)
  if kind == "type":
    changed[at + 2 : at + 4] = struct.pack("<H", draw.choice((2, 5, 7, 12, 99)))
  else:
    many = draw.choice((0, 2, 9, 2**31))
    changed[at + 4 : at + 8] = struct.pack("<I", many)
  return bytes(changed)


def png_chunk(kind: bytes, data: bytes) -> bytes:
  """A chunk of a PNG file."""
  total = zlib.crc32(kind + data)
  return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", total)


def png(width: int, height: int, rows: bytes | None = None) -> bytes:
  """A black 1-bit PNG of any size; `rows` are its compressed rows."""
  if rows is None:
    rows = zlib.compress(bytes((1 + -(-width // 8)) * height), 9)
  head = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
  chunks = ((b"IHDR", head), (b"IDAT", rows), (b"IEND", b""))
  return b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(*one) for one in chunks)


def _png_metadata(data, draw):
  """A PNG file with chunks before its pixels that Pillow does not read."""
  large = zlib.compress(bytes(3 << 20))
  wrong = bytearray(png_chunk(b"tEXt", b"Comment\0x"))
  wrong[-1] ^= 1
  chunks = {
    "text of 3 MiB": png_chunk(b"zTXt", b"Comment\0\0" + large),
    "international text of 3 MiB": png_chunk(
      b"iTXt", b"Comment\0\1\0\0\0" + large
    ),
    "profile of 3 MiB": png_chunk(b"iCCP", b"ICC\0\0" + large),
    "text that is not compressed": png_chunk(b"zTXt", b"Comment\0\0no"),
    "a wrong checksum": bytes(wrong),
    "a short resolution": png_chunk(b"pHYs", b"\0"),
    "a short colour": png_chunk(b"cHRM", b"\0\0\0"),
    "an animation of no frames": png_chunk(b"acTL", bytes(8)),
    "a short animation": png_chunk(b"acTL", b"\0"),
    "a frame of another size": png_chunk(
      b"fcTL", struct.pack(">IIIIIHHBB", 0, 9**9, 9**9, 0, 0, 0, 0, 9, 9)
    ),
    "exif as text": png_chunk(
      b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(b"\nexif\n9\nzz")
    ),
    "an unknown chunk": png_chunk(b"abCd", b"x" * 999),
  }
  name = draw.choice([*chunks])
  return name, data[:33] + chunks[name] + data[33:]


def _jpeg_metadata(data, draw):
  """A JPEG file with segments before its pixels that say nothing of them."""
  segment = lambda number, body: (
    bytes((0xFF, number)) + struct.pack(">H", len(body) + 2) + body
  )
  segments = {
    "a long comment": segment(0xFE, b"x" * 65000),
    "a profile of one part of three": segment(
      0xE2, b"ICC_PROFILE\0\1\3" + b"x" * 99
    ),
    "a profile without numbers": segment(0xE2, b"ICC_PROFILE\0"),
    "a broken resource": segment(
      0xED, b"Photoshop 3.0\x008BIM\x03\xed\0\0\0\0\xff\xff"
    ),
    "a short resource": segment(0xED, b"Photoshop 3.0\x008BIM"),
    "a broken list of images": segment(0xE2, b"MPF\0II*\0\xff\xff\xff\xff"),
    "a short list of images": segment(0xE2, b"MPF\0"),
    "a broken XMP packet": segment(
      0xE1, b"http://ns.adobe.com/xap/1.0/\0<x tiff:Orientation='9"
    ),
    "a short flashpix": segment(0xE2, b"FPXR\0"),
    "an empty segment": segment(0xEB, b""),
  }
  name = draw.choice([*segments])
  return name, data[:2] + segments[name] + data[2:]


def _bomb(draw):
  """A small file of very many pixels."""
  width = draw.choice((20_000, 40_000, 200_000, 2**30))
  height = draw.choice((20_000, 60_000, 2**30))
  bombs = {
    "PNG": png(width, height, zlib.compress(b"")),
    "1 x 200,000": png(200_000, 1),
    "PPM": f"P4\n{width} {height}\n".encode(),
    "BMP": b"BM"
    + struct.pack("<IHHI", 100, 0, 0, 54)
    + struct.pack("<IiiHHIIiiII", 40, width, height, 1, 24, 0, 0, 0, 0, 0, 0),
    "GIF": b"GIF89a"
    + struct.pack("<HHBBB", 65_535, 65_535, 0, 0, 0)
    + b",\0\0\0\0"
    + struct.pack("<HHB", 65_535, 65_535, 0),
  }
  name = draw.choice([*bombs])
  return f"bomb, {name}", bombs[name]


def _no_image(draw):
  """What is no image at all."""
  nothing = {
    "empty": b"",
    "random": draw.randbytes(500),
    "text": b"<html>not found</html>",
    "a program": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EOF",
    "svg": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
    "a signature alone": b"\x89PNG\r\n\x1a\n",
    "a JPEG's signature": b"\xff\xd8\xff\xe0",
    "git-lfs": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
  }
  name = draw.choice([*nothing])
  return name, nothing[name]


def available() -> bool:
  """Whether Pillow was built with all formats of the campaign."""
  return all(map(pillow.check, ("webp", "jpg_2000", "jpg", "zlib", "libtiff")))
