"""Files that are there whole or not at all, and the plain values in them."""

from collections.abc import Iterator
import contextlib
import hashlib
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


def read_jsonl(path: pathlib.Path) -> list[dict[str, Any]]:
  """Reads a file of JSON lines, but for lines that were cut short."""
  rows = []
  if path.exists():
    for line in path.read_text(encoding="utf-8").splitlines():
      with contextlib.suppress(json.JSONDecodeError):
        rows.append(json.loads(line))
  return rows


def digest(value: Any) -> str:
  """SHA-256 of plain values; the order of the entries of a dict is ignored."""
  return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def sealed(value: dict[str, Any]) -> dict[str, Any]:
  """Adds the digest of plain values to them; `unsealed` verifies it."""
  return {**value, "digest": digest(value)}


def unsealed(value: Any) -> dict[str, Any]:
  """Returns what `sealed` was given.

  Raises:
    ValueError: the values, or their digest, are not those that were written.
  """
  if not isinstance(value, dict) or "digest" not in value:
    raise ValueError("it has no digest")
  content = {name: v for name, v in value.items() if name != "digest"}
  if value["digest"] != digest(content):
    raise ValueError("its contents do not match its digest")
  return content


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
