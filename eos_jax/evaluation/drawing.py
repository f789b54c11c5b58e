"""Images with what a plan does to their tokens, as SVG."""

import base64
from collections.abc import Mapping
import dataclasses
import io
from typing import Any

import numpy as np
from PIL import Image

from eos_jax import models
from eos_jax.evaluation import html


@dataclasses.dataclass(frozen=True)
class View:
  """An image as a model reads it, and where its tokens come from.

  Attributes:
    image: `[H, W, 3]` uint8.
    boxes: `[V, 4]` left, top, width and height of each token, pixels; width 0
      where a token shows no part of the image.
  """

  image: np.ndarray
  boxes: np.ndarray


def raster(image: np.ndarray, grid: tuple[int, int]) -> View:
  """Returns the view of an image whose tokens are the cells of a raster.

  Args:
    image: `[H, W, 3]` uint8.
    grid: rows and columns.
  """
  rows, columns = grid
  height, width = image.shape[0] / rows, image.shape[1] / columns
  row, column = np.divmod(np.arange(rows * columns), columns)
  sizes = np.broadcast_to([width, height], (rows * columns, 2))
  boxes = np.concatenate(
    [np.stack([column * width, row * height], 1), sizes], axis=1
  )
  return View(image, boxes)


def views(
  cfg: models.VLMConfig, processor: Any, shown: Mapping[str, Any]
) -> list[View]:
  """Returns the views of the images of a row.

  Args:
    cfg: shape of the model.
    processor: of its folder; None for "tiny", whose images have 8 bits.
    shown: image, present and layout of the row, see `models.inputs`.
  """
  if processor is None:
    return [raster(np.asarray(shown["image"]), cfg.grid)]
  values = processor.settings.values
  pixels = np.asarray(shown["image"], np.float32)
  pixels = (pixels * values.std + values.mean) / values.scale
  images = np.clip(np.round(pixels), 0, 255).astype(np.uint8)
  if "layout" in shown:
    return [
      _tiled(cfg, tiles, {n: v[i] for n, v in shown["layout"].items()})
      for i, tiles in enumerate(images)
    ]
  found = []
  for image, present in zip(images, shown["present"], strict=True):
    view = raster(image, cfg.grid)
    boxes = np.where(np.asarray(present)[:, None], view.boxes, 0)
    found.append(View(image, boxes))
  return found


def _tiled(cfg, tiles, layout):
  """The whole image at the top, and below it the mosaic of its tiles."""
  down, across = cfg.tiles
  height, width = tiles.shape[1:3]
  canvas = np.full(
    (height * (1 + down), width * max(across, 1), 3), 255, np.uint8
  )
  corners = [(0, 0)]
  corners += [
    (height * (1 + row), width * column)
    for row in range(down)
    for column in range(across)
  ]
  for (top, left), tile in zip(corners, tiles, strict=True):
    canvas[top : top + height, left : left + width] = tile
  side = cfg.vision.grid[0]
  crop, place = np.divmod(np.asarray(layout["index"]), side**2)
  row, column = np.divmod(place, side)
  cell = height / side
  tops = np.array([top for top, _ in corners])[crop] + row * cell
  lefts = np.array([left for _, left in corners])[crop] + column * cell
  weight = np.asarray(layout["weight"])
  real = np.asarray(layout["valid"]) & ~np.asarray(layout["newline"])
  boxes = np.stack(
    [
      np.sum(weight * lefts, axis=1),
      np.sum(weight * tops, axis=1),
      np.full(len(weight), cell),
      np.full(len(weight), cell),
    ],
    axis=1,
  )
  return View(canvas, np.where(real[:, None], boxes, 0))


def svg(
  view: View, owner: np.ndarray, left_at: np.ndarray, sites: int
) -> html.Markup:
  """Returns an image on which tokens that lost their row are dark.

  The earlier they left, the darker. A line leads to the token that took up most
  of one that was merged.

  Args:
    view: the image.
    owner: `[V]`, see `token_flow.follow`.
    left_at: `[V]`, likewise.
    sites: number of sites of the plan.
  """
  height, width = view.image.shape[:2]
  buffer = io.BytesIO()
  Image.fromarray(view.image).save(buffer, format="PNG")
  data = base64.b64encode(buffer.getvalue()).decode()
  drawn = view.boxes[:, 2] > 0
  middle = view.boxes[:, :2] + view.boxes[:, 2:] / 2
  marks, lines = [], []
  for token in np.flatnonzero(drawn & (left_at < sites)):
    x, y, across, down = view.boxes[token]
    shade = 0.75 - 0.4 * left_at[token] / max(sites - 1, 1)
    marks.append(
      html.fill(
        '<rect x="{x:g}" y="{y:g}" width="{across:g}" height="{down:g}"'
        ' fill-opacity="{shade:.2f}"/>',
        x=x,
        y=y,
        across=across,
        down=down,
        shade=shade,
      )
    )
    to = int(owner[token])
    if to >= 0 and to != token and drawn[to]:
      lines.append(
        f"M{middle[token, 0]:g} {middle[token, 1]:g}"
        f"L{middle[to, 0]:g} {middle[to, 1]:g}"
      )
  kept = int(np.sum(drawn & (left_at >= sites)))
  return html.fill(
    '<svg viewBox="0 0 {width} {height}" role="img"'
    ' aria-label="{kept} of {all} patches are kept">'
    '<image width="{width}" height="{height}"'
    ' href="data:image/png;base64,{data}"/>{marks}'
    '<path d="{lines}" stroke="#ffd54a" stroke-width="{stroke:.2g}"'
    ' stroke-opacity=".7" fill="none"/></svg>',
    width=width,
    height=height,
    kept=kept,
    all=int(np.sum(drawn)),
    data=data,
    marks=html.join(marks),
    lines="".join(lines),
    stroke=0.35 * width / 96,
  )
