"""The chat-shaped prompt around a picture, a question and an answer.

    <s> user : [visual tokens] question assistant : answer </s>

The prefix comes before the visual tokens, the rest after them.
"""

from eos_jax.data import tokenizer as tokenizer_lib

PREFIX = "user :"
SUFFIX = "assistant :"


def prefix_ids(tokenizer: tokenizer_lib.Tokenizer) -> tuple[int, ...]:
  """The ids before the visual tokens: `<s> user :`."""
  return (tokenizer.bos_id, *tokenizer.encode(PREFIX))


def encode_question(
  tokenizer: tokenizer_lib.Tokenizer, question: str
) -> list[int]:
  """The ids from after the visual tokens to where the answer begins."""
  return tokenizer.encode(question) + tokenizer.encode(SUFFIX)


def encode_answer(tokenizer: tokenizer_lib.Tokenizer, answer: str) -> list[int]:
  """The ids of the answer and the end token."""
  return [*tokenizer.encode(answer), tokenizer.eos_id]


def encode_turn(
  tokenizer: tokenizer_lib.Tokenizer, question: str, answer: str
) -> tuple[list[int], int]:
  """Question and answer in one.

  Returns:
    The ids after the visual tokens, and how many of them come before the
    answer.
  """
  prompt = encode_question(tokenizer, question)
  return prompt + encode_answer(tokenizer, answer), len(prompt)
