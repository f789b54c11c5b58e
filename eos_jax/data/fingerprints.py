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
import pathlib
from typing import Any

from eos_jax import files
from eos_jax.data import items, sources

# What turns questions into arrays, and ids into answers.
_CODE = (
  "benchmarks/prompts.py",
  "items.py",
  "question_sets.py",
  "processors",
  "rooms.py",
  "rows.py",
)
_THREADS = 8


def image(source: pathlib.Path | bytes | items.LazyImage) -> str:
  """Returns the SHA-256 of an encoded image.

  A file is read once for as long as its size and its times stay the same.

  Raises:
    sources.DataError: the file cannot be read.
  """
  if isinstance(source, bytes):
    return hashlib.sha256(source).hexdigest()
  if not isinstance(source, pathlib.Path):
    return source.digest()
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


def questions(asked: Sequence[Any], *, answers: bool) -> tuple[str, ...]:
  """Returns a digest of each question.

  Args:
    asked: with the attributes of `items.Item`.
    answers: whether the expected answers count.
  """
  shown = [tuple(map(items.encoded, item.images)) for item in asked]
  different = list(dict.fromkeys(one for images in shown for one in images))
  with futures.ThreadPoolExecutor(_THREADS) as pool:
    known = dict(zip(different, pool.map(image, different), strict=True))
  return tuple(
    files.digest(
      {"asked": _words(item, answers), "images": [known[one] for one in images]}
    )
    for item, images in zip(asked, shown, strict=True)
  )


def _words(item, answers):
  """What an item asks in words; plain values."""
  words = [item.question, dict(getattr(item, "choices", {}))]
  if answers:
    # Benchmarks have several right answers.
    several = getattr(item, "answers", None)
    words += [item.answer, item.later] if several is None else list(several)
  return words


digest = files.digest


# Files that are larger in all are not read whole before a run.
_MOST_READ = 2**31
_END = 2**12


def image_files(asked: Iterable[Any]) -> str:
  """Returns a digest of the names and contents of all images of items.

  Where the files are more than 2 GiB in all, it is one of their sizes, and of
  the first and the last 4 KiB of each.

  Raises:
    sources.DataError: a file is not there.
  """
  shown = (items.encoded(one) for item in asked for one in item.images)
  different, sizes = list(dict.fromkeys(shown)), {}
  for one in different:
    if isinstance(one, pathlib.Path):
      with _readable(one):
        sizes[one] = one.stat().st_size
  whole = sum(sizes.values()) <= _MOST_READ

  def known(one):
    name = one.name if one in sizes else ""
    return [name, image(one) if whole or not name else _ends(one)]

  with futures.ThreadPoolExecutor(_THREADS) as pool:
    return files.digest(list(pool.map(known, different)))


def _ends(path):
  """SHA-256 of a file's size, beginning and end."""
  with _readable(path), open(path, "rb") as file:
    found = hashlib.sha256(file.read(_END))
    size = file.seek(0, 2)
    file.seek(max(size - _END, 0))
    found.update(file.read() + str(size).encode())
  return found.hexdigest()


def fields(value: Any, without: Sequence[str]) -> dict[str, Any]:
  """Returns the fields of a dataclass without some."""
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
