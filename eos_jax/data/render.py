"""Paints pictures: textured backgrounds, shapes, letters, bars, distractors.

A `Canvas` holds the picture and, for each thing painted, how much of every
patch it covers, from which the patch labels follow. Things are drawn on small
tiles at four times the resolution and averaged down, which is anti-aliasing.
"""

import dataclasses
import functools
import math

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from eos_jax.data import labels

SIDE = labels.SIDE
_SUPER = 4
_ROWS, _COLUMNS = np.mgrid[0:SIDE, 0:SIDE].astype(np.float32)
# A thing owns a patch from this covered share on.
MIN_COVERAGE = 0.12
LETTER_WIDTH = 9
LETTER_HEIGHT = 10
_FONT_SIZE = 12

RGB = {
  "red": (218, 36, 36),
  "green": (40, 165, 45),
  "blue": (45, 70, 225),
  "yellow": (245, 222, 40),
  "pink": (250, 130, 200),
  "teal": (10, 178, 185),
  "orange": (248, 140, 15),
}


@dataclasses.dataclass
class Canvas:
  """A picture in the making.

  Attributes:
    image: float32 `[SIDE, SIDE, 3]` in 0..255.
    instances: labels of the things painted, the background first.
    covered: float32 `[GRID, GRID]`, the share of each patch that its owner
      covers.
    owner: int `[GRID, GRID]`, index into `instances`.
  """

  image: np.ndarray
  instances: list
  covered: np.ndarray
  owner: np.ndarray


def new_canvas(rng) -> Canvas:
  """A canvas with nothing but a background."""
  shape = (labels.GRID, labels.GRID)
  return Canvas(
    background(rng),
    [(labels.KIND_BACKGROUND, 0, 0, 0.0, 0.0)],
    np.full(shape, MIN_COVERAGE, np.float32),
    np.zeros(shape, np.int64),
  )


@functools.cache
def _interpolation(cells: int) -> np.ndarray:
  """Matrix `[SIDE, cells]` that enlarges a row of cells bicubically."""
  columns = [
    Image.fromarray(row[None]).resize((SIDE, 1), Image.Resampling.BICUBIC)
    for row in np.eye(cells, dtype=np.float32)
  ]
  return np.stack([np.asarray(column)[0] for column in columns], axis=1)


def _smooth(rng, cells: int) -> np.ndarray:
  """Smooth noise float32 `[SIDE, SIDE]` in about -1..1."""
  matrix = _interpolation(cells)
  grid = rng.uniform(-1, 1, (cells, cells)).astype(np.float32)
  return matrix @ grid @ matrix.T


def _noise(rng, octaves=(3, 6, 12, 24)) -> np.ndarray:
  total = np.zeros((SIDE, SIDE), np.float32)
  for level, cells in enumerate(octaves):
    total += _smooth(rng, cells) * 0.65**level
  return total


def _texture(rng) -> np.ndarray:
  """One procedural texture, float32 `[SIDE, SIDE]`, about -1..1."""
  kind = rng.integers(6)
  y, x = _ROWS, _COLUMNS
  angle = rng.uniform(0, np.pi)
  u = x * math.cos(angle) + y * math.sin(angle)
  v = y * math.cos(angle) - x * math.sin(angle)
  if kind == 0:
    return _noise(rng)
  if kind == 1:
    wave = np.sin(2 * np.pi * u / rng.uniform(6, 26) + rng.uniform(0, 6))
    return np.clip(wave * rng.choice([1.0, 3.0]), -1, 1)
  if kind == 2:
    period = rng.uniform(7, 20)
    checks = (np.floor(u / period) + np.floor(v / period)) % 2
    return (2 * checks - 1).astype(np.float32)
  if kind == 3:
    return u / SIDE * 2 - 1 + 0.3 * _noise(rng, (8, 16))
  if kind == 4:
    cells = int(rng.integers(5, 13))
    cell = np.arange(SIDE) * cells // SIDE
    return rng.uniform(-1, 1, (cells, cells))[np.ix_(cell, cell)]
  warp = _noise(rng, (3, 6)) * 2
  return np.sin(2 * np.pi * (u / rng.uniform(14, 40) + warp))


