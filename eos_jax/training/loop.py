"""The loop that every training task runs, and jit with explicit shardings."""

from collections.abc import Callable
import contextlib
from typing import Any

import jax
import tqdm

from eos_jax import files, processes
from eos_jax.models import finite
from eos_jax.training import speed, stopping


def stoppable() -> contextlib.AbstractContextManager[stopping.Stop]:
  """Lets SIGTERM and Ctrl-C raise `processes.Interrupted` wherever a block is.

  `run` waits for the end of its step instead, and saves the state. Of several
  processes none stops alone: SIGTERM is JAX's there, see `processes.stopping`.
  """
  return stopping.handled()


def compile_step(
  step: Callable[..., tuple[Any, Any]],
  state_sharding: Any,
  batch_sharding: Any,
  replicated: Any,
  *,
  constants: tuple[Any, ...] = (),
) -> Callable[..., tuple[Any, Any]]:
  """Jits `step(state, batch, *rest) -> state, metrics`, donating the state.

  Output shardings are written out: without them the second call would see
  other input shardings than the first and compile again.

  Args:
    step: pure function.
    state_sharding: tree of shardings of the state (a prefix is enough).
    batch_sharding: sharding of the batch's leaves.
    replicated: sharding of the metrics.
    constants: shardings of further arguments.
  """
  return jax.jit(
    step,
    in_shardings=(state_sharding, batch_sharding, *constants),
    out_shardings=(state_sharding, replicated),
    donate_argnums=0,
  )


# Steps whose metrics may wait until they are looked at.
_MOST_UNREAD = 100


class _Watch:
  """Stops a run that diverges, at the step at which it does.

  Attributes:
    saved: number of the last step whose state was saved; 0 = none.
  """

  def __init__(self, label: str, setting: str, start: int):
    self._label, self._setting, self.saved = label, setting, start
    self._finite = start  # the last step whose metrics were found finite
    self._unread: list[tuple[int, Any]] = []

  def add(self, step: int, metrics: Any) -> None:
    """Keeps the metrics of a step until they are looked at."""
    if len(self._unread) == _MOST_UNREAD:
      self.look(step - 1)
    self._unread.append((step, metrics))

  def look(self, step: int) -> None:
    """Looks at the metrics of all steps up to one; waits for it.

    Raises:
      files.NotFinite: a number in them is not finite.
    """
    while self._unread and self._unread[0][0] <= step:
      number, metrics = self._unread.pop(0)
      if faults := list(finite.faults(metrics)):
        self.stop(number, ", ".join(faults[:4]))
      self._finite = number

  def verify(self, step: int, state: Any) -> None:
    """Looks at the metrics up to a step, and at the state after it.

    Raises:
      files.NotFinite: a number in them is not finite.
    """
    self.look(step)
    if names := finite.names(state):
      more = ", ..." if len(names) > 3 else ""
      self.stop(step, f"not finite are {', '.join(names[:3])}{more}")

  def stop(self, step: int, fault: str) -> None:
    """Raises `files.NotFinite`."""
    kept = "nothing was saved before"
    if self.saved:
      # Parameters can be finite and too large for any finite loss.
      kept = (
        f"the last good checkpoint is that of step {self.saved}"
        if self.saved < self._finite
        else f"the checkpoint of step {self.saved} already leads to it"
      )
    with_setting = f" with {self._setting}" if self._setting else ""
    raise files.NotFinite(
      f"{self._label} diverged at step {step}{with_setting}: {fault}; {kept}."
      " Start again with a new --workdir and a smaller learning rate"
    )


def run(
  advance: Callable[[int, Any, Any], tuple[Any, dict[str, Any]]],
  state: Any,
  iterator: Any,
  *,
  start: int,
  stop: int,
  label: str,
  meter: speed.Meter,
  log: Callable[[int, dict[str, Any]], str],
  log_every: int,
  save: Callable[[int, Any], None],
  save_every: int,
  check: Callable[[int, Any], None] | None = None,
  check_every: int = 0,
  setting: str = "",
) -> Any:
  """Runs steps `start` to `stop - 1` with a progress bar and checkpoints.

  Order within a step, which exact resume relies on: draw the batch, advance,
  check, log, save. Metrics of a step are read after the next one is dispatched,
  so that logging does not stall the device, or before the state is saved.

  Args:
    advance: `(step, state, host batch) -> state, metrics`.
    state: state before step `start`.
    iterator: yields host batches.
    start: first step to run.
    stop: step after the last one.
    label: text of the progress bar.
    meter: measures the steps; closed at the end.
    log: `(step, metrics) -> short text` for the progress bar; writes files.
    log_every: steps between calls of `log`.
    save: `(steps done, state)`; called at the end too.
    save_every: steps between calls of `save`.
    check: `(steps done, state)`, such as an evaluation.
    check_every: steps between calls of `check`; 0 = never.
    setting: what probably is at fault if the run diverges, with its value.

  Returns:
    The last state.

  Raises:
    files.NotFinite: metrics or a state to be checked or saved are not finite.
    processes.Interrupted: after SIGTERM or Ctrl-C, once the state is saved.
  """
  pending, done, ends = None, start, False
  bar = tqdm.tqdm(total=stop, initial=start, desc=label, dynamic_ncols=True)

  watch = _Watch(label, setting, start)

  def read(step, metrics):
    watch.look(step)
    bar.set_postfix_str(log(step, metrics), refresh=False)
    meter.read(step)

  handled = stopping.handled(deferred=True)
  with handled as signals, bar, contextlib.closing(meter):
    for step in range(start, stop):
      with meter.waiting():
        batch = next(iterator)
      with meter.step(label, step + 1, state) as results:
        try:
          state, metrics = advance(step, state, batch)
        except files.NotFinite as error:
          watch.look(step)  # it may have begun earlier
          watch.stop(step + 1, str(error))
        results.append(metrics)
      watch.add(step + 1, metrics)
      if pending is not None:
        read(*pending)
      pending = None
      if (step + 1) % log_every == 0 or step + 1 == stop:
        pending = (step + 1, metrics)
      bar.update()
      done = step + 1
      if check is not None and check_every and done % check_every == 0:
        with meter.apart(state):
          watch.verify(done, state)
          check(done, state)
      ends = processes.stopping(done) or signals.asked is not None
      if done % save_every == 0 or done == stop or ends:
        if pending is not None:
          # A run that resumes after this step would not log it any more.
          read(*pending)
          pending = None
        with meter.apart(state):
          watch.verify(done, state)
          save(done, state)
          watch.saved = done
      if ends:
        break
  if ends or signals.asked is not None:
    raise processes.Interrupted(
      f"stopped at {label} step {done} of {stop}; the state is saved, run the"
      " same command again to go on"
    )
  return state
