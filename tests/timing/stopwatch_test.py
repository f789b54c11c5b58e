"""Medians, ratios and turns, by a clock that the test sets."""

import jax.numpy as jnp
import pytest

from eos_jax.timing import stopwatch


class Clock:
  """A clock that stands still until something takes time."""

  def __init__(self):
    self.now = 100.0

  def __call__(self):
    return self.now


def _runs(clock, times, order):
  """Things that take the next of their times each time they run."""

  def run(name, left):
    def call(given):
      start = given()
      clock.now += next(left)
      order.append(name)
      return {"all": given() - start, "half": (given() - start) / 2}

    return call

  return {name: run(name, iter(values)) for name, values in times.items()}


def test_medians_and_quartiles():
  found = stopwatch.measured([5.0, 1.0, 2.0, 4.0, 3.0])
  assert found == stopwatch.Measured(median=3.0, low=2.0, high=4.0, count=5)
  assert stopwatch.measured([7.0]) == stopwatch.Measured(7.0, 7.0, 7.0, 1)


def test_ratios_and_differences_are_those_of_a_round():
  # The machine is ten times slower in the second round.
  dense, plan = [2.0, 20.0, 2.2], [1.0, 10.0, 1.1]
  assert stopwatch.ratios(dense, plan) == stopwatch.Measured(2.0, 2.0, 2.0, 3)
  assert stopwatch.differences(dense, plan).median == pytest.approx(1.1)
  with pytest.raises(ValueError):
    stopwatch.ratios(dense, plan[:2])


def test_things_take_turns_behind_a_round_that_does_not_count():
  clock, order = Clock(), []
  times = {"dense": [90.0, 1.0, 2.0, 4.0], "plan": [80.0, 0.5, 1.0, 2.0]}
  found = stopwatch.in_turns(_runs(clock, times, order), repeats=3, clock=clock)
  assert order == ["dense", "plan"] * 4
  assert found == {
    "dense": {"all": [1.0, 2.0, 4.0], "half": [0.5, 1.0, 2.0]},
    "plan": {"all": [0.5, 1.0, 2.0], "half": [0.25, 0.5, 1.0]},
  }


@pytest.mark.parametrize(
  "repeats, seconds, rounds",
  [(9, 1.0, 3), (9, 8.5, 5), (9, 100.0, 9), (2, 1.0, 2)],
)
def test_no_further_round_begins_after_the_given_time(repeats, seconds, rounds):
  clock, order = Clock(), []
  times = {"dense": [1.0] * 10, "plan": [1.0] * 10}
  found = stopwatch.in_turns(
    _runs(clock, times, order), repeats=repeats, seconds=seconds, clock=clock
  )
  assert len(found["dense"]["all"]) == len(found["plan"]["all"]) == rounds


def test_a_compiled_call_knows_how_long_compiling_took():
  made = stopwatch.compiled(lambda x, y: x + y, jnp.float32(1), jnp.float32(2))
  assert float(made.call()) == 3.0
  assert made.seconds > 0
  assert stopwatch.seconds(made.call, iter([1.0, 3.5]).__next__) == 2.5
