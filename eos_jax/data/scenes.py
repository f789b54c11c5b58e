"""Scenes of mini_suite: 3 to 8 objects and one or two words on a texture.

Each scene is planned around answers that are drawn first (how many objects of
one colour, of one shape, how many small ones, which word will be asked about
and whether it is the right one), so that no answer can be guessed from its
question.
"""

import dataclasses
import functools

import numpy as np

from eos_jax.data import labels, render, words

_RADIUS = {"small": (4.6, 5.6), "large": (7.6, 9.0)}
_MARGIN = 2.5
_TWO_WORDS = 0.6
_MAX_SMALL = 5


@dataclasses.dataclass(frozen=True)
class Item:
  """One object; centre and radius in pixels."""

  shape: str
  color: str
  size: str
  x: float
  y: float
  radius: float


@dataclasses.dataclass(frozen=True)
class Word:
  """A drawn word, and the word a yes/no question will ask about."""

  text: str
  asked: str
  x: float
  y: int


@dataclasses.dataclass(frozen=True)
class Scene:
  """What a scene shows; `color` and `shape` are the ones to be counted."""

  items: tuple[Item, ...]
  words: tuple[Word, ...]
  color: str
  shape: str


def sample_word(rng, x: float, y: int) -> Word:
  """Draws the asked word, then shows it or, half the time, a near miss."""
  asked = words.sample_word(rng)
  shown = asked if rng.random() < 0.5 else words.sample_neighbor(rng, asked)
  return Word(shown, asked, x, y)


def _sample_words(rng) -> tuple[Word, ...]:
  right = labels.SIDE - labels.WORD_LENGTH * render.LETTER_WIDTH - 2
  bottom = labels.SIDE - render.LETTER_HEIGHT - 2
  if rng.random() >= _TWO_WORDS:
    return (
      sample_word(rng, rng.uniform(2, right), int(rng.integers(2, bottom))),
    )
  gap = render.LETTER_HEIGHT + 8
  upper = int(rng.integers(2, bottom - gap))
  lower = int(rng.integers(upper + gap, bottom + 1))
  return tuple(
    sample_word(rng, rng.uniform(2, right), y) for y in (upper, lower)
  )


@functools.cache
def count_probabilities() -> dict[int, float]:
  """Probability of each number of objects, given how scenes are planned."""
  total = dict.fromkeys(range(labels.MIN_OBJECTS, labels.MAX_OBJECTS + 1), 0.0)
  counts = range(labels.MAX_COUNT + 1)
  for first in counts:
    for second in counts:
      allowed = [n for n in total if n >= max(first, second)]
      for n in allowed:
        total[n] += 1 / (len(counts) ** 2 * len(allowed))
  return total


def _sample_kinds(rng):
  """Colours, shapes and sizes of the objects, and what will be counted."""
  colors, shapes = labels.OBJECT_COLORS, labels.SHAPES
  color = colors[rng.integers(len(colors))]
  shape = shapes[rng.integers(len(shapes))]
  of_color, of_shape = rng.integers(0, labels.MAX_COUNT + 1, 2)
  least = max(labels.MIN_OBJECTS, of_color, of_shape)
  count = int(rng.integers(least, labels.MAX_OBJECTS + 1))
  small = int(rng.integers(0, min(count, _MAX_SMALL) + 1))

  def column(chosen, times, choices):
    others = [c for c in choices if c != chosen]
    values = [chosen] * int(times)
    values += [
      others[i] for i in rng.integers(0, len(others), count - int(times))
    ]
    return [values[i] for i in rng.permutation(count)]

  sizes = ["small"] * small + ["large"] * (count - small)
  kinds = zip(
    column(color, of_color, colors),
    column(shape, of_shape, shapes),
    sizes,
    strict=True,
  )
  return color, shape, list(kinds)


def _clears_words(x, y, radius, drawn: tuple[Word, ...]) -> bool:
  width = labels.WORD_LENGTH * render.LETTER_WIDTH
  for word in drawn:
    dx = max(word.x - x, 0, x - word.x - width)
    dy = max(word.y - y, 0, y - word.y - render.LETTER_HEIGHT)
    if dx < radius + 1 and dy < radius + 1:
      return False
  return True


def _place(rng, kinds, drawn) -> tuple[Item, ...] | None:
  """Positions without overlap, largest first; None if it does not work out."""
  items = []
  for color, shape, size in sorted(kinds, key=lambda kind: kind[2]):
    radius = rng.uniform(*_RADIUS[size])
    spots = rng.uniform(radius + 1, labels.SIDE - radius - 1, (60, 2))
    for x, y in spots:
      near = any(
        max(abs(x - o.x), abs(y - o.y)) < radius + o.radius + _MARGIN
        for o in items
      )
      if not near and _clears_words(x, y, radius, drawn):
        items.append(Item(shape, color, size, float(x), float(y), radius))
        break
    else:
      return None
  return tuple(items)


def sample_scene(rng) -> Scene:
  """Draws what a scene shows.

  A plan that finds no room is placed again, never drawn again: else full
  pictures would be rarer and their counts less likely answers.
  """
  color, shape, kinds = _sample_kinds(rng)
  while True:
    drawn = _sample_words(rng)
    items = _place(rng, kinds, drawn)
    if items is not None:
      return Scene(items, drawn, color, shape)


def render_scene(rng, scene: Scene):
  """Paints a scene.

  Returns:
    The picture, uint8 `[SIDE, SIDE, 3]`, and its patch labels, uint8
    `[GRID, GRID, PATCH_CHANNELS]`.
  """
  canvas = render.new_canvas(rng)
  render.paint_distractors(canvas, rng, int(rng.integers(2, 6)))
  for item in scene.items:
    render.paint_object(canvas, rng, **vars(item))
  for line, word in enumerate(scene.words):
    render.paint_word(canvas, rng, word.text, word.x, word.y, line=line)
  return render.finish(canvas), render.patch_labels(canvas)


def mark_words(out: np.ndarray, drawn: tuple[Word, ...]) -> None:
  """Sets the letter sections of a scene label vector, in place."""
  count = len(labels.LETTERS)
  for name, word in zip(("upper_word", "lower_word"), drawn, strict=False):
    for place, letter in enumerate(word.text.upper()):
      index = labels.LETTERS.index(letter)
      out[labels.SCENE_SECTIONS["letters"]][index] = 1
      out[labels.SCENE_SECTIONS[name]][place * count + index] = 1


def scene_labels(scene: Scene) -> np.ndarray:
  """The multi-hot label vector of a scene, uint8 `[NUM_SCENE]`."""
  out = np.zeros(labels.NUM_SCENE, np.uint8)
  section = lambda name: out[labels.SCENE_SECTIONS[name]]
  counts = dict.fromkeys(labels.OBJECT_COLORS, 0)
  for item in scene.items:
    color = labels.OBJECT_COLORS.index(item.color)
    shape = labels.SHAPES.index(item.shape)
    section("presence")[color * len(labels.SHAPES) + shape] = 1
    counts[item.color] += 1
  for color, count in enumerate(counts.values()):
    section("color_counts")[color * 5 + min(count, 4)] = 1
  section("objects")[len(scene.items)] = 1
  section("bars")[0] = 1
  mark_words(out, scene.words)
  return out
