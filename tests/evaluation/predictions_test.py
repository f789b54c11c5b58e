"""Answers are used again for the same questions, and only for them."""

import json

import pytest

from eos_jax.evaluation import predictions

FACTS = {"weights": "abc", "model": {"layers": 2, "sizes": (1, 2)}}
ASKED = [("a", "1"), ("b", "2"), ("c", "3"), ("d", "4"), ("e", "5")]


def _open(path, asked=ASKED, facts=FACTS):
  cut = [asked[i : i + 2] for i in range(0, len(asked), 2)]
  return predictions.Predictions(path, facts, cut)


@pytest.fixture
def path(tmp_path):
  """A file with all answers."""
  path = tmp_path / "predictions" / "x.jsonl"
  book = _open(path)
  for texts in (["A", "B"], ["C", "D"], ["E"]):
    book.add(texts, [7] * len(texts))
  assert book.finished
  return path


def test_answers_come_back(path):
  book = _open(path)
  assert book.finished and not book.dropped
  assert book.texts == ["A", "B", "C", "D", "E"] and book.prompt_tokens == 7


@pytest.mark.parametrize(
  "asked, done, dropped",
  [
    ([*ASKED[:2], ASKED[3], ASKED[2], ASKED[4]], 1, 3),  # another order
    ([("a", "2"), ("b", "1"), *ASKED[2:]], 0, 5),  # the ids stayed
    ([*ASKED[:3], ("d", "another image"), ASKED[4]], 1, 3),
    (ASKED[:4], 2, 1),
    ([*ASKED[:4], ("f", "5")], 2, 1),
  ],
)
def test_other_questions_are_answered_anew(asked, done, dropped, path):
  book = _open(path, asked)
  assert (book.done, book.dropped) == (done, dropped)
  assert book.texts == ["A", "B", "C", "D"][: 2 * done]
  while not book.finished:
    count = len(asked[2 * book.done : 2 * book.done + 2])
    book.add(["new"] * count, [1] * count)
  again = _open(path, asked)
  assert again.finished and again.texts == book.texts and not again.dropped


def test_a_batch_that_was_cut_short_is_not_a_difference(path):
  text = path.read_text(encoding="utf-8")
  lines = text.splitlines(keepends=True)
  path.write_text("".join(lines[:4]) + lines[4][:20], encoding="utf-8")
  book = _open(path)
  assert (book.done, book.dropped) == (1, 0)


@pytest.mark.parametrize(
  "old, new",
  [('"D"', '"X"'), ('"prompt_tokens": 7', '"prompt_tokens": 8'), ("{", "[")],
)
def test_answers_that_were_changed_are_not_used(old, new, path):
  lines = path.read_text(encoding="utf-8").splitlines()
  lines[4] = lines[4].replace(old, new, 1)
  path.write_text("\n".join(lines) + "\n", encoding="utf-8")
  book = _open(path)
  assert book.done == 1 and book.dropped


def test_an_answer_of_another_file_is_not_used(path, tmp_path):
  other = _open(tmp_path / "y.jsonl", facts=FACTS | {"weights": "other"})
  other.add(["X", "X"], [7, 7])
  theirs = (tmp_path / "y.jsonl").read_text(encoding="utf-8").splitlines()
  lines = path.read_text(encoding="utf-8").splitlines()
  path.write_text("\n".join([lines[0], *theirs[1:]]) + "\n", encoding="utf-8")
  assert _open(path).done == 0


@pytest.mark.parametrize("head", ["[]", '{"facts": 1}', "null"])
def test_without_its_first_line_no_answer_is_used(head, path):
  lines = path.read_text(encoding="utf-8").splitlines()
  path.write_text("\n".join([head, *lines[1:]]) + "\n", encoding="utf-8")
  book = _open(path)
  assert (book.done, book.dropped) == (0, 5)


def test_other_facts_are_refused_and_named(path):
  facts = {"weights": "abc", "model": {"layers": 3, "sizes": (1, 2)}}
  with pytest.raises(predictions.OtherCircumstances) as error:
    _open(path, facts=facts)
  assert "circumstances: model.layers is 2 there and 3 here; use" in str(
    error.value
  )
  assert len(json.loads(path.read_text("utf-8").splitlines()[0])) == 1
