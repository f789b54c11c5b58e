"""Text and pictures of published families, from a local model folder.

`load` reads a folder in the Hugging Face layout; the result turns turns and
pictures into arrays of static shape, the same that the family's processor in
transformers makes, without transformers and torch:

    processor = processors.load("llava-1.5-7b-hf")
    inputs = processor.prepare(conversation, [picture], length=1024)

The modules of the families are pure functions behind frozen settings and can be
used without a folder.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import pathlib
from types import ModuleType
from typing import Any

from jaxtyping import Bool, Int32
import numpy as np

from eos_jax.data.processors import conversation as conversation_lib
from eos_jax.data.processors import folder as folder_lib
from eos_jax.data.processors import llava, onevision, pixels, qwen2_vl, smolvlm
from eos_jax.data.processors import template as template_lib
from eos_jax.data.processors import text as text_lib
from eos_jax.data.processors.pixels import Pictures, open_picture

__all__ = [
  "FAMILIES",
  "Inputs",
  "Pictures",
  "Processor",
  "load",
  "open_picture",
]

# `model_type` of config.json -> module and conversation format.
FAMILIES: dict[str, ModuleType] = {
  "llava": llava,
  "llava_onevision": onevision,
  "qwen2_vl": qwen2_vl,
  "qwen2_5_vl": qwen2_vl,
  "smolvlm": smolvlm,
  "idefics3": smolvlm,
}


@dataclasses.dataclass(frozen=True)
class Inputs:
  """One prompt for a model.

  Attributes:
    ids: int32 `[N]`, with the image token wherever a visual token belongs.
    mask: bool `[N]`, False after the prompt.
    visual: bool `[N]`, where the image tokens are.
    pictures: the pictures, in the order of their tokens.
    text: the prompt before image tokens were multiplied.
  """

  ids: Int32[np.ndarray, "N"]
  mask: Bool[np.ndarray, "N"]
  visual: Bool[np.ndarray, "N"]
  pictures: Pictures
  text: str


@dataclasses.dataclass(frozen=True)
class Processor:
  """Everything between a conversation with pictures and a model's arrays.

  Attributes:
    family: the family's module.
    settings: the family's `Settings`.
    text: the tokenizer.
    style: name of the conversation format, a key of `conversation.TEMPLATES`.
    template: the folder's own chat template, which counts before the one of
      that name; "" if none.
    where: the folder, for messages.
    tokens: special tokens by name, such as `bos_token`, for the template.
    ends: ids at which `generate` of transformers ends an answer.
  """

  family: ModuleType
  settings: Any
  text: text_lib.Text
  style: str
  template: str
  where: str
  tokens: Mapping[str, str]
  ends: tuple[int, ...]

  def end_ids(self, protocol: str = "") -> tuple[int, ...]:
    """Ids that end an answer.

    "llava" and "": those of the folder, as `generate` of transformers, which
    LLaVA's own scripts call, has them (`text.end_ids`). "lmms_eval": the
    tokenizer's `eos_token` too, which is what lmms-eval hands to `generate`;
    where that would go on after another id of the folder, answers end here.

    Args:
      protocol: of `data.benchmarks.prompts.PROTOCOLS`, or "".
    """
    own = self.text.inner.token_to_id(self.tokens.get("eos_token", ""))
    if protocol != "lmms_eval" or own is None:
      return self.ends
    return tuple(dict.fromkeys((own, *self.ends)))

  def prompt(
    self, conversation: Sequence[Mapping[str, Any]], *, reply: bool = True
  ) -> str:
    """The text of a conversation, with one image token a picture.

    Args:
      conversation: turns, as `processors.conversation` describes them.
      reply: whether to end where the model's answer begins.

    Raises:
      ValueError: a turn is impossible, a text contains the image token, or the
        chat template cannot render the conversation.
    """
    turns = conversation_lib.checked(conversation)
    try:
      return conversation_lib.render(
        turns,
        self.template or conversation_lib.TEMPLATES[self.style],
        image=self.text.image,
        reply=reply,
        tokens=self.tokens,
      )
    except template_lib.TemplateError as error:
      raise ValueError(
        f"{self.where}: the chat template cannot render the conversation:"
        f" {error}; write the prompt as a text, with one image token"
        f" {self.text.image!r} for each image, and give that in place of the"
        " conversation, or correct the template"
      ) from error

  def prepare(
    self,
    conversation: Sequence[Mapping[str, Any]] | str,
    pictures: Sequence[pixels.Picture] = (),
    *,
    reply: bool = True,
    length: int | None = None,
    capacity: int | None = None,
  ) -> Inputs:
    """A conversation and its pictures as arrays.

    Args:
      conversation: turns, or a finished text with one image token a picture.
      pictures: in the order in which they are mentioned.
      reply: whether to end where the model's answer begins; of no effect on a
        finished text.
      length: N; None is as long as the prompt is.
      capacity: tiles (Qwen2-VL: patches) of each picture that there is room
        for; None is the most that the settings allow.

    Raises:
      ValueError: pictures and image tokens are not equally many, or something
        does not fit in `length` or `capacity`.
    """
    text = conversation
    if not isinstance(text, str):
      text = self.prompt(conversation, reply=reply)
    ready = self.family.preprocess(pictures, self.settings, capacity=capacity)
    expanded = self.expand(text, ready)
    ids, mask = text_lib.row(
      self.text.encode(expanded), length, pad_id=self.text.pad_id
    )
    visual = mask & (ids == self.text.image_id)
    if visual.sum() != ready.tokens.sum():
      raise ValueError(
        f"{self.where}: the tokenizer makes {visual.sum()} image tokens of"
        f" {ready.tokens.sum()}; expected {self.text.image!r} to be one token"
        " of its own; mark it as special in tokenizer.json"
      )
    return Inputs(ids, mask, visual, ready, text)

  def expand(self, text: str, ready: Pictures, *, once: bool = False) -> str:
    """A prompt with what stands for each picture where its image token is.

    Args:
      text: has one image token a picture.
      ready: the pictures.
      once: write one image token where a picture has many of them in a row; of
        tiles with names, each is such a picture.

    Raises:
      ValueError: image tokens and pictures are not equally many, or the
        tokenizer does not know the name of a tile.
    """
    if self.family is smolvlm:
      settings = self.settings
      if once:
        settings = dataclasses.replace(settings, tokens=1)
      grids = map(tuple, ready.grid.tolist())
      stand_ins = [self._tiles(grid, settings) for grid in grids]
    else:
      counts = [1] * len(ready.tokens) if once else ready.tokens.tolist()
      stand_ins = [self.text.image * count for count in counts]
    return text_lib.expand(text, self.text.image, stand_ins)

  def _tiles(self, grid: tuple[int, int], settings: smolvlm.Settings) -> str:
    """What stands for the tiles of a picture, if they all have a name."""
    for name in smolvlm.tile_names(grid):
      # It would fall into letters, which no model was trained on.
      if self.text.inner.token_to_id(name) is None:
        raise ValueError(
          f"{self.where}: a picture has {grid[0]} x {grid[1]} tiles, but the"
          f" tokenizer has no token {name!r}; give a smaller picture, or lower"
          " size.longest_edge"
        )
    return smolvlm.image_prompt(grid, settings)


def with_options(own: Processor, style: str, aspect: str) -> Processor:
  """Returns a processor with another conversation format or aspect.

  Args:
    own: the processor of a folder.
    style: of the conversation; "" = the folder's own, "vicuna" = that of
      LLaVA-1.5's authors.
    aspect: of LLaVA-1.5, of `llava.ASPECTS`; "" = as the folder says.

  Raises:
    ValueError: the family has no such style or aspect.
  """
  if style not in ("", own.style):
    if own.family is not llava or style != "vicuna":
      allowed = (own.style, *(["vicuna"] if own.family is llava else []))
      raise ValueError(
        f"style is {style!r}; expected one of {', '.join(allowed)} for"
        f" {own.where}"
      )
    own = _vicuna(own)
  if not aspect:
    return own
  if not hasattr(own.settings, "aspect"):
    raise ValueError(
      f"aspect is {aspect!r}, and models like {own.where} take images of any"
      " shape; use ''"
    )
  settings = dataclasses.replace(own.settings, aspect=aspect)
  return dataclasses.replace(own, settings=settings)


def load(path: pathlib.Path | str, *, style: str | None = None) -> Processor:
  """Reads settings and tokenizer of a model folder.

  Args:
    path: a folder with `config.json`, `preprocessor_config.json` (or a
      `processor_config.json` with the same inside) and `tokenizer.json`.
    style: the conversation format; None is the folder's own chat template, or
      that of the converted checkpoints. "vicuna" is the one that LLaVA-1.5's
      authors use.

  Raises:
    ValueError: the family is unknown, or a file is missing, damaged or asks
      for what is not known here.
  """
  folder = folder_lib.read(path)
  kind = folder.config.get("model_type")
  if not isinstance(kind, str) or kind not in FAMILIES:
    raise folder.config.fault(
      "model_type",
      f"one of {', '.join(FAMILIES)}",
      "convert the checkpoint, or prepare its inputs yourself",
    )
  family = FAMILIES[kind]
  settings = family.read_settings(folder)
  text = text_lib.load(
    folder,
    image=family.IMAGE_TOKEN,
    needed=family.special_tokens(settings),
  )
  own = Processor(
    family,
    settings,
    text,
    family.__name__.rpartition(".")[2],
    folder.template,
    str(path),
    folder.special_tokens,
    text_lib.end_ids(folder, text, otherwise=family.END_TOKEN),
  )
  return with_options(own, style or "", "")


def _vicuna(own: Processor) -> Processor:
  """LLaVA-1.5 in its authors' format, if that is what the folder's is of.

  Converted checkpoints leave the system text out. A model with another
  template was trained on other prompts.
  """
  ask = [{"role": "user", "content": [{"type": "image"}, _QUESTION]}]
  built_in = dataclasses.replace(own, template="")
  authors = dataclasses.replace(built_in, style="vicuna")
  expected = [one.prompt(ask).split() for one in (built_in, authors)]
  text = own.prompt(ask).removeprefix(own.text.begin)
  if text.split() not in expected:
    raise ValueError(
      f"{own.where}: style is 'vicuna', but the folder's own chat template"
      f" writes {text[:200]!r}; expected {authors.prompt(ask)!r}, with or"
      " without the system text; use the style '', which is the folder's"
    )
  return authors


_QUESTION = {"type": "text", "text": "What is it?"}
