"""The tokenizer of a GGUF file: byte-level BPE as of GPT-2, single digits."""

from collections.abc import Mapping
from typing import Any

import tokenizers
from tokenizers import decoders, models, pre_tokenizers

_EXPECTED = {"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "smollm"}
_LISTS = ("tokens", "token_type", "merges")
# Types of tokens that a text is cut at: markers of a chat, and what the user
# of the tokenizer has added. The first ones are left out of decoded text.
_CONTROL, _USER_DEFINED = 3, 4


def build(metadata: Mapping[str, Any]) -> tokenizers.Tokenizer:
  """Makes the tokenizer that a file describes.

  Args:
    metadata: of the file, by key, as `models.gguf_file.metadata` reads it.

  Raises:
    ValueError: it describes another kind of tokenizer, or is not complete; all
      faults are listed.
  """
  faults = [
    f"{key} is {metadata.get(key)!r}, expected {value!r}"
    for key, value in _EXPECTED.items()
    if metadata.get(key) != value
  ]
  names = [f"tokenizer.ggml.{name}" for name in _LISTS]
  faults += [f"missing {name}" for name in names if name not in metadata]
  if not faults:
    faults += _list_faults(*(metadata[name] for name in names))
  if faults:
    raise ValueError(
      "the tokenizer of the file cannot be built; use a file of SmolLM2:\n  "
      + "\n  ".join(faults)
    )
  tokens, kinds, merges = (metadata[name] for name in names)
  inner = tokenizers.Tokenizer(
    models.BPE(
      vocab={token: index for index, token in enumerate(tokens)},
      merges=[tuple(merge.split(" ")) for merge in merges],
    )
  )
  inner.pre_tokenizer = pre_tokenizers.Sequence(
    [
      pre_tokenizers.Digits(individual_digits=True),
      pre_tokenizers.ByteLevel(add_prefix_space=False),
    ]
  )
  inner.decoder = decoders.ByteLevel()
  added = [
    tokenizers.AddedToken(token, special=kind == _CONTROL, normalized=False)
    for token, kind in zip(tokens, kinds, strict=True)
    if kind in (_CONTROL, _USER_DEFINED)
  ]
  inner.add_tokens(added)
  return inner


def _list_faults(tokens, kinds, merges):
  """What is wrong with the lists of a file, a line each."""
  texts = {"tokens": tokens, "merges": merges}
  for name, values in texts.items():
    if not isinstance(values, list) or not all(
      isinstance(value, str) for value in values
    ):
      yield f"tokenizer.ggml.{name} is no list of texts"
      return
  if not isinstance(kinds, list) or len(kinds) != len(tokens):
    count = len(kinds) if isinstance(kinds, list) else "no"
    yield (
      f"tokenizer.ggml.token_type has {count} entries, expected {len(tokens)},"
      " one for each token"
    )
  if len(set(tokens)) != len(tokens):
    yield (
      f"tokenizer.ggml.tokens has {len(tokens) - len(set(tokens))} tokens twice"
    )
  known, parts = set(tokens), [merge.split(" ") for merge in merges]
  bad = [
    merge
    for merge, part in zip(merges, parts, strict=True)
    if len(part) != 2 or not {*part, "".join(part)} <= known
  ]
  if bad:
    yield (
      f"tokenizer.ggml.merges has {bad[0][:80]!r}, expected two tokens with a"
      " space between them whose concatenation is a token"
    )
