"""The loop writes the same lines whether or not it was stopped on the way."""

import os
import signal

import jax.numpy as jnp
import pytest

from eos_jax import files, processes
from eos_jax.training import loop, metrics, speed


def _run(folder, *, start=0, stop=9, save_every=4, kill_at=None):
  """Counts up; every second step is logged, every third one checked."""
  saved = []
  writer = metrics.Writer(folder)
  writer.cut(start)

  def advance(step, state, batch):
    if step + 1 == kill_at:
      os.kill(os.getpid(), signal.SIGTERM)
    return state + batch, {"value": state + batch}

  def log(step, values):
    writer.write(step, values)
    return ""

  try:
    return loop.run(
      advance,
      sum(range(start)),
      iter(range(start, stop)),
      start=start,
      stop=stop,
      label="test",
      meter=speed.Meter(speed.Work(tokens=1), folder, writer),
      log=log,
      log_every=2,
      save=lambda done, state: saved.append((done, state)),
      save_every=save_every,
      check=lambda done, state: writer.write(done, {"check": state}),
      check_every=3,
    ), saved
  except processes.Interrupted as error:
    return str(error), saved
  finally:
    writer.close()


def _text(folder):
  return (folder / "metrics.jsonl").read_text()


def test_a_step_is_logged_before_it_is_saved(tmp_path):
  state, saved = _run(tmp_path)
  assert state == sum(range(9))
  assert saved == [(4, 6), (8, 28), (9, 36)]
  steps = [line.split(",")[0] for line in _text(tmp_path).splitlines()]
  # Of step 6: the check, then its line, which waits for step 7.
  assert steps == [f'{{"step": {n}' for n in (2, 3, 4, 6, 6, 8, 9, 9)]


@pytest.mark.parametrize("done", [1, 4, 6])
def test_metrics_of_a_resumed_run_equal_the_uninterrupted_ones(tmp_path, done):
  for name in ("straight", "broken"):
    (tmp_path / name).mkdir()
  _run(tmp_path / "straight")
  # Killed at some step behind its last checkpoint, in the middle of a line.
  _run(tmp_path / "broken", stop=min(done + 3, 9))
  with open(tmp_path / "broken" / "metrics.jsonl", "a") as file:
    file.write('{"step": 8, "val')
  _run(tmp_path / "broken", start=done)
  assert _text(tmp_path / "broken") == _text(tmp_path / "straight")


@pytest.mark.parametrize("step", [2, 5, 9])
def test_a_signal_saves_and_ends(tmp_path, step):
  text, saved = _run(tmp_path, kill_at=step)
  assert text == (
    f"stopped at test step {step} of 9; the state is saved, run the same"
    " command again to go on"
  )
  assert saved[-1][0] == step


def test_outside_of_the_loop_a_signal_raises():
  before = signal.getsignal(signal.SIGTERM)
  with pytest.raises(processes.Interrupted) as error:
    with loop.stoppable():
      os.kill(os.getpid(), signal.SIGTERM)
  assert str(error.value) == (
    "stopped by SIGTERM; what is finished is kept, run the same command again"
    " to go on"
  )
  assert not isinstance(error.value, Exception)
  assert signal.getsignal(signal.SIGTERM) is before


def _diverging(folder, advance, **options):
  """Runs eight steps from 1, which are read late; returns message and saves."""
  saved, writer = [], metrics.Writer(folder)
  writer.cut(0)

  def log(step, values):
    writer.write(step, values)
    return ""

  with pytest.raises(files.NotFinite) as error:
    loop.run(
      advance,
      jnp.float32(1.0),
      iter(range(8)),
      start=0,
      stop=8,
      label="test",
      meter=speed.Meter(speed.Work(tokens=1), folder, writer),
      log=log,
      save=lambda done, state: saved.append(done),
      setting="config.learning_rate=9",
      **{"log_every": 8, "save_every": 2, **options},
    )
  writer.close()
  return str(error.value), saved


@pytest.mark.parametrize("log_every", [1, 3, 8])
@pytest.mark.parametrize(
  ("broken", "kept"),
  [
    (4, "the checkpoint of step 4 already leads to it"),
    (5, "the last good checkpoint is that of step 4"),
  ],
)
def test_a_loss_that_is_not_finite_stops_the_run(
  tmp_path, log_every, broken, kept
):
  def advance(step, state, batch):
    loss = jnp.where(step == broken, jnp.nan, 1.0)
    return state, {"loss": loss, "part": loss - 1, "count": step}

  text, saved = _diverging(tmp_path, advance, log_every=log_every, save_every=4)
  assert text == (
    f"test diverged at step {broken + 1} with config.learning_rate=9: loss is"
    f" nan, part is nan; {kept}. Start again with a new --workdir and a smaller"
    " learning rate"
  )
  assert saved == [4] and "NaN" not in _text(tmp_path)


def test_a_state_that_is_not_finite_is_neither_checked_nor_saved(tmp_path):
  def advance(step, state, batch):
    return jnp.where(step == 1, jnp.inf, state), {"loss": 0.0}

  def check(done, state):
    raise AssertionError

  text, saved = _diverging(tmp_path, advance, check=check, check_every=2)
  assert "diverged at step 2 " in text and "not finite are" in text
  assert "nothing was saved before" in text and not saved


def test_of_what_a_broken_state_causes_the_first_step_is_named(tmp_path):
  def advance(step, state, batch):
    if step == 3:
      raise files.NotFinite("counts are [nan]")
    return state, {"loss": jnp.where(step == 1, jnp.inf, 1.0)}

  text, _ = _diverging(tmp_path, advance, save_every=8)
  assert "diverged at step 2 with" in text and "loss is inf" in text


def test_metrics_are_not_kept_for_ever(tmp_path, monkeypatch):
  monkeypatch.setattr(loop, "_MOST_UNREAD", 2)

  def advance(step, state, batch):
    assert step < 4
    return state, {"loss": jnp.where(step == 1, jnp.nan, 1.0)}

  text, _ = _diverging(tmp_path, advance, save_every=8)
  assert "diverged at step 2 with" in text
