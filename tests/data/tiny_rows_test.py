"""Rows of the tiny model by hand."""

import io

import numpy as np
from PIL import Image
import pytest

from eos_jax.data import items, tiny_rows

IMAGE = np.random.default_rng(0).integers(0, 256, (96, 96, 3), np.uint8)
# what is the word ? assistant : c ##a ##t </s>: 11 tokens, 7 before the answer
WORD = "what is the word?"


def _item(question=WORD, answer="cat", images=(IMAGE,), later=()):
  return items.Item("17", question, answer, images, later)


def test_one_question_a_row(tok):
  row = tiny_rows.TinyRows(tok, 13).row(_item())
  assert row["tokens"].dtype == np.int32 and row["tokens"].shape == (13,)
  assert row["mask"].tolist() == [True] * 11 + [False] * 2
  assert row["prompt_length"] == 7 and row["prompt_length"].dtype == np.int32
  assert np.flatnonzero(row["loss_mask"]).tolist() == [7, 8, 9, 10]
  assert row["loss_mask"].dtype == row["mask"].dtype == np.bool_
  assert row["tokens"][10] == tok.eos_id
  assert row["tokens"][11:].tolist() == [tok.pad_id] * 2
  np.testing.assert_array_equal(row["image"], IMAGE)


def test_a_question_alone(tok):
  rows = tiny_rows.TinyRows(tok, 13)
  whole, asked = rows.row(_item()), rows.ask(_item())
  assert asked.keys() == whole.keys() - {"loss_mask"}
  assert asked["mask"].sum() == asked["prompt_length"] == 7
  assert asked["tokens"][:7].tolist() == whole["tokens"][:7].tolist()
  assert asked["tokens"][7:].tolist() == [tok.pad_id] * 6


def test_all_answers_of_a_conversation_count(tok):
  later = (("what shape is present?", "circle"), (WORD, "dog"))
  row = tiny_rows.TinyRows(tok, 60).row(_item(later=later))
  edges = np.flatnonzero(np.diff(np.pad(row["loss_mask"], 1).astype(int)))
  runs = [row["tokens"][a:b].tolist() for a, b in edges.reshape(-1, 2)]
  assert [run[-1] for run in runs] == [tok.eos_id] * 3
  assert list(map(tok.decode, runs)) == ["cat", "circle", "dog"]
  # A further turn begins as the prompt of the model does.
  opening = tok.encode("user : what shape is present? assistant :")
  assert row["tokens"][11 : 11 + len(opening)].tolist() == opening
  assert row["prompt_length"] == 7


def test_what_has_no_room_after_the_first_answer_is_cut_off(tok):
  later = ((WORD, "dog"),)
  whole = tiny_rows.TinyRows(tok, 60).row(_item(later=later))
  for length in (11, 12, 20):
    row = tiny_rows.TinyRows(tok, length).row(_item(later=later))
    for field in ("tokens", "mask", "loss_mask"):
      np.testing.assert_array_equal(row[field], whole[field][:length])


def test_images_of_every_kind_and_size(tok, tmp_path):
  rows = tiny_rows.TinyRows(tok, 13)
  image = Image.fromarray(IMAGE)
  file = io.BytesIO()
  image.save(file, format="PNG")
  (tmp_path / "a.png").write_bytes(file.getvalue())
  path = tmp_path / "a.png"
  for source in (image, file.getvalue(), path, str(path)):
    made = rows.ask(_item(images=(source,)))
    np.testing.assert_array_equal(made["image"], IMAGE)
  large = image.resize((192, 64))
  expected = np.asarray(large.resize((96, 96), Image.Resampling.BICUBIC))
  made = rows.ask(_item(images=(np.asarray(large),)))
  np.testing.assert_array_equal(made["image"], expected)


@pytest.mark.parametrize(
  "change, said",
  [
    ({"images": (IMAGE, IMAGE)}, "there are 2 images; the model tiny reads"),
    ({"images": ()}, "there are 0 images"),
    ({"images": (b"no image",)}, "picture of 8 bytes cannot be read"),
    ({"images": (IMAGE / 255,)}, "a picture is an array float64"),
    ({"images": (IMAGE[..., :2],)}, "an array .96, 96, 2. with 2 channels"),
    ({"images": (IMAGE[:0],)}, "array .0, 96, 3. without pixels"),
    ({"images": (3,)}, "a picture is int; give a PIL picture"),
    ({"question": f"is it? {WORD}"}, "14 is too short for the 15 tokens of"),
    ({"answer": "catalogue"}, "use at least 17"),
    ({"answer": "a </s>"}, "contains the token '</s>'; take it out"),
    ({"question": "what is <image>?"}, "contains the token '<image>'"),
    ({"question": "a \ud83d"}, "the text has half of a surrogate pair"),
    ({"later": ((WORD, "\ud83d"),)}, "the text has half of a surrogate pair"),
  ],
)
def test_what_does_not_fit_is_refused(change, said, tok):
  with pytest.raises(ValueError, match=f"^question '17': .*{said}"):
    tiny_rows.TinyRows(tok, 14).row(_item(**change))


def test_facts_change_with_the_length(tok):
  one, two = (tiny_rows.TinyRows(tok, length).facts() for length in (13, 14))
  assert one == tiny_rows.TinyRows(tok, 13).facts()
  assert one != two and one["sha256"] == two["sha256"]
