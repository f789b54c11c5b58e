"""Prompts to ids: the folder's tokenizer, and room for the image tokens."""

from collections.abc import Sequence
import dataclasses
import json
import pathlib

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
    pad_id: fills rows up; masked, so its value does not matter.
  """

  inner: tokenizers.Tokenizer
  image: str
  image_id: int
  begin: str
  pad_id: int

  def encode(self, text: str) -> list[int]:
    """The ids of a whole prompt, begun as the model was trained.

    The tokens that the post-processor of `tokenizer.json` puts around a text
    are added, unless the text begins with the first of them already, as chat
    templates have it. `add_bos_token` is not read: neither does transformers
    5 where there is a `tokenizer.json`.

    Raises:
      ValueError: the text has half of a character.
    """
    try:
      text.encode()
    except UnicodeEncodeError as error:
      raise ValueError(
        f"the text has half of a character, {text[error.start]!r}, at"
        f" {error.start}: a surrogate without its other half; remove it"
      ) from error
    begun = bool(self.begin) and text.startswith(self.begin)
    return self.inner.encode(text, add_special_tokens=not begun).ids

  def decode(self, ids: Sequence[int]) -> str:
    """The text of ids without special tokens."""
    return self.inner.decode([int(i) for i in ids])

  def check_rows(self, rows: int, source: str, *, where: str) -> None:
    """Refuses tokens whose ids have no row in the model's embedding.

    Rows without a token are fine: checkpoints pad the vocabulary.

    Args:
      rows: of the embedding.
      source: what says so, for the message.
      where: the tokenizer, for the message.
    """
    beyond = sorted(
      (index, token)
      for token, index in self.inner.get_vocab().items()
      if index >= rows
    )
    if beyond:
      named = ", ".join(f"{token!r} ({index})" for index, token in beyond[:5])
      more = f" and {len(beyond) - 5} more" if len(beyond) > 5 else ""
      raise ValueError(
        f"{where}: the ids of the tokens {named}{more} have no row in the"
        f" embedding; expected ids below {rows:,}, the vocabulary by {source};"
        " take tokenizer and weights from one model, or resize the embedding"
      )


def load(
  folder: folder_lib.Folder, *, image: str, needed: Sequence[str] = ()
) -> Text:
  """Reads the tokenizer of a model folder.

  Truncation and padding that its file asks for are switched off, as
  transformers does: prompts are read whole.

  Args:
    folder: where `tokenizer.json` lies.
    image: the family's image token.
    needed: further tokens of its prompts; without one of them texts would
      silently fall into other pieces.

  Raises:
    ValueError: the file is missing or damaged, lacks a token, has other ids
      than the model's other files, or ids that the model has no rows for.
  """
  path = folder.path / "tokenizer.json"
  inner = _read(path)
  _add_tokens(folder, inner, path)
  if folder.processor.token("image_token") not in ("", image):
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
      " next to the weights"
    )
  image_id = inner.token_to_id(image)
  for name in ("image_token_index", "image_token_id"):
    expected = folder.config.whole(name, image_id, least=0)
    if expected != image_id:
      raise ValueError(
        f"{path}: the image token {image!r} is {image_id}; expected {expected},"
        f" by {name} of {folder.config.path}; take both files from one model"
      )
  begin = folder.tokenizer.token("bos_token")
  pad = inner.token_to_id(folder.tokenizer.token("pad_token"))
  text = Text(
    inner,
    image,
    image_id,
    begin if inner.token_to_id(begin) is not None else "",
    pad or 0,
  )
  rows = folder.decoder.whole("vocab_size", 1 << 30)
  source = f"vocab_size of {folder.config.path}"
  text.check_rows(rows, source, where=str(path))
  return text


def _read(path: pathlib.Path) -> tokenizers.Tokenizer:
  """The tokenizer of a file, without truncation and padding."""
  if not path.is_file():
    raise ValueError(
      f"{path} is missing; expected the fast tokenizer's file; copy it from"
      " where the weights came from, or convert the slow tokenizer with"
      " `AutoTokenizer.from_pretrained(folder).save_pretrained(folder)`"
    )
  text = folder_lib.read_text(path)
  if "\0" in text or "\\u0000" in text:
    # In an error of the package it would end the process.
    raise ValueError(
      f"{path} is damaged (it has a character NUL); expected a tokenizer; copy"
      " the file again"
    )
  try:
    inner = tokenizers.Tokenizer.from_str(text)
    inner.no_truncation()
    inner.no_padding()
    inner.decode(inner.encode("?").ids)  # some damage shows only here
  except BaseException as error:
    # The package raises nothing more specific; panics are no `Exception`.
    panic = type(error).__name__ == "PanicException"
    if not panic and not isinstance(error, Exception):
      raise
    raise ValueError(
      f"{path} is damaged ({error}); expected a tokenizer; copy the file again"
    ) from error
  return inner


_FLAGS = ("lstrip", "normalized", "rstrip", "single_word", "special")


def _add_tokens(
  folder: folder_lib.Folder, inner: tokenizers.Tokenizer, path: pathlib.Path
) -> None:
  """Adds tokens that only the folder's other files have, as transformers does.

  Raises:
    ValueError: a token has another id there than in the tokenizer.
  """
  added = folder.tokenizer.inner("added_tokens_decoder")
  for index in sorted(added.values, key=lambda index: (len(index), index)):
    token = added.token(index)
    if inner.token_to_id(token) is None:
      fields = added.inner(index)
      flags = {n: fields.flag(n, False) for n in _FLAGS if n in fields.values}
      inner.add_tokens([tokenizers.AddedToken(token, **flags)])
    found = inner.token_to_id(token)
    if str(found) != index:
      raise ValueError(
        f"{path}: the token {token!r} is {found}; expected {index}, by"
        f" {added.path}; take both files from one model"
      )


def end_ids(
  folder: folder_lib.Folder, text: Text, *, otherwise: str
) -> tuple[int, ...]:
  """Ids at which `generate` of transformers ends an answer.

  They are `eos_token_id` of `generation_config.json`, one or several. Where it
  has none, that of `config.json`, then the tokenizer's `eos_token`, counts.

  Args:
    folder: with these files.
    text: the tokenizer of the folder.
    otherwise: the end token where no file names one.

  Returns:
    The ids; () where the tokenizer has not even the last.

  Raises:
    ValueError: a field holds something else than ids.
  """
  name, rows = "eos_token_id", folder.decoder.whole("vocab_size", 1 << 30)
  for place in (folder.generation, folder.config, folder.decoder):
    found = place.get(name)
    if found is None:
      continue
    listed = found if isinstance(found, list) else [found]
    if not listed or not all(
      isinstance(i, int) and not isinstance(i, bool) and 0 <= i < rows
      for i in listed
    ):
      raise place.fault(
        name, f"an id below {rows:,}, or a list of some", "correct the file"
      )
    return tuple(dict.fromkeys(listed))
  for token in (folder.tokenizer.token("eos_token"), otherwise):
    index = text.inner.token_to_id(token)
    if index is not None:
      return (index,)
  return ()


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
  """Ids filled up after to a length, and which of them are there.

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
