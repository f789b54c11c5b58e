"""Charts of mini_suite: 3 to 7 bars of different colours and a short title."""

import dataclasses

import numpy as np

from eos_jax.data import labels, render, scenes

UNIT = 9.0
_BASE = 90.0
_LEFT, _RIGHT = 8.0, 92.0
_TITLE_TOP = 3


@dataclasses.dataclass(frozen=True)
class Bar:
  """One bar; its height in units of `UNIT` pixels, its edges in pixels."""

  color: str
  height: int
  left: float
  right: float


@dataclasses.dataclass(frozen=True)
class Chart:
  """What a chart shows; one bar is highest and one is lowest."""

  bars: tuple[Bar, ...]
  title: scenes.Word


def _sample_heights(rng, count: int) -> np.ndarray:
  while True:
    heights = rng.integers(1, labels.MAX_HEIGHT + 1, count)
    top, bottom = heights == heights.max(), heights == heights.min()
    if top.sum() == 1 and bottom.sum() == 1:
      return heights


def sample_chart(rng) -> Chart:
  """Draws what a chart shows."""
  count = int(rng.integers(labels.MIN_BARS, labels.MAX_BARS + 1))
  heights = _sample_heights(rng, count)
  colors = rng.permutation(len(labels.COLORS))[:count]
  slot = (_RIGHT - _LEFT) / count
  width = min(slot * rng.uniform(0.6, 0.8), 15.0)
  shift = rng.uniform(-1.5, 1.5)
  bars = []
  for i in range(count):
    middle = _LEFT + (i + 0.5) * slot + shift
    bars.append(
      Bar(
        labels.COLORS[colors[i]],
        int(heights[i]),
        middle - width / 2,
        middle + width / 2,
      )
    )
  x = rng.uniform(4, labels.SIDE - 4 - 3 * render.LETTER_WIDTH)
  return Chart(tuple(bars), scenes.sample_word(rng, x, _TITLE_TOP))


def render_chart(rng, chart: Chart):
  """Paints a chart.

  Returns:
    The picture, uint8 `[SIDE, SIDE, 3]`, and its patch labels, uint8
    `[GRID, GRID, PATCH_CHANNELS]`.
  """
  canvas = render.new_canvas(rng)
  render.paint_distractors(canvas, rng, int(rng.integers(1, 4)))
  dark = canvas.image.mean() > 128
  line_color = np.full(3, 30.0 if dark else 230.0)
  grid_line = np.ones((1, int(_RIGHT - _LEFT) + 4), np.float32)
  for level in range(2, labels.MAX_HEIGHT + 1, 2):
    y = int(_BASE - level * UNIT)
    render.paint(canvas, grid_line, int(_LEFT) - 2, y, line_color, opacity=0.3)
  for bar in chart.bars:
    render.paint_bar(
      canvas,
      rng,
      color=bar.color,
      height=bar.height,
      left=bar.left,
      right=bar.right,
      top=_BASE - bar.height * UNIT,
      bottom=_BASE,
    )
  axis = np.ones((1, int(_RIGHT - _LEFT) + 4), np.float32)
  render.paint(canvas, axis, int(_LEFT) - 2, int(_BASE), line_color)
  upright = np.ones((int(labels.MAX_HEIGHT * UNIT) + 2, 1), np.float32)
  top = int(_BASE - labels.MAX_HEIGHT * UNIT) - 1
  render.paint(canvas, upright, int(_LEFT) - 3, top, line_color)
  title = chart.title
  render.paint_word(canvas, rng, title.text, title.x, title.y, line=0)
  return render.finish(canvas), render.patch_labels(canvas)


def chart_labels(chart: Chart) -> np.ndarray:
  """The multi-hot label vector of a chart, uint8 `[NUM_SCENE]`."""
  out = np.zeros(labels.NUM_SCENE, np.uint8)
  section = lambda name: out[labels.SCENE_SECTIONS[name]]
  section("objects")[0] = 1
  for color in range(len(labels.OBJECT_COLORS)):
    section("color_counts")[color * 5] = 1
  for bar in chart.bars:
    section("bar_colors")[labels.COLORS.index(bar.color)] = 1
  section("bars")[len(chart.bars)] = 1
  by_height = sorted(chart.bars, key=lambda bar: bar.height)
  section("lowest")[labels.COLORS.index(by_height[0].color)] = 1
  section("highest")[labels.COLORS.index(by_height[-1].color)] = 1
  scenes.mark_words(out, (chart.title,))
  return out
