"""Metrics of a run: JSON lines, and the same for TensorBoard."""

import json
import pathlib
from typing import Any

import numpy as np
import tensorboardX

from eos_jax import files


def read(folder: pathlib.Path) -> list[dict[str, Any]]:
  """Reads `metrics.jsonl`: rows of a step and numbers; warns of others."""
  path = folder / "metrics.jsonl"
  rows = files.read_jsonl(path)
  sound = [row for row in rows if _is_sound(row)]
  if wrong := len(rows) - len(sound):
    files.warn_dropped(path, f"{wrong} lines are not metrics of a step")
  return sound


def _is_sound(row):
  values = [row.get("step")] if type(row.get("step")) is int else [None]
  values += row.values()
  while values:
    value = values.pop()
    if isinstance(value, list):
      values += value
    elif type(value) not in (int, float):
      return False
  return True


class Writer:
  """Metrics as lines of `metrics.jsonl` and for TensorBoard.

  Of several processes each has its own, see `processes.books`. TensorBoard's
  files bear the time and are for looking at; the lines are exact, and what
  reports are made of.
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
    kept = [
      json.dumps(row) + "\n"
      for row in read(self._path.parent)
      if row["step"] <= step
    ]
    files.write_text(self._path, "".join(kept))
    self._file = open(self._path, "a", encoding="utf-8", buffering=1)
    # TensorBoard hides what an interrupted run has written behind the step.
    self._board = tensorboardX.SummaryWriter(
      str(self._folder), purge_step=step + 1 if step else None
    )

  def write(self, step: int, values: dict[str, Any]) -> None:
    """Writes scalars and small arrays of one step."""
    row = {name: np.asarray(value).tolist() for name, value in values.items()}
    self._file.write(json.dumps({"step": step, **row}) + "\n")
    self.show(step, values)

  def show(self, step: int, values: dict[str, Any]) -> None:
    """Writes them for TensorBoard alone."""
    if self._board is None:
      return
    for name, value in values.items():
      for place, number in np.ndenumerate(np.asarray(value)):
        tag = "/".join([name, *map(str, place)])
        self._board.add_scalar(tag, number, step)

  def close(self) -> None:
    """Closes the files."""
    self._file.close()
    if self._board is not None:
      self._board.close()
