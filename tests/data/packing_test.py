"""Rows by hand."""

import numpy as np
import pytest

from eos_jax.data import labels, packing
from eos_jax.data.packing import Question

SHAPE = Question("what shape is present?", "circle", "easy_vqa")
WORD = Question("what is the word?", "cat", "text")
# what shape is present ? assistant : circle </s>: 9 tokens, 7 before the answer
# what is the word ? assistant : c ##a ##t </s>: 11 tokens, 7 before the answer


def test_one_question_a_row(tok):
  row = packing.question_row(tok, WORD, text_length=13)
  assert row["tokens"].dtype == np.int32 and row["tokens"].shape == (13,)
  assert row["mask"].tolist() == [True] * 11 + [False] * 2
  assert row["prompt_length"] == 7
  assert np.flatnonzero(row["loss_mask"]).tolist() == [7, 8, 9, 10]
  assert row["tokens"][10] == tok.eos_id
  assert row["tokens"][11:].tolist() == [tok.pad_id] * 2
  assert labels.TASKS[row["task"]] == "text"


def test_two_questions_packed(tok):
  row = packing.packed_row(tok, [SHAPE, WORD], text_length=23)
  assert row["segments"].tolist() == [1] * 9 + [2] * 11 + [0] * 3
  expected = [*range(9), *range(11), 0, 0, 0]
  assert row["positions"].tolist() == expected
  assert np.flatnonzero(row["loss_mask"]).tolist() == [7, 8, 16, 17, 18, 19]
  alone = packing.question_row(tok, WORD, text_length=11)["tokens"]
  assert row["tokens"][9:20].tolist() == alone.tolist()
  assert row["tokens"][20:].tolist() == [tok.pad_id] * 3


def test_what_does_not_fit_is_left_out(tok):
  row = packing.packed_row(tok, [WORD, WORD, SHAPE], text_length=20)
  assert row["segments"].tolist() == [1] * 11 + [2] * 9
  assert tok.decode(row["tokens"][11 + 7 :]) == "circle"


@pytest.mark.parametrize("row", ["question_row", "packed_row"])
def test_too_long_names_the_question_and_the_fix(tok, row):
  asked = WORD if row == "question_row" else [WORD]
  with pytest.raises(ValueError, match="'what is the word.*at least 11"):
    getattr(packing, row)(tok, asked, text_length=10)
