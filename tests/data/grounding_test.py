"""Questions about places agree with the pictures and with the stored ones."""

import numpy as np
import pytest

from eos_jax.data import generator, grounding, labels, loader


def _paint(patches, *, shape, color, cells):
  """Labels `cells` (row, column) as one object with a common centre."""
  centre = np.mean(np.asarray(cells), axis=0)
  for row, col in cells:
    offset = (centre - (row, col)) * labels.PATCH
    patches[row, col, :3] = labels.KIND_SHAPE + shape, color, 1
    patches[row, col, 3:] = labels.OFFSET_ZERO + 2 * offset[::-1]


def _empty():
  shape = (labels.GRID, labels.GRID, labels.PATCH_CHANNELS)
  return np.zeros(shape, np.uint8)


def test_objects_by_hand():
  patches = _empty()
  _paint(patches, shape=0, color=1, cells=[(1, 1), (1, 2)])
  _paint(patches, shape=1, color=2, cells=[(10, 9)])
  # Two alike cannot be asked for, nor can a bar.
  _paint(patches, shape=2, color=3, cells=[(5, 1)])
  _paint(patches, shape=2, color=3, cells=[(5, 8)])
  patches[8, 8] = labels.KIND_BAR, 1, 4, 128, 128
  assert grounding.objects(patches) == [
    grounding.Placed("red circle", (16.0, 12.0)),
    grounding.Placed("green square", (76.0, 84.0)),
  ]


def test_questions_by_hand():
  patches = _empty()
  _paint(patches, shape=0, color=1, cells=[(1, 1), (1, 2)])
  _paint(patches, shape=1, color=2, cells=[(10, 9)])
  got = grounding.questions(patches, np.random.default_rng(0), count=16)
  assert {(q.question, q.answer) for q in got} == {
    ("is the red circle left or right?", "left"),
    ("is the red circle top or bottom?", "top"),
    ("is the green square left or right?", "right"),
    ("is the green square top or bottom?", "bottom"),
    ("is the red circle left or right of the green square?", "left"),
    ("is the green square left or right of the red circle?", "right"),
    ("is the red circle above or below the green square?", "above"),
    ("is the green square above or below the red circle?", "below"),
  }


def test_sides_ask_for_left_and_right_of_one_object():
  patches = _empty()
  _paint(patches, shape=0, color=1, cells=[(1, 1), (1, 2)])
  _paint(patches, shape=1, color=2, cells=[(10, 9)])
  rng = np.random.default_rng(0)
  got = grounding.questions(patches, rng, count=16, sides=True)
  assert {(q.question, q.answer) for q in got} == {
    ("is the red circle left or right?", "left"),
    ("is the green square left or right?", "right"),
  }
  assert len(grounding.questions(patches, rng, count=1, sides=True)) == 1


def test_near_the_middle_and_near_each_other_is_not_asked():
  patches = _empty()
  # Centres (44, 4) and (52, 4): 4 pixels from the middle, 8 apart.
  _paint(patches, shape=0, color=1, cells=[(0, 5)])
  _paint(patches, shape=1, color=2, cells=[(0, 6)])
  ask = lambda: {
    q.question
    for q in grounding.questions(patches, np.random.default_rng(0), count=16)
  }
  assert "is the red circle left or right?" in ask()
  assert "is the red circle left or right of the green square?" in ask()
  assert not any("above" in text for text in ask())
  patches[0, 5, 3] += 2  # one pixel nearer to the middle and to the other
  assert "is the red circle left or right?" not in ask()
  assert "is the red circle left or right of the green square?" not in ask()


def test_answers_agree_with_the_stored_questions(tok):
  agreed = 0
  for index in range(120):
    picture = generator.picture("train", index)
    rng = np.random.default_rng(index)
    made = grounding.questions(picture.patch_labels, rng, count=400)
    answers = {q.question: q.answer for q in made}
    assert all(tok.encode(q.question) and q.task == "relation" for q in made)
    for stored in picture.questions:
      if stored.question in answers:
        assert answers[stored.question] == stored.answer
        agreed += 1
      if not stored.question.startswith("where is "):
        continue
      name = stored.question.removeprefix("where is ").removesuffix("?")
      vertical, horizontal = stored.answer.split()
      if f"is {name} left or right?" in answers:
        assert answers[f"is {name} left or right?"] == horizontal
        assert answers[f"is {name} top or bottom?"] == vertical
        agreed += 1
  assert agreed > 100


def _asked(load, tok, **options):
  """Questions of a packed batch, one a line."""
  batch = next(
    loader.packed_batches(
      [load()], tok, batch=16, seed=0, questions=8, text_length=104, **options
    )
  )
  lines = []
  for tokens, segments in zip(batch["tokens"], batch["segments"], strict=True):
    for number in range(1, segments.max() + 1):
      text = tok.decode(tokens[segments == number].tolist())
      lines.append(text.replace(" ?", "?"))
  return lines


@pytest.mark.slow
def test_packed_batches_ask_them_only_when_told(load, tok):
  assert not any("left or right?" in line for line in _asked(load, tok))
  assert any("left or right?" in line for line in _asked(load, tok, places=4))


def test_a_picture_s_own_questions_can_be_left_out(load, tok):
  lines = _asked(load, tok, places=8, sides=True)
  others = [line for line in lines if "left or right?" not in line]
  assert len(others) < len(lines) - 20
  # Charts have no objects: they keep the questions of their own.
  assert any("which bar is" in line for line in others)
  assert all("bar" in line or "word" in line for line in others)
