"""Packed rows by hand; a question a row is in `tiny_rows_test`."""

import numpy as np
import pytest

from eos_jax.data import packing, prompts
from eos_jax.data.packing import Question

SHAPE = Question("what shape is present?", "circle", "easy_vqa")
WORD = Question("what is the word?", "cat", "text")
# what shape is present ? assistant : circle </s>: 9 tokens, 7 before the answer
# what is the word ? assistant : c ##a ##t </s>: 11 tokens, 7 before the answer


def test_two_questions_packed(tok):
  row = packing.packed_row(tok, [SHAPE, WORD], text_length=23)
  assert row["segments"].tolist() == [1] * 9 + [2] * 11 + [0] * 3
  expected = [*range(9), *range(11), 0, 0, 0]
  assert row["positions"].tolist() == expected
  assert np.flatnonzero(row["loss_mask"]).tolist() == [7, 8, 16, 17, 18, 19]
  alone, _ = prompts.encode_turn(tok, WORD.question, WORD.answer)
  assert row["tokens"][9:20].tolist() == alone
  assert row["tokens"][20:].tolist() == [tok.pad_id] * 3


def test_what_does_not_fit_is_left_out(tok):
  row = packing.packed_row(tok, [WORD, WORD, SHAPE], text_length=20)
  assert row["segments"].tolist() == [1] * 11 + [2] * 9
  assert tok.decode(row["tokens"][11 + 7 :]) == "circle"


def test_too_long_names_the_question_and_the_fix(tok):
  with pytest.raises(ValueError, match="'what is the word.*at least 11"):
    packing.packed_row(tok, [WORD], text_length=10)
