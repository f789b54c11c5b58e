"""The questions of a benchmark as batches for a published model."""

from collections.abc import Callable, Iterator, Sequence
import dataclasses
import functools
import time
from typing import Any

from jaxtyping import Int32
import numpy as np

from eos_jax.data import (
  faults,
  fingerprints,
  instruction_batches,
  instruction_rows,
  sources,
)
from eos_jax.data.benchmarks.samples import PASS, Sample
from eos_jax.data.questions import Question


@dataclasses.dataclass(frozen=True)
class BenchmarkSet:
  """Questions in the order of the files.

  Attributes:
    name: of the benchmark.
    samples: the questions.
    rows: makes rows of them.
    watch: is told how long the model waited for a batch, and its pictures.
  """

  name: str
  samples: tuple[Sample, ...]
  rows: instruction_rows.Rows
  watch: Callable[[float, int], None] = lambda seconds, pictures: None

  def __len__(self) -> int:
    return len(self.samples)

  @property
  def questions(self) -> tuple[Question, ...]:
    """The questions, each with the first of its answers, or ""."""
    return tuple(
      Question(sample.prompt, "".join(sample.answers[:1]), self.name)
      for sample in self.samples
    )

  @property
  def answers(self) -> tuple[str, ...]:
    """The first answer of each, or ""."""
    return tuple(question.answer for question in self.questions)

  @functools.cached_property
  def pictures(self) -> Int32[np.ndarray, "samples"]:
    """Numbers of the pictures; neighbours may share one."""
    numbers, before = [], None
    for sample in self.samples:
      same = sample.picture == before
      numbers.append((numbers[-1] if numbers else -1) + (not same))
      before = sample.picture
    return np.array(numbers, np.int32)

  @functools.cached_property
  def digests(self) -> tuple[str, ...]:
    """Of each question all that is asked and shown, as a digest."""
    return fingerprints.questions(
      ([sample.prompt, dict(sample.choices)] for sample in self.samples),
      ([sample.picture] for sample in self.samples),
    )

  @property
  def stop(self) -> tuple[int, ...]:
    """Ids that end an answer."""
    return self.rows.end_ids

  @property
  def drawn(self) -> bool:
    """Plans are not drawn on these pictures."""
    return False

  def decode(self, ids: Sequence[int]) -> str:
    """The text of an answer, up to its end; spaces at its ends go."""
    return self.rows.decode(ids)

  def batches(self, batch: int, start: int = 0) -> Iterator[dict[str, Any]]:
    """All in order; as of `instruction_batches.in_order`."""
    rows = instruction_batches.in_order(self._row, len(self), batch, start)
    while True:
      before = time.perf_counter()
      made = next(rows, None)
      if made is None:
        return
      shown = np.unique(self.pictures[made["index"]])
      self.watch(time.perf_counter() - before, len(shown))
      yield made

  def _row(self, place):
    sample = self.samples[place]
    try:
      return self.made(sample)
    except ValueError as error:
      fault = faults.Fault(sample.file, sample.row, str(error))
      raise sources.DataError(f"{self.name}, {fault}") from error

  def made(self, sample: Sample) -> dict[str, Any]:
    """The row of a sample.

    Raises:
      ValueError: it cannot be used.
    """
    return self.rows.ask(sample.id, sample.prompt, (sample.picture,))

  def unusable(self) -> dict[str, faults.Fault]:
    """Finds samples whose rows cannot be made, by their ids.

    Questions that are scored together are lost together: those of an image of
    MME, and the passes of a question of MMBench.
    """
    found = instruction_batches.unusable(self.samples, self.made)
    by_id = {self.samples[place].id: one for place, one in found.items()}
    lost = {self._scored_with(self.samples[place]) for place in found}
    for sample in self.samples:
      if sample.id not in by_id and self._scored_with(sample) in lost:
        what = "another question that is scored with it cannot be used"
        by_id[sample.id] = faults.Fault(sample.file, sample.row, what)
    return by_id

  def _scored_with(self, sample: Sample) -> Any:
    """What the questions share that are scored together."""
    if self.name == "mme":
      return sample.groups["picture"]
    return int(sample.id) % PASS if self.name == "mmbench" else sample.id
