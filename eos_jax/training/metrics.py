"""Files that a run writes: metrics as JSON lines, results as JSON."""

import json
import os
import pathlib
from typing import Any

import numpy as np
import tensorboardX


class Writer:
  """Metrics as lines of `metrics.jsonl` and for TensorBoard.

  Only process 0 should own one. TensorBoard's files bear the time and are for
  looking at; the lines are exact, and what reports are made of.
  """

  def __init__(self, folder: pathlib.Path):
    self._path = folder / "metrics.jsonl"
    self._file = open(self._path, "a", encoding="utf-8", buffering=1)
    self._folder = folder / "tensorboard"
    self._board: tensorboardX.SummaryWriter | None = None

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
    # TensorBoard hides what an interrupted run has written behind the step.
    self._board = tensorboardX.SummaryWriter(
      str(self._folder), purge_step=step + 1 if step else None
    )

  def write(self, step: int, values: dict[str, Any]) -> None:
    """Writes scalars and small arrays of one step."""
    row = {"step": step}
    for name, value in values.items():
      row[name] = np.asarray(value).tolist()
      if self._board is not None:
        for place, number in np.ndenumerate(np.asarray(value)):
          tag = "/".join([name, *map(str, place)])
          self._board.add_scalar(tag, number, step)
    self._file.write(json.dumps(row) + "\n")

  def close(self) -> None:
    """Closes the files."""
    self._file.close()
    if self._board is not None:
      self._board.close()


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


def read_jsonl(path: pathlib.Path) -> list[dict[str, Any]]:
  """Reads a file of JSON lines."""
  lines = path.read_text(encoding="utf-8").splitlines()
  return [json.loads(line) for line in lines]
