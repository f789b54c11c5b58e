"""Label vocabularies and the layout of the label arrays of both datasets.

`patch_labels` is uint8 `[GRID, GRID, PATCH_CHANNELS]`; the channels of a patch:

0.  kind: 0 background, 1-5 shapes, 6 bar, 7-32 letters A-Z, 33 distractor.
1.  colour: 0 none, 1-7 as in `COLORS`.
2.  size: of objects 1 small, 2 large; of bars the height 1-8; of letters the
    place 1-3 in the upper (or only) word, 4-6 in the lower one; else 0.
3.  x from the patch centre to the instance centre, `clip(128 + 2 * pixels)`.
4.  y likewise, downwards.

`scene_labels` is uint8 `[NUM_SCENE]` of zeros and ones, cut into the named
sections of `SCENE_SECTIONS`.
"""

import numpy as np

SIDE = 96
PATCH = 8
GRID = SIDE // PATCH
PATCH_CHANNELS = 5

TASKS = ("counting", "relation", "attribute", "text", "chart", "easy_vqa")

SHAPES = ("circle", "square", "triangle", "cross", "ring")
SIZES = ("small", "large")
COLORS = ("red", "green", "blue", "yellow", "pink", "teal", "orange")
# Objects use the first six colours; bars use all seven.
OBJECT_COLORS = COLORS[:6]
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
WORD_LENGTH = 3
MIN_OBJECTS, MAX_OBJECTS = 3, 8
MAX_COUNT = 5
MIN_BARS, MAX_BARS = 3, 7
MAX_HEIGHT = 8

KIND_BACKGROUND = 0
KIND_SHAPE = 1
KIND_BAR = KIND_SHAPE + len(SHAPES)
KIND_LETTER = KIND_BAR + 1
KIND_DISTRACTOR = KIND_LETTER + len(LETTERS)
NUM_KINDS = KIND_DISTRACTOR + 1
NUM_COLORS = 1 + len(COLORS)
NUM_SIZES = 1 + MAX_HEIGHT
OFFSET_ZERO = 128

EASY_SHAPES = ("circle", "rectangle", "triangle")
EASY_COLORS = (
  "black",
  "blue",
  "brown",
  "gray",
  "green",
  "red",
  "teal",
  "yellow",
)

_WIDTHS = (
  ("presence", len(OBJECT_COLORS) * len(SHAPES)),
  ("letters", len(LETTERS)),
  ("upper_word", WORD_LENGTH * len(LETTERS)),
  ("lower_word", WORD_LENGTH * len(LETTERS)),
  ("objects", MAX_OBJECTS + 1),
  ("color_counts", len(OBJECT_COLORS) * 5),
  ("bar_colors", len(COLORS)),
  ("bars", MAX_BARS + 1),
  ("highest", len(COLORS)),
  ("lowest", len(COLORS)),
  ("easy_shape", len(EASY_SHAPES)),
  ("easy_color", len(EASY_COLORS)),
)


def _sections() -> dict[str, slice]:
  sections, start = {}, 0
  for name, width in _WIDTHS:
    sections[name] = slice(start, start + width)
    start += width
  return sections


SCENE_SECTIONS = _sections()
NUM_SCENE = SCENE_SECTIONS["easy_color"].stop
EASY_START = SCENE_SECTIONS["easy_shape"].start


def scene_valid(easy: bool) -> np.ndarray:
  """Which scene labels a dataset's pictures define.

  Args:
    easy: True for easy_vqa, False for mini_suite.

  Returns:
    bool `[NUM_SCENE]`.
  """
  is_easy = np.arange(NUM_SCENE) >= EASY_START
  return is_easy if easy else ~is_easy
