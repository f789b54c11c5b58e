"""Metrics of a run as JSON lines."""

import json
import pathlib
from typing import Any

import numpy as np


class JsonlWriter:
  """Appends one JSON object a call; only process 0 should own one."""

  def __init__(self, path: pathlib.Path):
    self._file = open(path, "a", encoding="utf-8", buffering=1)

  def write(self, step: int, values: dict[str, Any]) -> None:
    """Writes scalars and small arrays of one step."""
    row = {"step": step}
    for name, value in values.items():
      row[name] = np.asarray(value).tolist()
    self._file.write(json.dumps(row) + "\n")

  def close(self) -> None:
    """Closes the file."""
    self._file.close()
