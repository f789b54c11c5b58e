"""Instructions as rows of a published model, in arrays of static shape.

`Processor.prepare` writes an image token for every visual token. The models
here want the text without them, and for each picture the column in front of
which it stands. A picture in the sense of the model is what its encoder reads
at once: for SmolVLM every tile is one, with its name in the text before it.
"""

import dataclasses
from typing import Any

import numpy as np

from eos_jax.data import instructions, processors, rooms
from eos_jax.data.processors import text as text_lib

# What stands between prompt and answer, and what ends the answer, by the style
# of the conversation.
_AROUND = {
  "llava": (" ", "</s>"),
  "vicuna": (" ", "</s>"),
  "onevision": ("", "<|im_end|>"),
  "qwen2_vl": ("", "<|im_end|>"),
  "smolvlm": (" ", "<end_of_utterance>"),
}


@dataclasses.dataclass(frozen=True)
class Rows:
  """How instructions become rows.

  Attributes:
    processor: of the model folder.
    prefix: ids that the model itself puts in front (`VLMConfig.prefix`).
    room: for the pictures of a row.
    text_length: T.
  """

  processor: processors.Processor
  prefix: tuple[int, ...]
  room: rooms.Room
  text_length: int

  def __post_init__(self):
    if self.stop is None:
      raise ValueError(
        f"{self.processor.where}: the tokenizer has no token"
        f" {_AROUND[self.processor.style][1]!r}, which ends answers; take the"
        " tokenizer.json beside the weights"
      )
    if fault := rooms.misfit(self.processor, self.room):
      raise ValueError(fault)

  @property
  def stop(self) -> int | None:
    """Id of the token that ends an answer; never None once this is made."""
    return self.processor.text.inner.token_to_id(
      _AROUND[self.processor.style][1]
    )

  def row(self, item: instructions.Instruction) -> dict[str, Any]:
    """One instruction.

    Args:
      item: what is asked, shown and answered.

    Returns:
      What `rooms.show` gives, and slots int32 `[I]`, T where there is no
      picture; tokens int32 `[T]`; mask and loss_mask bool `[T]`;
      prompt_length int32.

    Raises:
      ValueError: text or pictures do not fit, a picture cannot be read, or the
        tokenizer joins prompt and answer.
    """
    try:
      return self._row(item)
    except ValueError as error:
      raise ValueError(f"instruction {item.name!r}: {error}") from error

  def _row(self, item):
    opened = [processors.open_picture(file) for file in item.pictures]
    content = [{"type": "image"} for _ in opened]
    content.append({"type": "text", "text": item.question})
    prompt = self.processor.prompt([{"role": "user", "content": content}])
    shown, prompt = rooms.show(self.processor, opened, prompt, self.room)
    between, end = _AROUND[self.processor.style]
    asked, slots = self._split(prompt)
    ids, _ = self._split(f"{prompt}{between}{item.answer}{end}")
    if ids[: len(asked)] != asked:
      raise ValueError(
        f"the tokenizer joins the end of the prompt and the answer"
        f" {item.answer!r}; begin the answer with a word"
      )
    if len(ids) > self.text_length:
      raise ValueError(
        f"there are {len(ids)} tokens of text, but the text length is"
        f" {self.text_length}; raise it, or shorten the instruction"
      )
    tokens, mask = text_lib.row(
      ids, self.text_length, pad_id=self.processor.text.pad_id
    )
    missing = self.room.pictures - len(slots)
    return {
      **shown,
      "slots": np.array(slots + [self.text_length] * missing, np.int32),
      "tokens": tokens,
      "mask": mask,
      "loss_mask": mask & (np.arange(self.text_length) >= len(asked)),
      "prompt_length": np.int32(len(asked)),
    }

  def _split(self, text) -> tuple[list[int], list[int]]:
    """Ids without prefix and pictures, and the pictures' columns."""
    ids = list(self.processor.text.encode(text))
    count = len(self.prefix)
    if tuple(ids[:count]) != self.prefix:
      raise ValueError(
        f"the prompt begins with the ids {ids[:count]}, the model with"
        f" {list(self.prefix)}; take tokenizer.json and config.json from one"
        " model"
      )
    kept, slots = [], []
    for token in ids[count:]:
      if token == self.processor.text.image_id:
        slots.append(len(kept))
      else:
        kept.append(token)
    return kept, slots
