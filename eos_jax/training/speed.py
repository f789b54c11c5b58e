"""How fast the steps of a loop are, and traces of some of them.

Times are no part of what a run finds: they have a file of their own, which need
not be the same when a run is repeated.
"""

from collections.abc import Iterator
import contextlib
import dataclasses
import json
import pathlib
import statistics
import time
from typing import Any

import jax

from eos_jax import cost
from eos_jax.training import metrics


@dataclasses.dataclass(frozen=True)
class Work:
  """What one step is about, of all processes together.

  Attributes:
    tokens: that the decoder reads, visual and text, padding included.
    flops: by the cost model, without what is computed again to save memory;
      0 = not known.
  """

  tokens: int
  flops: float = 0.0


@dataclasses.dataclass(frozen=True)
class Speed:
  """Speed of some steps in a row, checks and checkpoints left out.

  Attributes:
    step_seconds: that a step took.
    wait_seconds: of these, how long the host waited for the next batch.
    tokens_per_second: of all devices.
    mfu: model-FLOPs utilisation: FLOPs of the cost model, as a share of what
      all devices could do at their peak rate in bfloat16; None where FLOPs or
      rate are not known, such as on CPU.
  """

  step_seconds: float
  wait_seconds: float
  tokens_per_second: float
  mfu: float | None

  def in_words(self) -> str:
    """A line for the end of a run."""
    said = (
      f"A step took {1e3 * self.step_seconds:.3g} ms (median), of them"
      f" {1e3 * self.wait_seconds:.2g} ms waiting for data;"
      f" {self.tokens_per_second:,.0f} tokens/s"
    )
    if self.mfu is not None:
      said += f", {self.mfu:.1%} of the devices' peak rate in bfloat16"
    return said + "."


class Meter:
  """Measures a loop without making it wait.

  The clock starts after the first step, which is compiled, and stands still
  during checks, saves and the writing of traces. It is read when metrics are:
  by then their step is over, and the next one has begun, or is over as well.
  """

  def __init__(
    self,
    work: Work,
    folder: pathlib.Path,
    writer: metrics.Writer,
    *,
    trace: tuple[int, ...] = (),
  ):
    """Nothing is measured before the loop begins.

    Args:
      work: of a step.
      folder: gets `speed.jsonl`, and traces in `tensorboard/`.
      writer: shows speeds to TensorBoard.
      trace: first and last step of a trace by `jax.profiler`, numbered from 1
        as in the metrics; () = none.
    """
    self._work, self._folder, self._writer = work, folder, writer
    self._trace, self._tracing = trace, False
    device = cost.device_of(jax.devices()[0].device_kind)
    self._peak = device and device.peak("bfloat16") * jax.device_count()
    self._found: list[Speed] = []
    self._since, self._last = 0.0, -1
    self._newest: tuple[int, list[Any]] = (0, [])
    self._waited = self._apart = 0.0

  @contextlib.contextmanager
  def waiting(self) -> Iterator[None]:
    """Around the wait for a batch."""
    began = time.perf_counter()
    yield
    self._waited += time.perf_counter() - began

  @contextlib.contextmanager
  def apart(self, state: Any) -> Iterator[None]:
    """Around what is no step but reads the state, such as a check."""
    jax.block_until_ready(state)  # or steps still running would not count
    began = time.perf_counter()
    yield
    self._apart += time.perf_counter() - began

  @contextlib.contextmanager
  def step(self, label: str, number: int, state: Any) -> Iterator[list[Any]]:
    """Around a step.

    Args:
      label: of the loop.
      number: of the step, from 1.
      state: before it.

    Yields:
      A list to put something into that is ready when the step is over.
    """
    if self._trace and self._trace[0] <= number <= self._trace[1]:
      with self.apart(state):
        self._start_trace()
    results: list[Any] = []
    with jax.profiler.StepTraceAnnotation(label, step_num=number):
      yield results
    self._newest = number, jax.tree.leaves(results)
    if self._tracing and number == self._trace[1]:
      with self.apart(results):
        self._stop_trace()
    if self._last < 0:
      jax.block_until_ready(results)
      self._restart(number)

  def read(self, number: int) -> None:
    """Notes how fast steps were up to one whose metrics were just read."""
    newest, results = self._newest
    if all(leaf.is_ready() for leaf in results if isinstance(leaf, jax.Array)):
      number = newest
    steps = number - self._last
    if self._last < 0 or steps <= 0:
      return
    seconds = time.perf_counter() - self._since - self._apart
    rate = steps / max(seconds, 1e-9)
    mfu = None
    if self._work.flops and self._peak:
      mfu = self._work.flops * rate / self._peak
    speed = Speed(1 / rate, self._waited / steps, self._work.tokens * rate, mfu)
    self._found.append(speed)
    values = dataclasses.asdict(speed)
    with open(self._folder / "speed.jsonl", "a", encoding="utf-8") as file:
      file.write(json.dumps({"step": number, **values}) + "\n")
    known = {n: value for n, value in values.items() if value is not None}
    self._writer.show(number, {f"speed/{n}": v for n, v in known.items()})
    self._restart(number)

  def close(self) -> None:
    """Ends a trace that a stop has cut short."""
    if self._tracing:
      self._stop_trace()

  @property
  def median(self) -> Speed | None:
    """Of all that was read; None if nothing was."""
    if not self._found:
      return None
    columns = zip(*map(dataclasses.astuple, self._found), strict=True)
    return Speed(
      *(None if None in each else statistics.median(each) for each in columns)
    )

  def _restart(self, number):
    self._since, self._last = time.perf_counter(), number
    self._waited = self._apart = 0.0

  def _start_trace(self):
    if not self._tracing:
      jax.profiler.start_trace(self._folder / "tensorboard")
      self._tracing = True

  def _stop_trace(self):
    jax.profiler.stop_trace()
    self._tracing = False
