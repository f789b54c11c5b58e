"""Questions about where objects are, made from the labels of patches.

Pretraining asks them in addition to the stored ones; no test does. The stored
relations compare two objects or answer two words at once; these ask for one
thing. A picture has as many of these as it has objects and pairs, so they also
repeat less often than the stored ones.
"""

import dataclasses

from jaxtyping import UInt8
import numpy as np

from eos_jax.data import labels
from eos_jax.data import questions as questions_lib

Question = questions_lib.Question

# Patches of one object name the same centre, up to the rounding of a label.
_SAME_CENTRE = 1.0  # pixels
_HALVES = (("left", "right"), ("top", "bottom"))
_SIDES = (("left", "right of"), ("above", "below"))


@dataclasses.dataclass(frozen=True)
class Placed:
  """An object that its colour and shape tell apart.

  Attributes:
    name: its colour and shape.
    place: x and y of its centre in pixels, downwards.
  """

  name: str
  place: tuple[float, float]


def objects(
  patch_labels: UInt8[np.ndarray, "rows cols channels"],
) -> list[Placed]:
  """The objects of a picture whose colour and shape no other one shares.

  Args:
    patch_labels: as described in `labels`.

  Returns:
    The objects, in raster order of their first patch.
  """
  rows, cols = np.mgrid[: labels.GRID, : labels.GRID]
  own = np.stack([cols, rows], axis=-1) * labels.PATCH + labels.PATCH / 2
  offset = patch_labels[..., 3:].astype(float) - labels.OFFSET_ZERO
  centres = own + offset / 2
  kind, color = patch_labels[..., 0], patch_labels[..., 1]
  last = labels.KIND_SHAPE + len(labels.SHAPES)
  is_shape = (kind >= labels.KIND_SHAPE) & (kind < last)
  members: dict[tuple[int, int], list[np.ndarray]] = {}
  for row, col in np.argwhere(is_shape):
    pair = int(kind[row, col]), int(color[row, col])
    members.setdefault(pair, []).append(centres[row, col])
  found = []
  for (shape, shade), places in members.items():
    if np.ptp(np.stack(places), axis=0).max() > _SAME_CENTRE:
      continue  # two objects alike
    shape_name = labels.SHAPES[shape - labels.KIND_SHAPE]
    x, y = np.mean(places, axis=0)
    name = f"{labels.COLORS[shade - 1]} {shape_name}"
    found.append(Placed(name, (float(x), float(y))))
  return found


def questions(
  patch_labels: UInt8[np.ndarray, "rows cols channels"],
  rng: np.random.Generator,
  *,
  count: int,
  sides: bool = False,
) -> list[Question]:
  """Draws questions about places: of one object, or of one next to another.

  Objects near the middle, and pairs near each other, are not asked for, with
  the distances of the stored questions.

  Args:
    patch_labels: as described in `labels`.
    rng: draws the questions.
    count: how many to draw at most; each is drawn once.
    sides: ask for nothing but whether one object is left or right.

  Returns:
    Questions of the task "relation"; none where the picture has no objects.
  """
  placed = objects(patch_labels)
  single, paired = [], []
  for axis in (0, 1):
    for item in placed:
      from_middle = item.place[axis] - labels.SIDE / 2
      if abs(from_middle) >= questions_lib.MIN_FROM_MIDDLE:
        low, high = _HALVES[axis]
        text = f"is the {item.name} {low} or {high}?"
        single.append((text, high if from_middle > 0 else low))
      for other in placed:
        apart = item.place[axis] - other.place[axis]
        if other is item or abs(apart) < questions_lib.MIN_DISTANCE:
          continue
        low, high = _SIDES[axis]
        text = f"is the {item.name} {low} or {high} the {other.name}?"
        answer = high.removesuffix(" of") if apart > 0 else low
        paired.append((text, answer))
  if sides:
    asked = [question for question in single if question[1] in _HALVES[0]]
    places = rng.permutation(len(asked))[:count]
    return [Question(*asked[place], "relation") for place in places]
  drawn = []
  # There are more pairs than objects: half of the questions from each.
  for group, share in ((single, count - count // 2), (paired, count // 2)):
    for place in rng.permutation(len(group))[:share]:
      drawn.append(Question(*group[place], "relation"))
  return drawn
