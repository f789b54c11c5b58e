"""Questions as rows of a model family, in arrays of static shape.

`Processor.prepare` writes an image token for every visual token. The models
here want the text without them, and for each picture the column in front of
which it stands. A picture in the sense of the model is what its encoder reads
at once: for SmolVLM every tile is one, with its name in the text before it.
"""

from collections.abc import Sequence
import dataclasses
import functools
import hashlib
import itertools
import json
from typing import Any, ClassVar

import numpy as np

from eos_jax.data import faults, fingerprints, items, processors, rooms
from eos_jax.data.processors import text as text_lib

# Stands for an answer while it is looked for in what a template writes.
_ANSWER = "Answer"


@dataclasses.dataclass(frozen=True)
class Rows:
  """Turns items into rows; see `question_sets.Rows`.

  Attributes:
    processor: of the model folder.
    prefix: ids that the model itself puts in front (`VLMConfig.prefix`).
    room: for the pictures of a row.
    text_length: T.
    protocol: whose ends of answers count, see `Processor.end_ids`; "" = those
      that rows train too.
  """

  processor: processors.Processor
  prefix: tuple[int, ...]
  room: rooms.Room
  text_length: int
  protocol: str = ""

  def __post_init__(self):
    if not self._end_tokens():
      raise ValueError(
        f"{self.processor.where}: no token of the tokenizer ends answers:"
        " expected eos_token_id in generation_config.json or config.json,"
        " eos_token in tokenizer_config.json, or a token"
        f" {self.processor.family.END_TOKEN!r}; write the id into"
        " generation_config.json"
      )
    if fault := rooms.misfit(self.processor, self.room):
      raise ValueError(fault)
    # A template that cannot place images is refused before any work.
    shown = [{"type": "image"}, {"type": "text", "text": "?"}]
    self.processor.prompt([{"role": "user", "content": shown}])

  @functools.cached_property
  def _around(self) -> tuple[str, str, str]:
    """What is between prompt and answer, what ends it, what follows that.

    As the chat template writes an answer, up to the first token that ends
    answers. Templates without one, as LLaVA-1.5's, get it, as in training.
    """
    turns = [{"role": "user", "content": "?"}]
    prompt = self.processor.prompt(turns)
    turns.append({"role": "assistant", "content": _ANSWER})
    whole = self.processor.prompt(turns, reply=False)
    before, found, rest = whole.rpartition(_ANSWER)
    if not found:
      raise ValueError(
        f"{self.processor.where}: the chat template leaves answers out, so"
        " that none can be trained; correct it"
      )
    between = before.removeprefix(prompt) if before.startswith(prompt) else ""
    tokens = self._end_tokens()
    places = [(rest.find(token), token) for token in tokens if token in rest]
    if not places:
      return between, next(iter(tokens)), ""
    place, token = min(places)
    end = place + len(token)
    return between, rest[:end], rest[end:]

  def _end_tokens(self) -> dict[str, int]:
    """The tokens that may end answers, with their ids; the likeliest first."""
    inner, own = self.processor.text.inner, self.processor.tokens
    named = (own.get("eos_token", ""), self.processor.family.END_TOKEN)
    tokens = (*map(inner.id_to_token, self.processor.ends), *named)
    found = {token: inner.token_to_id(token) for token in tokens if token}
    return {token: i for token, i in found.items() if i is not None}

  @functools.cached_property
  def stop(self) -> int:
    """Id of the token that ends the answers of rows."""
    end = self._around[1]
    return next(i for t, i in self._end_tokens().items() if end.endswith(t))

  drawn: ClassVar[bool] = False

  @property
  def max_images(self) -> int:
    """I."""
    return self.room.pictures

  @functools.cached_property
  def end_ids(self) -> tuple[int, ...]:
    """Ids that end an answer."""
    ids = self.processor.end_ids(self.protocol)
    return ids if self.protocol else tuple(dict.fromkeys((self.stop, *ids)))

  def decode(self, ids: Sequence[int]) -> str:
    """The text of an answer, up to its end; spaces at its ends go."""
    ids = list(itertools.takewhile(lambda i: i not in self.end_ids, ids))
    return self.processor.text.decode(ids).strip()

  def row(self, item: items.Item) -> dict[str, Any]:
    """One question with its answers.

    As in LLaVA's trainer, all turns are one text, each answer and what ends it
    counts in the loss, and what does not fit after the first prompt is cut off.

    Args:
      item: what is asked, shown and answered.

    Returns:
      What `ask` does, where prompt_length is that of the first question, with
      the rest of the conversation after it, and loss_mask bool `[T]`, True on
      answers and what ends them.

    Raises:
      ValueError: as by `ask`, there is no room for a token of the first answer,
        or the tokenizer joins a prompt and its answer.
    """
    with items.named(item):
      shown, text = self._show(item.question, item.images)
      between, end, after = self._around
      asked, slots = self._split(text)
      if len(asked) >= self.text_length:
        self._too_long(len(asked) + 1)
      loss_mask, start = np.zeros(self.text_length, bool), asked
      answers = (item.answer, *(answer for _, answer in item.later))
      further = [question for question, _ in item.later]
      for answer, question in zip(answers, [*further, None], strict=True):
        self._check_answer(answer)
        text += between + answer + end
        ids, _ = self._split(text)
        if ids[: len(start)] != start:
          raise ValueError(
            "the tokenizer joins the end of the prompt and the answer"
            f" {answer!r}; begin the answer with a word"
          )
        loss_mask[len(start) : len(ids)] = True
        if question is not None:
          text += after + self._next(question)
          start, _ = self._split(text)
      ids = ids[: self.text_length]
      row = self._filled(shown, ids, slots, len(asked))
      return row | {"loss_mask": loss_mask}

  def _check_answer(self, answer):
    image = self.processor.text.image
    if image in answer:  # it would vanish from the text
      raise ValueError(
        f"an answer contains the image token {image!r}; take it out"
      )

  def _next(self, question):
    """A later turn of the user, up to where it is answered."""
    turns = [
      {"role": "user", "content": "?"},
      {"role": "assistant", "content": _ANSWER},
    ]
    before = self.processor.prompt(turns, reply=False)
    turns.append({"role": "user", "content": question})
    whole = self.processor.prompt(turns)
    if not whole.startswith(before):
      raise ValueError(
        f"{self.processor.where}: the chat template writes a turn in another"
        " way if others follow, so that later turns cannot be trained; use"
        " instructions of one turn, or another template"
      )
    return whole.removeprefix(before)

  def ask(self, item: Any) -> dict[str, Any]:
    """One question without an answer.

    Args:
      item: an `items.Item`, or what has its name, question and images.

    Returns:
      What `rooms.show` gives, and slots int32 `[I]`, T where there is no image;
      tokens int32 `[T]`; mask bool `[T]`; prompt_length int32.

    Raises:
      ValueError: text or images do not fit, or an image cannot be read.
    """
    with items.named(item):
      shown, prompt = self._show(item.question, item.images)
      asked, slots = self._split(prompt)
      return self._filled(shown, asked, slots, len(asked))

  def facts(self) -> dict[str, Any]:
    """Returns all that turns questions into arrays, as plain JSON values."""
    processor, text = self.processor, self.processor.text
    tokenizer = hashlib.sha256(text.inner.to_str().encode()).hexdigest()
    found = {
      "tokenizer": {
        "sha256": tokenizer,
        **fingerprints.fields(text, without=("inner",)),
      },
      "processor": dataclasses.asdict(processor.settings),
      "conversation": {
        # `text` and `settings` are above; `where` is no content.
        **fingerprints.fields(
          processor, without=("family", "settings", "text", "where")
        ),
        "family": processor.family.__name__,
        "ends": self.end_ids,
      },
      "prefix": self.prefix,
      "room": dataclasses.asdict(self.room),
      "text_length": self.text_length,
      "protocol": self.protocol,
      "code": fingerprints.code(),
    }
    return json.loads(json.dumps(found, default=str))

  def _show(self, question, images):
    """Arrays of the images, and the text up to the answer."""
    opened = [items.open_image(image) for image in images]
    if self.protocol == "llava":
      for image in opened:
        # LLaVA's own code knows no colour that stands for transparent.
        image.info.pop("transparency", None)
    content = [{"type": "image"} for _ in opened]
    content.append({"type": "text", "text": question})
    prompt = self.processor.prompt([{"role": "user", "content": content}])
    return rooms.show(self.processor, opened, prompt, self.room)

  def _filled(self, shown, ids, slots, prompt_length):
    """A row, filled up to its room."""
    if len(ids) > self.text_length:
      self._too_long(len(ids))
    tokens, mask = text_lib.row(
      ids, self.text_length, pad_id=self.processor.text.pad_id
    )
    missing = self.room.pictures - len(slots)
    return {
      **shown,
      "slots": np.array(slots + [self.text_length] * missing, np.int32),
      "tokens": tokens,
      "mask": mask,
      "prompt_length": np.int32(prompt_length),
    }

  def _too_long(self, count):
    raise ValueError(
      f"there are {count} tokens of text, but the text length is"
      f" {self.text_length}; raise it, or shorten the text"
    )

  def _split(self, text) -> tuple[list[int], list[int]]:
    """Ids without prefix and pictures, and the pictures' columns."""
    faults.check_unicode("the text", text)
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
