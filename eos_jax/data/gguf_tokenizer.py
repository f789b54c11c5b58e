"""The tokenizer of a GGUF file: byte-level BPE as of GPT-2, single digits."""

from collections.abc import Mapping
from typing import Any

import tokenizers
from tokenizers import decoders, models, pre_tokenizers

_EXPECTED = {"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "smollm"}
_LISTS = ("tokens", "token_type", "merges")
_CONTROL = 3


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
  inner.add_special_tokens(
    [
      token
      for token, kind in zip(tokens, kinds, strict=True)
      if kind == _CONTROL
    ]
  )
  return inner
