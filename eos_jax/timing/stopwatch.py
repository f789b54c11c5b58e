"""Measuring times: warm, waited for, and taken in turns."""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import time
from typing import Any

import jax
import numpy as np

Clock = Callable[[], float]  # seconds from any start
# Does something and says how long its parts took, seconds by name.
Run = Callable[[Clock], Mapping[str, float]]

# A median of fewer rounds says little; slow machines stop here.
LEAST_ROUNDS = 3


@dataclasses.dataclass(frozen=True)
class Measured:
  """A number that was measured several times.

  Attributes:
    median: of all values.
    low: first quartile.
    high: third quartile.
    count: number of values.
  """

  median: float
  low: float
  high: float
  count: int


def measured(values: Sequence[float]) -> Measured:
  """Median and quartiles.

  >>> measured([4.0, 1.0, 2.0])
  Measured(median=2.0, low=1.5, high=3.0, count=3)
  """
  low, median, high = np.percentile(values, (25, 50, 75)).tolist()
  return Measured(median, low, high, len(values))


def ratios(before: Sequence[float], after: Sequence[float]) -> Measured:
  """How many times faster: `before / after` of each round, then the median.

  Both numbers of a round were taken one right after the other, so what slows a
  machine for longer than a round cancels.

  >>> ratios([2.0, 20.0, 2.0], [1.0, 10.0, 1.0])
  Measured(median=2.0, low=2.0, high=2.0, count=3)
  """
  return measured([b / a for b, a in zip(before, after, strict=True)])


def differences(before: Sequence[float], after: Sequence[float]) -> Measured:
  """`before - after` of each round; see `ratios`.

  >>> differences([3.0, 30.0, 4.0], [1.0, 28.0, 1.0]).median
  2.0
  """
  return measured([b - a for b, a in zip(before, after, strict=True)])


def in_turns(
  runs: Mapping[str, Run],
  *,
  repeats: int,
  seconds: float = float("inf"),
  clock: Clock = time.perf_counter,
) -> dict[str, dict[str, list[float]]]:
  """Times of several things, each once a round: a, b, a, b, ...

  Every thing runs once before, unmeasured.

  Args:
    runs: what is measured, by name.
    repeats: rounds.
    seconds: after which no further round begins, but for the first
      `LEAST_ROUNDS` or `repeats` if that is less.
    clock: tells the time.

  Returns:
    For each thing and each of its parts the seconds of all rounds.
  """
  for run in runs.values():
    run(clock)
  found: dict[str, dict[str, list[float]]] = {name: {} for name in runs}
  start = clock()
  for done in range(repeats):
    if done >= LEAST_ROUNDS and clock() - start >= seconds:
      break
    for name, run in runs.items():
      for part, value in run(clock).items():
        found[name].setdefault(part, []).append(value)
  return found


@dataclasses.dataclass(frozen=True)
class Compiled:
  """A compiled function and arguments for it.

  Attributes:
    program: the function.
    args: the arguments that it was compiled for.
    seconds: of the first call: tracing, compiling, and running once. A
      persistent compilation cache of JAX, where one is set, shortens them.
  """

  program: Callable[..., Any]
  args: tuple[Any, ...]
  seconds: float

  def call(self) -> Any:
    """What the function gives for the arguments."""
    return self.program(*self.args)


def compiled(
  function: Callable[..., Any],
  *args: Any,
  clock: Clock = time.perf_counter,
) -> Compiled:
  """Compiles a pure function for arguments: arrays, or trees of them.

  By `jax.jit`, as programs are called in use: what `lower` and `compile` make
  takes a few tenths of a millisecond more a call, in Python.
  """
  start = clock()
  program = jax.jit(function)
  jax.block_until_ready(program(*args))
  return Compiled(program, args, clock() - start)


def seconds(call: Callable[[], Any], clock: Clock) -> float:
  """Time from a call to the arrival of its results."""
  start = clock()
  jax.block_until_ready(call())
  return clock() - start


class Waiting:
  """How long a model waited for images, while the block lasts."""

  def __init__(self):
    self._asked = self._waited = self._since = 0.0
    self._images = 0

  def __enter__(self):
    self._since = time.perf_counter()

  def __exit__(self, *error):
    self._asked += time.perf_counter() - self._since

  def add(self, seconds: float, images: int) -> None:
    """A batch came after so many seconds."""
    self._waited += seconds
    self._images += images

  def line(self) -> str:
    """Returns the line for the end of a run."""
    if not self._asked:
      return "All answers were there already."
    return (
      f"{self._images:,} images were read while the model answered; it"
      f" waited for them {100 * self._waited / self._asked:.1f} % of the time."
    )
