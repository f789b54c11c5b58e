"""Instructions as rows of a published model, in arrays of static shape.

`Processor.prepare` writes an image token for every visual token. The models
here want the text without them, and for each picture the column in front of
which it stands. A picture in the sense of the model is what its encoder reads
at once: for SmolVLM every tile is one, with its name in the text before it.
"""

from collections.abc import Mapping, Sequence
import dataclasses

import numpy as np

from eos_jax.data import instructions, processors
from eos_jax.data.processors import llava, smolvlm
from eos_jax.data.processors import text as text_lib

# What stands between prompt and answer, and what ends the answer, by the style
# of the conversation.
_AROUND = {
  "llava": (" ", "</s>"),
  "vicuna": (" ", "</s>"),
  "smolvlm": (" ", "<end_of_utterance>"),
}
_WHOLE = (llava, smolvlm)


@dataclasses.dataclass(frozen=True)
class Rows:
  """How instructions become rows.

  Attributes:
    processor: of the model folder.
    prefix: ids that the model itself puts in front (`VLMConfig.prefix`).
    tokens: visual tokens of one picture (`VLMConfig.tokens`).
    text_length: T.
    pictures: I, the pictures that a row has room for; tiles are pictures.
  """

  processor: processors.Processor
  prefix: tuple[int, ...]
  tokens: int
  text_length: int
  pictures: int

  def __post_init__(self):
    family = self.processor.family
    if family not in _WHOLE:
      known = ", ".join(module.__name__.rpartition(".")[2] for module in _WHOLE)
      raise ValueError(
        f"{self.processor.where}: rows of {family.__name__.rpartition('.')[2]}"
        f" are not known; expected one of {known}; prepare batches of this"
        " family yourself"
      )
    if self.stop is None:
      raise ValueError(
        f"{self.processor.where}: the tokenizer has no token"
        f" {_AROUND[self.processor.style][1]!r}, which ends answers; take the"
        " tokenizer.json beside the weights"
      )
    if self.processor.settings.tokens != self.tokens:
      raise ValueError(
        f"{self.processor.where}: the preprocessor makes"
        f" {self.processor.settings.tokens} visual tokens a picture, the model"
        f" {self.tokens}; take config.json and preprocessor_config.json from"
        " one model"
      )

  @property
  def stop(self) -> int | None:
    """Id of the token that ends an answer; never None once this is made."""
    return self.processor.text.inner.token_to_id(
      _AROUND[self.processor.style][1]
    )

  def row(self, item: instructions.Instruction) -> dict[str, np.ndarray]:
    """One instruction.

    Args:
      item: what is asked, shown and answered.

    Returns:
      image float32 `[I, side, side, 3]`, normalised, zeros where there is no
      picture; slots int32 `[I]`, T where there is none; present
      bool `[I, tokens]`; tokens int32 `[T]`; mask and loss_mask bool `[T]`;
      prompt_length int32.

    Raises:
      ValueError: text or pictures do not fit, a picture cannot be read, or the
        tokenizer joins prompt and answer.
    """
    opened = [processors.open_picture(file) for file in item.pictures]
    ready = self.processor.family.preprocess(
      opened, self.processor.settings, capacity=self._capacity()
    )
    parts = ready.pixels[ready.valid]
    prompt = self._prompt(item, ready)
    between, end = _AROUND[self.processor.style]
    asked, slots = self._split(prompt, item)
    ids, _ = self._split(f"{prompt}{between}{item.answer}{end}", item)
    if ids[: len(asked)] != asked:
      raise ValueError(
        f"instruction {item.name!r}: the tokenizer joins the end of the prompt"
        f" and the answer {item.answer!r}; begin the answer with a word"
      )
    missing = self.pictures - len(parts)
    if missing < 0 or len(slots) != len(parts):
      raise ValueError(
        f"instruction {item.name!r} has {len(parts)} pictures or tiles and"
        f" {len(slots)} image tokens; expected as many, at most"
        f" {self.pictures}; raise the number of pictures, or give smaller ones"
      )
    if len(ids) > self.text_length:
      raise ValueError(
        f"instruction {item.name!r} has {len(ids)} tokens of text, but the text"
        f" length is {self.text_length}; raise it, or shorten the instruction"
      )
    tokens, mask = text_lib.row(
      ids, self.text_length, pad_id=self.processor.text.pad_id
    )
    there = np.arange(self.pictures) < len(parts)
    empty = np.zeros((missing, *ready.pixels.shape[2:]), np.float32)
    return {
      "image": np.concatenate([parts, empty]),
      "slots": np.array(slots + [self.text_length] * missing, np.int32),
      "present": np.repeat(there[:, None], self.tokens, axis=1),
      "tokens": tokens,
      "mask": mask,
      "loss_mask": mask & (np.arange(self.text_length) >= len(asked)),
      "prompt_length": np.int32(len(asked)),
    }

  def rows(
    self, items: Sequence[instructions.Instruction]
  ) -> Mapping[str, np.ndarray]:
    """Instructions as a batch: what `row` returns, stacked."""
    made = [self.row(item) for item in items]
    return {name: np.stack([row[name] for row in made]) for name in made[0]}

  def _capacity(self) -> int:
    """Parts that one picture has room for; all of a row's, for tiles."""
    return 1 if self.processor.family is llava else self.pictures

  def _prompt(self, item, ready) -> str:
    """The text up to the answer, with one image token a picture or tile."""
    content = [{"type": "image"} for _ in item.pictures]
    content.append({"type": "text", "text": item.question})
    prompt = self.processor.prompt([{"role": "user", "content": content}])
    if self.processor.family is not smolvlm:
      return prompt
    # The names of the tiles, but one image token where a tile has many.
    one = dataclasses.replace(self.processor.settings, tokens=1)
    image = self.processor.text.image
    tiles = [
      smolvlm.image_prompt(tuple(grid), one) for grid in ready.grid.tolist()
    ]
    return text_lib.expand(prompt, image, tiles)

  def _split(self, text, item) -> tuple[list[int], list[int]]:
    """Ids without prefix and pictures, and the pictures' columns."""
    ids = list(self.processor.text.encode(text))
    count = len(self.prefix)
    if tuple(ids[:count]) != self.prefix:
      raise ValueError(
        f"instruction {item.name!r}: the prompt begins with the ids"
        f" {ids[:count]}, the model with {list(self.prefix)}; take"
        " tokenizer.json and config.json from one model"
      )
    kept, slots = [], []
    for token in ids[count:]:
      if token == self.processor.text.image_id:
        slots.append(len(kept))
      else:
        kept.append(token)
    return kept, slots
