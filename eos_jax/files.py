"""Files that are there whole or not at all, and the plain values in them."""

from collections.abc import Iterator
import contextlib
import json
import os
import pathlib
from typing import IO, Any


@contextlib.contextmanager
def whole(path: pathlib.Path) -> Iterator[IO[bytes]]:
  """Opens a file to write in binary such that nobody ever sees half of it.

  What is written gets its name when the block ends; if it fails, a file of
  that name stays as it was.
  """
  part = path.with_name(path.name + ".part")
  with open(part, "wb") as file:
    yield file
  os.replace(part, path)


def write_text(path: pathlib.Path, text: str) -> None:
  """Writes text as UTF-8, whole or not at all."""
  with whole(path) as file:
    file.write(text.encode())


def write_json(path: pathlib.Path, value: Any) -> None:
  """Writes a value as indented JSON, whole or not at all."""
  write_text(path, json.dumps(value, indent=2) + "\n")


def read_json(path: pathlib.Path) -> Any:
  """Reads a JSON file."""
  return json.loads(path.read_text(encoding="utf-8"))


def lines(path: pathlib.Path) -> list[str]:
  """Reads the lines of a UTF-8 file.

  Only line feeds and carriage returns end a line: `str.splitlines` would also
  cut at U+2028, U+2029 and U+0085, which JSON strings may hold as they are.
  """
  return path.read_text(encoding="utf-8").removesuffix("\n").split("\n")


def read_jsonl(path: pathlib.Path) -> list[dict[str, Any]]:
  """Reads a file of JSON lines, but for lines that were cut short."""
  rows = []
  if path.exists():
    for line in lines(path):
      with contextlib.suppress(json.JSONDecodeError):
        rows.append(json.loads(line))
  return rows


def plain(value: Any) -> Any:
  """A value as JSON gives it back: lists for tuples."""
  return json.loads(json.dumps(value))


def flat(value: Any, name: str = "") -> dict[str, Any]:
  """Nested dicts as one with dotted names; lists are values.

  >>> flat({"a": {"b": 1, "c": [2, 3]}}, "top")
  {'top.a.b': 1, 'top.a.c': [2, 3]}
  """
  if not isinstance(value, dict):
    return {name: value}
  found = {}
  for key, inner in value.items():
    found |= flat(inner, f"{name}.{key}" if name else key)
  return found
