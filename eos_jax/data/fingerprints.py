"""Digests of what answers depend on, by contents instead of by names.

A result that is reused is found by `files.digest` of all that it depends on.
What the data side adds to that is here: images, questions, and everything that
turns them into what a model reads.
"""

from collections.abc import Iterable, Sequence
from concurrent import futures
import contextlib
import dataclasses
import functools
import hashlib
import json
import pathlib
from typing import Any

from eos_jax import files
from eos_jax.data import instruction_rows, instructions, sources

# What turns questions into arrays, and ids into answers.
_CODE = (
  "benchmarks/prompts.py",
  "instruction_batches.py",
  "instruction_rows.py",
  "processors",
  "rooms.py",
)
_THREADS = 8


def image(source: pathlib.Path | bytes) -> str:
  """Returns the SHA-256 of an encoded image.

  A file is read once for as long as its size and its times stay the same.

  Raises:
    sources.DataError: the file cannot be read.
  """
  if isinstance(source, bytes):
    return hashlib.sha256(source).hexdigest()
  with _readable(source):
    found = source.stat()
    stamp = found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino
    return _file(source, *stamp)


@contextlib.contextmanager
def _readable(path):
  try:
    yield
  except OSError as error:
    raise sources.DataError(
      f"the picture {path} cannot be read ({error.strerror}); put it back"
    ) from error


@functools.lru_cache(maxsize=2**20)
def _file(path, *stamp):
  del stamp  # part of the key
  with open(path, "rb") as file:
    return hashlib.file_digest(file, "sha256").hexdigest()


def questions(
  asked: Iterable[Any], shown: Iterable[Sequence[pathlib.Path | bytes]]
) -> tuple[str, ...]:
  """Returns a digest of each question.

  Args:
    asked: all that is asked in words; plain JSON values.
    shown: the images of each.
  """
  shown = [tuple(images) for images in shown]
  different = list(dict.fromkeys(one for images in shown for one in images))
  with futures.ThreadPoolExecutor(_THREADS) as pool:
    known = dict(zip(different, pool.map(image, different), strict=True))
  return tuple(
    files.digest({"asked": words, "images": [known[one] for one in images]})
    for words, images in zip(asked, shown, strict=True)
  )


def instruction_questions(
  items: Sequence[instructions.Instruction],
) -> tuple[str, ...]:
  """Returns a digest of each instruction with its answers."""
  return questions(
    ([item.question, item.answer, item.later] for item in items),
    (item.pictures for item in items),
  )


def sizes(items: Iterable[instructions.Instruction]) -> str:
  """Returns a digest of the names and sizes of all images of instructions.

  For those that are too many to be read before a run.

  Raises:
    sources.DataError: a file is not there.
  """
  paths = dict.fromkeys(path for item in items for path in item.pictures)
  found = []
  for path in paths:
    with _readable(path):
      found.append([path.name, path.stat().st_size])
  return files.digest(found)


def inputs(rows: instruction_rows.Rows) -> dict[str, Any]:
  """Returns what turns questions into what a model reads; plain JSON values."""
  processor, text = rows.processor, rows.processor.text
  tokenizer = hashlib.sha256(text.inner.to_str().encode()).hexdigest()
  found = {
    "tokenizer": {"sha256": tokenizer, **_fields(text, without=("inner",))},
    "processor": dataclasses.asdict(processor.settings),
    "conversation": {
      # `text` and `settings` are above; `where` is no content.
      **_fields(processor, without=("family", "settings", "text", "where")),
      "family": processor.family.__name__,
      "ends": rows.end_ids,
    },
    "prefix": rows.prefix,
    "room": dataclasses.asdict(rows.room),
    "code": code(),
  }
  return json.loads(json.dumps(found, default=str))


def _fields(value: Any, without: Sequence[str]) -> dict[str, Any]:
  """Fields of a dataclass, but for some."""
  names = (field.name for field in dataclasses.fields(value))
  return {name: getattr(value, name) for name in names if name not in without}


@functools.cache
def code() -> str:
  """Returns the SHA-256 of the source text of `_CODE`."""
  digest = hashlib.sha256()
  folder = pathlib.Path(__file__).parent
  for name in _CODE:
    path = folder / name
    for file in sorted(path.glob("*.py")) if path.is_dir() else [path]:
      digest.update(file.name.encode() + b"\0" + file.read_bytes() + b"\0")
  return digest.hexdigest()
