"""The loop that every training task runs, and jit with explicit shardings."""

from collections.abc import Callable
import contextlib
from typing import Any

import jax
import tqdm

from eos_jax import processes
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
    stop: step behind the last one.
    label: text of the progress bar.
    meter: measures the steps; closed at the end.
    log: `(step, metrics) -> short text` for the progress bar; writes files.
    log_every: steps between calls of `log`.
    save: `(steps done, state)`; called at the end too.
    save_every: steps between calls of `save`.
    check: `(steps done, state)`, such as an evaluation.
    check_every: steps between calls of `check`; 0 = never.

  Returns:
    The last state.

  Raises:
    processes.Interrupted: after SIGTERM or Ctrl-C, once the state is saved.
  """
  pending, done, ends = None, start, False
  bar = tqdm.tqdm(total=stop, initial=start, desc=label, dynamic_ncols=True)

  def read(step, metrics):
    bar.set_postfix_str(log(step, metrics), refresh=False)
    meter.read(step)

  handled = stopping.handled(deferred=True)
  with handled as signals, bar, contextlib.closing(meter):
    for step in range(start, stop):
      with meter.waiting():
        batch = next(iterator)
      with meter.step(label, step + 1, state) as results:
        state, metrics = advance(step, state, batch)
        results.append(metrics)
      if pending is not None:
        read(*pending)
      pending = None
      if (step + 1) % log_every == 0 or step + 1 == stop:
        pending = (step + 1, metrics)
      bar.update()
      done = step + 1
      if check is not None and check_every and done % check_every == 0:
        with meter.apart(state):
          check(done, state)
      ends = processes.stopping(done) or signals.asked is not None
      if done % save_every == 0 or done == stop or ends:
        if pending is not None:
          # A run that resumes behind this step would not log it any more.
          read(*pending)
          pending = None
        with meter.apart(state):
          save(done, state)
      if ends:
        break
  if ends or signals.asked is not None:
    raise processes.Interrupted(
      f"stopped at {label} step {done} of {stop}; the state is saved, run the"
      " same command again to go on"
    )
  return state
