"""The tokenizer of the tiny models: whole words, and letters for the rest.

Question and answer words are one token each. Words that are drawn into
pictures are not in the vocabulary and are spelled (`c ##a ##t`), so that
reading them is reading letters. `tokenizer.json` next to this file is written
by `python -m eos_jax.data.tokenizer`; any other `tokenizers` file with the
same special tokens can be loaded in its place.
"""

import functools
import pathlib
import string

import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers

from eos_jax.data import words

PATH = pathlib.Path(__file__).parent / "tokenizer.json"
PAD, BOS, EOS, UNKNOWN, IMAGE = "<pad>", "<s>", "</s>", "<unk>", "<image>"
SPECIALS = (PAD, BOS, EOS, UNKNOWN, IMAGE)
ROLES = ("user", "assistant")
_PUNCTUATION = ".,:;?!'\"-+/()"
_ROUND_TO = 8


class Tokenizer:
  """Text to ids and back.

  Attributes:
    vocab_size: number of ids, rounded up to a multiple of 8.
    pad_id, bos_id, eos_id, unknown_id, image_id: ids of the special tokens.
  """

  def __init__(self, inner: tokenizers.Tokenizer):
    missing = [token for token in SPECIALS if inner.token_to_id(token) is None]
    if missing:
      raise ValueError(
        f"the tokenizer has no {', '.join(missing)}: add them as special tokens"
      )
    self._inner = inner
    self.vocab_size = -(-inner.get_vocab_size() // _ROUND_TO) * _ROUND_TO
    ids = [inner.token_to_id(token) for token in SPECIALS]
    self.pad_id, self.bos_id, self.eos_id, self.unknown_id, self.image_id = ids
    # The suite has few different texts, so most are looked up.
    self._cached = functools.lru_cache(maxsize=50_000)(self._encode)

  def _encode(self, text: str) -> tuple[int, ...]:
    return tuple(self._inner.encode(text, add_special_tokens=False).ids)

  def encode(self, text: str) -> list[int]:
    """The ids of a text, without special tokens around it."""
    return list(self._cached(text))

  def decode(self, ids) -> str:
    """The text of ids, up to the first end token, without special tokens."""
    ids = [int(i) for i in ids]
    if self.eos_id in ids:
      ids = ids[: ids.index(self.eos_id)]
    known = self._inner.get_vocab_size()
    return self._inner.decode([i for i in ids if i < known])

  def token(self, index: int) -> str | None:
    """The token of an id."""
    return self._inner.id_to_token(index)


def build() -> tokenizers.Tokenizer:
  """Makes the tokenizer of the tiny models; every call gives the same one."""
  letters, digits = string.ascii_lowercase, string.digits
  tokens = [*SPECIALS, *ROLES, *words.VOCABULARY, *letters, *digits]
  tokens += [f"##{character}" for character in letters + digits]
  tokens += _PUNCTUATION
  vocabulary = {token: i for i, token in enumerate(dict.fromkeys(tokens))}
  inner = tokenizers.Tokenizer(models.WordPiece(vocabulary, unk_token=UNKNOWN))
  inner.normalizer = normalizers.Sequence(
    [normalizers.NFKC(), normalizers.Lowercase()]
  )
  inner.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
  inner.decoder = decoders.WordPiece(prefix="##", cleanup=True)
  inner.add_special_tokens(list(SPECIALS))
  return inner


def write(path=PATH) -> None:
  """Writes the tokenizer file."""
  pathlib.Path(path).write_text(
    build().to_str(pretty=True) + "\n", encoding="utf-8"
  )


def load(path=None) -> Tokenizer:
  """Reads a tokenizer file; by default the one of the tiny models."""
  path = pathlib.Path(path or PATH)
  if not path.is_file():
    raise ValueError(f"path {path} is not a file: give a tokenizer.json")
  return Tokenizer(tokenizers.Tokenizer.from_file(str(path)))


if __name__ == "__main__":
  write()
