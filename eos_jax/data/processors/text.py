"""Prompts to ids: the folder's tokenizer, and room for the image tokens."""

from collections.abc import Sequence
import dataclasses
import json

from jaxtyping import Bool, Int32
import numpy as np
import tokenizers

from eos_jax.data.processors import folder as folder_lib


@dataclasses.dataclass(frozen=True)
class Text:
  """A tokenizer that knows the model's image token.

  Attributes:
    inner: the tokenizer.
    image: the image token as it stands in texts.
    image_id: its id.
    begin: the token that begins a text; "" if the tokenizer has none.
    add_begin: whether to put it before texts where the tokenizer's file does
      not do so itself.
    pad_id: fills rows up; masked, so its value does not matter.
  """

  inner: tokenizers.Tokenizer
  image: str
  image_id: int
  begin: str
  add_begin: bool
  pad_id: int

  def encode(self, text: str) -> list[int]:
    """The ids of a whole prompt, begun as the model was trained.

    Special tokens are added around it unless it begins with the first of them
    already, as chat templates have it.
    """
    begun = bool(self.begin) and text.startswith(self.begin)
    ids = self.inner.encode(text, add_special_tokens=not begun).ids
    if self.add_begin and not begun:
      begin = self.inner.token_to_id(self.begin)
      ids = ids if ids[:1] == [begin] else [begin, *ids]
    return ids

  def decode(self, ids: Sequence[int]) -> str:
    """The text of ids without special tokens."""
    return self.inner.decode([int(i) for i in ids])


def load(
  folder: folder_lib.Folder, *, image: str, needed: Sequence[str] = ()
) -> Text:
  """Reads the tokenizer of a model folder.

  Args:
    folder: where `tokenizer.json` lies.
    image: the family's image token.
    needed: further tokens of its prompts; without one of them texts would
      silently fall into other pieces.

  Raises:
    ValueError: the file is missing or damaged, lacks a token, or gives the
      image token another id than the model has.
  """
  path = folder.path / "tokenizer.json"
  if not path.is_file():
    raise ValueError(
      f"{path} is missing; expected the fast tokenizer's file; copy it from"
      " where the weights came from, or convert the slow tokenizer with"
      " `AutoTokenizer.from_pretrained(folder).save_pretrained(folder)`"
    )
  try:
    inner = tokenizers.Tokenizer.from_file(str(path))
  except Exception as error:  # the package raises nothing more specific
    raise ValueError(
      f"{path} is damaged ({error}); expected a tokenizer; copy the file again"
    ) from error
  if _token(folder.processor, "image_token") not in ("", image):
    raise folder.processor.fault(
      "image_token",
      f"the family's {json.dumps(image)}",
      "rename it there and in tokenizer.json",
    )
  lacking = [t for t in (image, *needed) if inner.token_to_id(t) is None]
  if lacking:
    raise ValueError(
      f"{path}: special tokens are missing, {lacking[0]!r} and"
      f" {len(lacking) - 1} more, among {inner.get_vocab_size()} tokens;"
      " expected the tokenizer of the"
      " vision-language model, not of its language model alone; take the one"
      " beside the weights"
    )
  image_id = inner.token_to_id(image)
  for name in ("image_token_index", "image_token_id"):
    wanted = folder.config.get(name, image_id)
    if wanted != image_id:
      raise ValueError(
        f"{path}: the image token {image!r} is {image_id}; expected {wanted},"
        f" by {name} of {folder.config.path}; take both files from one model"
      )
  begin = _token(folder.tokenizer, "bos_token")
  add = folder.tokenizer.get("add_bos_token", False) is True
  pad = inner.token_to_id(_token(folder.tokenizer, "pad_token"))
  return Text(
    inner,
    image,
    image_id,
    begin if inner.token_to_id(begin) is not None else "",
    add and inner.token_to_id(begin) is not None,
    pad or 0,
  )


def _token(fields: folder_lib.Fields, name: str) -> str:
  """A token that is written as a string or as an object with its content."""
  value = fields.get(name, "")
  return value.get("content", "") if isinstance(value, dict) else value


def expand(text: str, image: str, replacements: Sequence[str]) -> str:
  """Puts what stands for each picture where its image token is.

  Raises:
    ValueError: image tokens and pictures are not equally many.

  >>> expand("a <image> b <image>", "<image>", ["11", "2"])
  'a 11 b 2'
  """
  first, *rest = text.split(image)
  if len(rest) != len(replacements):
    raise ValueError(
      f"the prompt has {len(rest)} image tokens {image!r} for"
      f" {len(replacements)} pictures; give one a picture: {json.dumps(text)}"
    )
  pairs = zip(replacements, rest, strict=True)
  return first + "".join(token + after for token, after in pairs)


def row(
  ids: Sequence[int], length: int | None, *, pad_id: int
) -> tuple[Int32[np.ndarray, "N"], Bool[np.ndarray, "N"]]:
  """Ids filled up behind to a length, and which of them are there.

  Raises ValueError where there are more: cutting would lose image tokens.
  """
  length = len(ids) if length is None else length
  if len(ids) > length:
    raise ValueError(
      f"the prompt has {len(ids)} tokens, but length is {length}; raise it, or"
      " make text or pictures smaller"
    )
  out = np.full(length, pad_id, np.int32)
  out[: len(ids)] = ids
  return out, np.arange(length) < len(ids)
