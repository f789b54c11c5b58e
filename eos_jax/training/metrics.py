"""Metrics of a run: JSON lines, and the same for TensorBoard."""

import contextlib
import json
import pathlib
import time
from typing import Any

import numpy as np
from tensorboardX import event_file_writer, summary
from tensorboardX.proto import event_pb2

from eos_jax import files

# Seconds between writes of TensorBoard's files.
_FLUSH = 60.0


class Board:
  """TensorBoard's file of scalars, written in the caller's thread.

  `tensorboardX.SummaryWriter` writes in a thread. Where that fails, as on a
  full disk, the thread ends, and whoever adds a scalar waits for it for ever.
  """

  def __init__(self, folder: pathlib.Path, first: int):
    """Opens a new file; what others say of steps from `first` on is hidden."""
    folder.mkdir(exist_ok=True)
    self._file = event_file_writer.EventsWriter(str(folder / "events"))
    self._flushed = time.monotonic()
    start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
    self._write(first, session_log=start)

  def add(self, name: str, number: float, step: int) -> None:
    """Adds a number of a step."""
    self._write(step, summary=summary.scalar(name, number))

  def _write(self, step, **content):
    event = event_pb2.Event(wall_time=time.time(), step=step, **content)
    self._file.write_event(event)
    if time.monotonic() - self._flushed > _FLUSH:
      self._file.flush()
      self._flushed = time.monotonic()

  def close(self) -> None:
    """Closes the file."""
    self._file.close()


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
    self._board: Board | None = None

  def cut(self, step: int) -> None:
    """Takes off what was written after a step, and a line cut short.

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
    # TensorBoard hides what an interrupted run has written after the step.
    self._board = Board(self._folder, step + 1)

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
        self._board.add(tag, number, step)

  def close(self) -> None:
    """Closes the files."""
    with contextlib.ExitStack() as both:
      if self._board is not None:
        both.callback(self._board.close)
      both.callback(self._file.close)
