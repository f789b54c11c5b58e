"""How fast steps are, and what a trace of some of them holds."""

import contextlib
import json

import jax
import jax.numpy as jnp
import pytest

from eos_jax import cost
from eos_jax.training import metrics, speed


@pytest.fixture(autouse=True)
def pass_time(monkeypatch):
  """A clock that only this moves."""
  now = [0.0]
  monkeypatch.setattr(speed.time, "perf_counter", lambda: now[0])

  def move(seconds):
    now[0] += seconds

  return move


@pytest.fixture
def writer(tmp_path):
  with contextlib.closing(metrics.Writer(tmp_path)) as made:
    made.cut(0)
    yield made


def _loop(meter, sleep, steps=4, first=0):
  """Steps of 20 ms behind waits of 10 ms; a check of 50 ms behind the third."""
  with contextlib.closing(meter):
    for step in range(first, first + steps):
      with meter.waiting():
        sleep(0.01)
      with meter.step("test", step + 1, jnp.zeros(())) as results:
        sleep(0.02)
        results.append(jnp.ones(()))
      if step == 2:
        with meter.apart(results):
          sleep(0.05)
      if step % 2:
        meter.read(step + 1)


def test_steps_are_measured_without_compilation_and_checks(
  tmp_path, writer, pass_time
):
  meter = speed.Meter(speed.Work(tokens=300), tmp_path, writer)
  _loop(meter, pass_time)
  rows = (tmp_path / "speed.jsonl").read_text(encoding="utf-8").splitlines()
  found = [json.loads(row) for row in rows]
  assert [row["step"] for row in found] == [2, 4]
  for row in found:
    assert row["step_seconds"] == pytest.approx(0.03)
    assert row["wait_seconds"] == pytest.approx(0.01)
    assert row["tokens_per_second"] == pytest.approx(10_000)
    assert row["mfu"] is None  # the rate of a CPU is not known
  assert meter.median.in_words() == (
    "A step took 30 ms (median), of them 10 ms waiting for data; 10,000"
    " tokens/s."
  )


def test_nothing_is_read_of_a_single_step(tmp_path, writer, pass_time):
  meter = speed.Meter(speed.Work(tokens=300), tmp_path, writer)
  _loop(meter, pass_time, steps=1, first=5)
  assert meter.median is None


def test_utilisation_is_of_the_peak_rate_of_all_devices(
  tmp_path, writer, pass_time, monkeypatch
):
  monkeypatch.setattr(cost, "device_of", lambda kind: cost.DEVICES["tpu_v5e"])
  work = speed.Work(tokens=300, flops=8e12)
  _loop(meter := speed.Meter(work, tmp_path, writer), pass_time)
  peak = 197e12 * jax.device_count()
  assert meter.median.mfu == pytest.approx(8e12 / 0.03 / peak)
  assert "16.9% of the devices' peak rate" in meter.median.in_words()


def test_steps_that_are_over_count_whenever_metrics_are_read(
  tmp_path, writer, pass_time
):
  with contextlib.closing(
    speed.Meter(speed.Work(tokens=1), tmp_path, writer)
  ) as meter:
    for step in (1, 2, 3, 4):
      with meter.step("test", step, ()) as results:
        pass_time(0.1)
        results.append(jnp.ones(()).block_until_ready())
      meter.read(step - 1)  # as a loop does, which reads a step late
    meter.read(4)  # and at once before it saves
  rows = (tmp_path / "speed.jsonl").read_text(encoding="utf-8").splitlines()
  found = [(row["step"], row["step_seconds"]) for row in map(json.loads, rows)]
  assert found == [(step, pytest.approx(0.1)) for step in (2, 3, 4)]


@pytest.mark.parametrize("trace", [(2, 3), (3, 9)])
def test_a_trace_of_the_steps_that_were_asked_for(
  tmp_path, writer, pass_time, trace
):
  meter = speed.Meter(speed.Work(tokens=1), tmp_path, writer, trace=trace)
  _loop(meter, pass_time)
  (found,) = (tmp_path / "tensorboard").rglob("*.xplane.pb")
  data = jax.profiler.ProfileData.from_file(str(found))
  steps = {
    dict(event.stats).get("step_num")
    for plane in data.planes
    for line in plane.lines
    for event in line.events
    if event.name == "test"
  }
  assert steps == set(range(trace[0], min(trace[1], 4) + 1))
