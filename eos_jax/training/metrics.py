"""Files that a run writes: metrics as JSON lines, results as JSON."""

import json
import os
import pathlib
from typing import Any

import numpy as np


class JsonlWriter:
  """Appends one JSON object a call; only process 0 should own one."""

  def __init__(self, path: pathlib.Path):
    self._path = path
    self._file = open(path, "a", encoding="utf-8", buffering=1)

  def cut(self, step: int) -> None:
    """Takes off what was written behind a step, and a line cut short.

    A run that resumes there writes it again, so that the file ends up as if
    nothing had happened.
    """
    self._file.close()
    kept = []
    for line in self._path.read_text(encoding="utf-8").splitlines():
      try:
        row = json.loads(line)
      except json.JSONDecodeError:
        continue
      if row["step"] <= step:
        kept.append(line + "\n")
    write_text(self._path, "".join(kept))
    self._file = open(self._path, "a", encoding="utf-8", buffering=1)

  def write(self, step: int, values: dict[str, Any]) -> None:
    """Writes scalars and small arrays of one step."""
    row = {"step": step}
    for name, value in values.items():
      row[name] = np.asarray(value).tolist()
    self._file.write(json.dumps(row) + "\n")

  def close(self) -> None:
    """Closes the file."""
    self._file.close()


def write_text(path: pathlib.Path, text: str) -> None:
  """Writes a file such that nobody ever sees half of it."""
  part = path.with_name(path.name + ".part")
  part.write_text(text, encoding="utf-8")
  os.replace(part, path)


def write_json(path: pathlib.Path, value: Any) -> None:
  """Writes a value as indented JSON, whole or not at all."""
  write_text(path, json.dumps(value, indent=2) + "\n")


def plain(value: Any) -> Any:
  """A value as JSON gives it back: lists for tuples."""
  return json.loads(json.dumps(value))


def read_json(path: pathlib.Path) -> Any:
  """Reads a JSON file."""
  return json.loads(path.read_text(encoding="utf-8"))
