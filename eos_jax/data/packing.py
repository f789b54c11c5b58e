"""Questions as fixed-length arrays: one a row, or several packed in one."""

import numpy as np

from eos_jax.data import prompts
from eos_jax.data import questions as questions_lib
from eos_jax.data import tokenizer as tokenizer_lib

Question = questions_lib.Question

# The longest turn of both datasets has 16 tokens.
DEFAULT_TEXT_LENGTH = 16
# Six turns of mini_suite have 69 tokens on average and at most 78.
DEFAULT_QUESTIONS = 6
DEFAULT_PACKED_LENGTH = 80


def _turn(tokenizer, question: Question, text_length: int):
  ids, prompt = prompts.encode_turn(
    tokenizer, question.question, question.answer
  )
  if len(ids) > text_length:
    raise ValueError(
      f"text_length {text_length} is too short for the {len(ids)} tokens of"
      f" {question.question!r} -> {question.answer!r}: use at least {len(ids)}"
    )
  return ids, prompt


def packed_row(
  tokenizer: tokenizer_lib.Tokenizer, questions, *, text_length: int
) -> dict[str, np.ndarray]:
  """Several questions on one picture, one after the other.

  Each is a segment of its own that must see the picture and itself only.
  Questions that do not fit any more are left out; the first always must.

  Returns:
    tokens int32 `[T]`, segments int32 `[T]` (0 padding, 1.. the questions),
    positions int32 `[T]` (from 0 in each segment), loss_mask bool `[T]` (True
    where the token belongs to an answer or ends it).
  """
  tokens = np.full(text_length, tokenizer.pad_id, np.int32)
  segments = np.zeros(text_length, np.int32)
  positions = np.zeros(text_length, np.int32)
  loss_mask = np.zeros(text_length, np.bool_)
  start, segment = 0, 0
  for question in questions:
    ids, prompt = _turn(tokenizer, question, text_length)
    stop = start + len(ids)
    if stop > text_length:
      continue
    segment += 1
    tokens[start:stop] = ids
    segments[start:stop] = segment
    positions[start:stop] = np.arange(len(ids))
    loss_mask[start + prompt : stop] = True
    start = stop
  return {
    "tokens": tokens,
    "segments": segments,
    "positions": positions,
    "loss_mask": loss_mask,
  }