def background(rng) -> np.ndarray:
  """A muted textured background, float32 `[SIDE, SIDE, 3]`."""
  level = rng.uniform(95, 165)
  first = level + rng.uniform(-24, 24, 3)
  second = level + rng.uniform(-24, 24, 3)
  mix = _texture(rng)
  if rng.random() < 0.6:
    mix = 0.6 * mix + 0.6 * _texture(rng)
  mix = np.clip(0.5 + 0.5 * mix, 0, 1)[..., None]
  image = first + (second - first) * mix
  # Slow drifts of colour and light make equal texture cells differ.
  light = 14 * _noise(rng, (3, 12, 32))
  for channel in range(3):
    image[..., channel] += 12 * _smooth(rng, 4) + light
  return np.clip(image, 50, 205).astype(np.float32)


def paint(
  canvas: Canvas,
  tile: np.ndarray,
  left: int,
  top: int,
  color,
  *,
  label: tuple | None = None,
  opacity: float = 1.0,
  cover: np.ndarray | None = None,
) -> None:
  """Blends a tile of opacities in 0..1 into the canvas.

  Args:
    canvas: changed in place.
    tile: float32 `[h, w]`; what leaves the picture is cut off.
    left: column of the tile's first pixel.
    top: row of the tile's first pixel.
    color: three numbers 0..255.
    label: (kind, colour, size, x, y) of the instance, None for no label.
    opacity: factor on the tile.
    cover: `[h, w]` what counts as covered, if not the tile itself.
  """
  height, width = tile.shape
  y0, x0 = max(top, 0), max(left, 0)
  y1, x1 = min(top + height, SIDE), min(left + width, SIDE)
  if y1 <= y0 or x1 <= x0:
    return
  part = (slice(y0 - top, y1 - top), slice(x0 - left, x1 - left))
  alpha = (tile[part] * opacity)[..., None]
  region = canvas.image[y0:y1, x0:x1]
  region += alpha * (np.asarray(color, np.float32) - region)
  if label is not None:
    shown = (tile if cover is None else cover)[part]
    _own(canvas, shown, x0, y0, label)


