"""Checkpoints and metrics of a run, in its working directory."""

import contextlib
import pathlib
from typing import Any

import numpy as np

from eos_jax.training import checkpoint, metrics


class Record(contextlib.AbstractContextManager):
  """Checkpoints and metrics of one run, open while the block lasts.

  Attributes:
    writer: takes the metrics.
  """

  def __init__(
    self,
    folder: pathlib.Path,
    facts: dict[str, Any],
    *,
    keep: int = 2,
    best: bool = False,
  ):
    """Opens both.

    Args:
      folder: the run's own.
      facts: what must hold when the run is resumed; plain JSON values.
      keep: newest checkpoints that are kept.
      best: whether the one with the highest score is kept, too.
    """
    self._facts, self._iterator = facts, None
    self._open = contextlib.ExitStack()
    self._checkpoints = checkpoint.Checkpointer(
      folder / "checkpoints", keep=keep, best=best
    )
    self._open.callback(self._checkpoints.close)
    self.writer = metrics.Writer(folder)
    self._open.callback(self.writer.close)

  def resume(
    self, state: Any, iterator: Any, steps: int
  ) -> tuple[Any, Any, int]:
    """Goes back to the newest checkpoint, if there is one.

    Args:
      state: state before the first step, with its shardings.
      iterator: a fresh iterator; the record saves where it stands.
      steps: of the whole run, for the message.

    Returns:
      State and iterator to go on with, and the number of steps done.

    Raises:
      checkpoint.OtherRun: the checkpoint was made under other facts.
      checkpoint.CheckpointError: no checkpoint can be read.
    """
    start = 0
    if self._checkpoints.begun:
      state, iterator, start = self._checkpoints.restore(
        state, iterator, self._facts
      )
      print(f"resumed at step {start} of {steps}", flush=True)
    self.writer.cut(start)
    self._iterator = iterator
    return state, iterator, start

  def save(self, done: int, state: Any, score: float | None = None) -> None:
    """Saves the state after a step, in the background.

    Args:
      done: steps done.
      state: after them.
      score: how good it is; None = not known.
    """
    self._checkpoints.save(done, state, self._iterator, self._facts, score)

  def best(self, like: Any) -> tuple[Any, int]:
    """The state that was saved with the highest score, and its steps done.

    Raises:
      checkpoint.CheckpointError: there is none, or it cannot be read.
    """
    return self._checkpoints.restore_best(like)

  def log(self, step: int, values: dict[str, Any]) -> str:
    """Writes numbers of a step; returns them as the progress bar shows them."""
    numbers = {name: float(np.asarray(v)) for name, v in values.items()}
    self.writer.write(step, numbers)
    return " ".join(f"{name} {v:.3f}" for name, v in numbers.items())

  def __exit__(self, *error: Any) -> None:
    """Waits for pending saves and closes the files."""
    self._open.__exit__(*error)
