"""Questions as rows of the `tiny` model, in arrays of static shape."""

from collections.abc import Sequence
import dataclasses
import hashlib
import pathlib
from typing import Any, ClassVar

import numpy as np
from PIL import Image

from eos_jax import naming
from eos_jax.data import items, labels, prompts, tokenizer
from eos_jax.data.processors import pixels


@dataclasses.dataclass(frozen=True)
class TinyRows:
  """Turns items into rows; see `question_sets.Rows`.

  An image of another size is resized to 96 x 96 pixels (bicubic).

  Attributes:
    words: the tokenizer.
    text_length: T.
  """

  words: tokenizer.Tokenizer
  text_length: int
  drawn: ClassVar[bool] = True
  max_images: ClassVar[int] = 1

  @property
  def end_ids(self) -> tuple[int, ...]:
    """Ids that end an answer."""
    return (self.words.eos_id,)

  def row(self, item: Any) -> dict[str, Any]:
    """One question with its answers.

    All turns are one text; what has no room after the first answer is cut off.

    Args:
      item: an `items.Item`.

    Returns:
      image uint8 `[96, 96, 3]`; tokens int32 `[T]`, after the visual tokens;
      mask bool `[T]`; prompt_length int32; loss_mask bool `[T]`, True on
      answers and the tokens that end them.

    Raises:
      ValueError: there is not one image, it cannot be read, or the text is too
        long.
    """
    ids, prompt = prompts.encode_turn(self.words, item.question, item.answer)
    loss = [False] * prompt + [True] * (len(ids) - prompt)
    self._check(item, len(ids))
    for question, answer in item.later:
      turn, asked = prompts.encode_turn(self.words, question, answer)
      opening = self.words.encode(prompts.PREFIX)
      ids += opening + turn
      loss += [False] * (len(opening) + asked) + [True] * (len(turn) - asked)
    row = self._filled(item, ids[: self.text_length], prompt)
    loss_mask = np.zeros(self.text_length, bool)
    loss_mask[: len(ids)] = loss[: self.text_length]
    return row | {"loss_mask": loss_mask}

  def ask(self, item: Any) -> dict[str, Any]:
    """One question without an answer: what `row` returns but loss_mask."""
    ids = prompts.encode_question(self.words, item.question)
    self._check(item, len(ids))
    return self._filled(item, ids, len(ids))

  def decode(self, ids: Sequence[int]) -> str:
    """Returns the text of an answer, up to its end."""
    return self.words.decode(ids)

  def facts(self) -> dict[str, Any]:
    """Returns all that turns questions into arrays, as plain values."""
    code = (pathlib.Path(__file__), pathlib.Path(prompts.__file__))
    texts = [path.read_bytes() for path in (*code, tokenizer.PATH)]
    return {
      "sha256": hashlib.sha256(b"".join(texts)).hexdigest(),
      "text_length": self.text_length,
    }

  def _check(self, item, count):
    if len(item.images) != 1:
      raise ValueError(
        f"question {naming.quoted(item.name)}: there are {len(item.images)}"
        " images; the model tiny reads one a question"
      )
    if count > self.text_length:
      raise ValueError(
        f"question {naming.quoted(item.name)}: text_length {self.text_length}"
        f" is too short for the {count} tokens of"
        f" {naming.quoted(item.question)}; use at least {count}"
      )

  def _filled(self, item, ids, prompt):
    tokens = np.full(self.text_length, self.words.pad_id, np.int32)
    tokens[: len(ids)] = ids
    return {
      "image": small(item.images[0]),
      "tokens": tokens,
      "mask": np.arange(self.text_length) < len(ids),
      "prompt_length": np.int32(prompt),
    }


def small(image: items.ImageSource) -> np.ndarray:
  """Returns an image at 96 x 96 pixels (bicubic), uint8 `[96, 96, 3]`."""
  side = labels.SIDE
  image = pixels.rgb(items.open_image(image))
  if image.shape == (side, side, 3):
    return image
  resized = Image.fromarray(image).resize(
    (side, side), Image.Resampling.BICUBIC
  )
  return np.asarray(resized)