def _own(canvas: Canvas, shown, left: int, top: int, label: tuple) -> None:
  """Gives the new instance the patches that it covers more than others do."""
  patch = labels.PATCH
  row, column = top // patch, left // patch
  rows = -(-(top + shown.shape[0]) // patch) - row
  columns = -(-(left + shown.shape[1]) // patch) - column
  full = np.zeros((rows * patch, columns * patch), np.float32)
  y, x = top - row * patch, left - column * patch
  full[y : y + shown.shape[0], x : x + shown.shape[1]] = shown
  share = full.reshape(rows, patch, columns, patch).sum((1, 3)) / patch**2
  place = (slice(row, row + rows), slice(column, column + columns))
  better = share > canvas.covered[place]
  canvas.covered[place][better] = share[better]
  canvas.owner[place][better] = len(canvas.instances)
  canvas.instances.append(label)


def patch_labels(canvas: Canvas) -> np.ndarray:
  """Labels each patch with the instance that covers most of it.

  Returns:
    uint8 `[GRID, GRID, PATCH_CHANNELS]`, see `labels`.
  """
  table = np.array(canvas.instances, np.float32)
  out = table[canvas.owner]
  middles = (np.arange(labels.GRID) + 0.5) * labels.PATCH
  out[..., 3] -= middles
  out[..., 4] -= middles[:, None]
  out[..., 3:] = np.rint(labels.OFFSET_ZERO + 2 * out[..., 3:])
  out[canvas.owner == 0] = (0, 0, 0, labels.OFFSET_ZERO, labels.OFFSET_ZERO)
  return np.clip(out, 0, 255).astype(np.uint8)


def finish(canvas: Canvas) -> np.ndarray:
  """The picture as uint8 `[SIDE, SIDE, 3]`."""
  return np.clip(np.rint(canvas.image), 0, 255).astype(np.uint8)


def _tile(x: float, y: float, half: float):
  """An empty super-sampled tile around a point, and a map into it."""
  left, top = math.floor(x - half - 1), math.floor(y - half - 1)
  side = math.ceil(2 * half + 3)
  image = Image.new("L", (side * _SUPER, side * _SUPER))
  to_tile = lambda px, py: ((px - left) * _SUPER, (py - top) * _SUPER)
  return image, ImageDraw.Draw(image), to_tile, left, top


def _opacity(image: Image.Image) -> np.ndarray:
  return np.asarray(image.reduce(_SUPER), np.float32) / 255


@functools.cache
def _shape_tile(shape: str, x: float, y: float, radius: float):
  image, draw, to_tile, left, top = _tile(x, y, radius)

  def box(rx, ry):
    return [to_tile(x - rx, y - ry), to_tile(x + rx, y + ry)]

  if shape == "circle":
    draw.ellipse(box(radius, radius), fill=255)
  elif shape == "ring":
    draw.ellipse(box(radius, radius), fill=255)
    draw.ellipse(box(0.52 * radius, 0.52 * radius), fill=0)
  elif shape == "square":
    draw.rectangle(box(0.86 * radius, 0.86 * radius), fill=255)
  elif shape == "cross":
    draw.rectangle(box(radius, 0.32 * radius), fill=255)
    draw.rectangle(box(0.32 * radius, radius), fill=255)
  elif shape == "triangle":
    corners = ((0, -1), (1, 0.8), (-1, 0.8))
    draw.polygon(
      [to_tile(x + a * radius, y + b * radius) for a, b in corners], fill=255
    )
  else:
    raise ValueError(f"shape {shape!r} is unknown: use one of {labels.SHAPES}")
  return _opacity(image), left, top


def shape_tile(shape: str, x: float, y: float, radius: float):
  """Opacities of a shape: `(tile [h, w], left, top)`.

  Positions and sizes are rounded to quarters of a pixel, so that few
  different tiles exist and each is drawn once.
  """
  x, y, radius = (round(_SUPER * value) / _SUPER for value in (x, y, radius))
  left, top = math.floor(x), math.floor(y)
  tile, dx, dy = _shape_tile(shape, x - left, y - top, radius)
  return tile, left + dx, top + dy


def paint_object(canvas, rng, *, shape, color, size, x, y, radius) -> None:
  """Paints one object with a dark rim and its label."""
  rim, left, top = shape_tile(shape, x, y, radius + 0.8)
  paint(canvas, rim, left, top, (25, 25, 25), opacity=0.45)
  tile, left, top = shape_tile(shape, x, y, radius)
  label = (
    labels.KIND_SHAPE + labels.SHAPES.index(shape),
    1 + labels.COLORS.index(color),
    1 + labels.SIZES.index(size),
    x,
    y,
  )
  paint(canvas, tile, left, top, jittered(rng, color), label=label)


def jittered(rng, color: str) -> np.ndarray:
  """The colour with a little variation in each channel."""
  jitter = rng.uniform(-14, 14, 3)
  return np.minimum(np.maximum(RGB[color] + jitter, 0), 255)


@functools.cache
def _font():
  return ImageFont.load_default(_FONT_SIZE * _SUPER)


@functools.cache
def _glyph(letter: str, shift: int) -> np.ndarray:
  """Opacities of a capital letter, moved right by `shift` quarter pixels."""
  size = ((LETTER_WIDTH + 3) * _SUPER, (LETTER_HEIGHT + 2) * _SUPER)
  image = Image.new("L", size)
  middle = ((LETTER_WIDTH + 2) * _SUPER / 2 + shift, size[1] / 2)
  ImageDraw.Draw(image).text(
    middle,
    letter.upper(),
    font=_font(),
    fill=255,
    anchor="mm",
    stroke_width=1,
    stroke_fill=255,
  )
  return _opacity(image)


def paint_word(canvas, rng, word: str, x: float, y: int, *, line: int) -> None:
  """Paints a word in light or dark letters, whichever stands out.

  Args:
    canvas: changed in place.
    rng: numpy generator.
    word: letters, drawn in upper case.
    x: left edge of the first letter's cell, in pixels.
    y: top edge.
    line: 0 for the upper or only word, 1 for the lower one.
  """
  width = len(word) * LETTER_WIDTH
  column = math.floor(x)
  under = canvas.image[y : y + LETTER_HEIGHT, column : column + width]
  dark = under.mean() > 128
  shade = rng.uniform(0, 28) if dark else rng.uniform(232, 255)
  ink = shade + rng.uniform(-12, 12, 3)
  for place, letter in enumerate(word.upper()):
    start = x + place * LETTER_WIDTH
    left = math.floor(start)
    tile = _glyph(letter, int((start - left) * _SUPER))
    cell = np.zeros_like(tile)
    cell[1:-1, 1:-2] = 1
    label = (
      labels.KIND_LETTER + labels.LETTERS.index(letter),
      0,
      1 + line * labels.WORD_LENGTH + place,
      start + LETTER_WIDTH / 2,
      y + LETTER_HEIGHT / 2,
    )
    paint(canvas, tile, left - 1, y - 1, ink, label=label, cover=cell)


def paint_bar(canvas, rng, *, color, height, left, right, top, bottom) -> None:
  """Paints one bar; edges in pixels, `height` in units."""
  columns = np.arange(SIDE, dtype=np.float32)
  inside_x = np.clip(
    np.minimum(columns + 1, right) - np.maximum(columns, left), 0, 1
  )
  inside_y = np.clip(
    np.minimum(columns + 1, bottom) - np.maximum(columns, top), 0, 1
  )
  tile = inside_y[:, None] * inside_x[None]
  label = (
    labels.KIND_BAR,
    1 + labels.COLORS.index(color),
    height,
    (left + right) / 2,
    (top + bottom) / 2,
  )
  paint(canvas, tile, 0, 0, jittered(rng, color), label=label)


def paint_distractors(canvas, rng, count: int) -> None:
  """Paints grey squiggles, segments, dots and half-transparent blobs."""
  for _ in range(count):
    x, y = rng.uniform(2, SIDE - 2, 2)
    kind = rng.integers(4)
    half = rng.uniform(5, 11) if kind != 2 else 3.0
    image, draw, to_tile, left, top = _tile(x, y, half)
    opacity = 0.85
    if kind == 0:
      steps = np.linspace(-1, 1, 12)
      wave = 0.5 * np.sin(steps * rng.uniform(3, 9) + rng.uniform(0, 6))
      turn = rng.uniform(0, np.pi)
      px = x + half * (steps * math.cos(turn) - wave * math.sin(turn)) * 0.8
      py = y + half * (steps * math.sin(turn) + wave * math.cos(turn)) * 0.8
      draw.line(
        [to_tile(a, b) for a, b in zip(px, py, strict=True)], fill=255, width=5
      )
    elif kind == 1:
      turn = rng.uniform(0, np.pi)
      dx, dy = half * math.cos(turn), half * math.sin(turn)
      ends = [to_tile(x - dx, y - dy), to_tile(x + dx, y + dy)]
      draw.line(ends, fill=255, width=int(rng.integers(4, 8)))
    elif kind == 2:
      r = rng.uniform(1.2, 2.4)
      draw.ellipse([to_tile(x - r, y - r), to_tile(x + r, y + r)], fill=255)
    else:
      rx, ry = half * rng.uniform(0.4, 1, 2)
      draw.ellipse([to_tile(x - rx, y - ry), to_tile(x + rx, y + ry)], fill=255)
      opacity = 0.4
    grey = np.full(3, rng.uniform(50, 205))
    label = (labels.KIND_DISTRACTOR, 0, 0, x, y)
    paint(
      canvas,
      _opacity(image),
      left,
      top,
      grey,
      label=label,
      opacity=opacity,
    )
