"""Files that are there whole or not at all, and the plain values in them."""

from collections.abc import Iterator
import contextlib
import hashlib
import json
import os
import pathlib
from typing import IO, Any


class CheckpointError(ValueError):
  """Checkpoints that cannot be restored, or from which no run can resume."""


class NotFinite(ArithmeticError):
  """A run computed NaN or infinity, which is not written as a result."""


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
  """Writes a value as indented JSON, whole or not at all.

  Raises:
    ValueError: a number in it is not finite.
  """
  write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def read_json(path: pathlib.Path) -> Any:
  """Reads a JSON file.

  Raises:
    ValueError: it is no JSON in UTF-8, or is nested too deeply to be read.
  """
  try:
    return json.loads(path.read_text(encoding="utf-8"))
  except RecursionError as error:
    raise ValueError("its values are nested too deeply") from error


def read_jsonl(path: pathlib.Path) -> list[dict[str, Any]]:
  """Reads a file of JSON lines, each an object.

  A last line that was cut short is dropped, and so are damaged lines; a
  warning lists the latter.
  """
  rows, damaged = [], []
  lines = path.read_bytes().split(b"\n") if path.exists() else []
  for number, line in enumerate(lines, 1):
    try:
      row = json.loads(line.decode(), parse_constant=_refuse)
    except (ValueError, RecursionError):
      row = None
    if isinstance(row, dict):
      rows.append(row)
    elif number < len(lines):  # the last one has no end
      damaged.append(number)
  if damaged:
    warn_dropped(path, f"{_listed(damaged)} no JSON object")
  return rows


def warn_dropped(path: pathlib.Path, why: str) -> None:
  """Prints that lines of a file are damaged and left out."""
  print(f"warning: {path}: {why}; left out", flush=True)


def _listed(numbers):
  more = ", ..." if len(numbers) > 5 else ""
  shown = ", ".join(map(str, numbers[:5]))
  return f"line {shown} is" if len(numbers) == 1 else f"lines {shown}{more} are"


def _refuse(text):
  raise ValueError(f"{text} is no JSON number")


def sha256(text: str) -> str:
  """SHA-256 of a text in UTF-8."""
  return hashlib.sha256(text.encode()).hexdigest()


def digest(value: Any) -> str:
  """SHA-256 of plain values; the order of the entries of a dict is ignored."""
  return sha256(json.dumps(value, sort_keys=True))


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
