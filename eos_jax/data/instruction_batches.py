"""Instructions as batches: endless ones to search on, and fixed sets to judge.

The counterparts of `loader.question_batches` and `loader.EvaluationSet` for
models and data of the user.
"""

from collections.abc import Callable, Iterator, Sequence
import dataclasses
import functools
import os
from typing import Any

import grain
import jax
from jaxtyping import Int32
import numpy as np
import tqdm

from eos_jax.data import faults as faults_lib
from eos_jax.data import instruction_rows, instructions, loader, sources
from eos_jax.data.questions import Question

# Instructions have no kinds: all of them are one task.
TASK = "instructions"
# That read and preprocess pictures.
THREADS = min(8, os.cpu_count() or 1)


class _Source:
  """Rows of a list of instructions, made when they are asked for."""

  def __init__(self, rows, items):
    self._rows, self._items = rows, items

  def __len__(self) -> int:
    return len(self._items)

  def __getitem__(self, place) -> dict[str, Any]:
    return _row(self._rows, self._items[int(place)])


def _row(rows, item):
  try:
    return rows.row(item)
  except ValueError as error:
    fault = faults_lib.Fault(item.file, item.row, str(error))
    raise sources.DataError(str(fault)) from error


def unusable(
  items: Sequence[Any], make: Callable[[Any], Any]
) -> dict[int, faults_lib.Fault]:
  """Makes the row of every item once, to find those that cannot be used.

  Images that are damaged and texts that are too long show only then. Several
  threads make rows; none is kept.

  Args:
    items: instructions, or samples of a benchmark.
    make: makes the row of one, or raises ValueError.

  Returns:
    The faults by the places of their items.
  """

  def fault(place):
    try:
      make(items[place])
    except ValueError as error:
      item = items[place]
      return faults_lib.Fault(item.file, item.row, str(error))
    return ""

  found = (
    grain.MapDataset.range(len(items))
    .map(lambda place: fault(int(place)))
    .to_iter_dataset(grain.ReadOptions(THREADS, prefetch_buffer_size=64))
  )
  with tqdm.tqdm(
    found, "checking rows", len(items), delay=5, dynamic_ncols=True
  ) as checked:
    return {place: one for place, one in enumerate(checked) if one}


def usable(
  data: instructions.Instructions, rows: instruction_rows.Rows
) -> instructions.Instructions:
  """Sets instructions apart whose rows cannot be made.

  Raises:
    sources.DataError: none is left for a purpose.
  """
  parts, faults = {}, []
  for name, items in data.parts.items():
    lost = unusable(items, rows.row)
    if len(lost) == len(items):
      said = faults_lib.listed(tuple(lost.values()))
      raise sources.DataError(f"no entry is left for {name!r}: {said}")
    kept = (item for place, item in enumerate(items) if place not in lost)
    parts[name] = tuple(kept)
    faults += lost.values()
  faults = sorted((*data.faults, *faults), key=lambda fault: fault.row)
  return dataclasses.replace(data, parts=parts, faults=tuple(faults))


def batches(
  items: Sequence[instructions.Instruction],
  rows: instruction_rows.Rows,
  *,
  batch: int,
  seed: int,
  beside: Sequence[instructions.Instruction] | None = None,
  process_index: int = 0,
  process_count: int = 1,
) -> loader.Batches:
  """Endless batches, shuffled anew each epoch.

  Args:
    items: the instructions; at least one.
    rows: makes rows of them.
    batch: instructions a batch, of this process.
    seed: the batches are a function of it.
    beside: instructions of a second batch that comes with each, such as those
      of another split; the batches are then pairs.
    process_index: which part of the stream to read, in 0..process_count - 1.
    process_count: into how many parts the stream is cut.

  Returns:
    Iterator over what `Rows.row` returns with a leading axis B. It raises
    `sources.DataError` where an instruction or its picture cannot be used.
  """
  streams = [
    grain.MapDataset.source(_Source(rows, part)).seed(seed).shuffle().repeat()
    for part in (items, beside)
    if part is not None
  ]
  dataset = streams[0]
  if beside is not None:
    dataset = grain.experimental.ZipMapDataset(streams)
  return loader.Batches(
    dataset,
    batch,
    process_index=process_index,
    process_count=process_count,
    threads=THREADS,
  )


@dataclasses.dataclass(frozen=True)
class InstructionSet:
  """A fixed list of instructions; see `chosen`.

  Attributes:
    items: the instructions; those with the same pictures are neighbours.
    rows: makes rows of them.
  """

  items: tuple[instructions.Instruction, ...]
  rows: instruction_rows.Rows

  def __len__(self) -> int:
    return len(self.items)

  @property
  def text_length(self) -> int:
    """T."""
    return self.rows.text_length

  @property
  def questions(self) -> tuple[Question, ...]:
    """The questions, in the order of the batches."""
    return tuple(Question(i.question, i.answer, TASK) for i in self.items)

  @property
  def answers(self) -> tuple[str, ...]:
    """The answers that are wanted, in the order of the batches."""
    return tuple(item.answer for item in self.items)

  @property
  def stop(self) -> tuple[int, ...]:
    """Ids that end an answer."""
    return self.rows.end_ids

  @property
  def drawn(self) -> bool:
    """Whether plans can be drawn on the pictures: tiles have no one square."""
    return False

  @functools.cached_property
  def pictures(self) -> Int32[np.ndarray, "items"]:
    """Number of what each instruction shows."""
    numbers: dict[Any, int] = {}
    return np.array(
      [numbers.setdefault(item.pictures, len(numbers)) for item in self.items],
      np.int32,
    )

  def decode(self, ids: Sequence[int]) -> str:
    """The text of an answer, up to its end; spaces at its ends go."""
    return self.rows.decode(ids)

  def batches(self, batch: int, start: int = 0) -> Iterator[dict[str, Any]]:
    """All in order, the last batch filled up; as of `in_order`."""
    make = lambda place: _row(self.rows, self.items[place])
    return in_order(make, len(self), batch, start)


def in_order(
  make: Callable[[int], dict[str, Any]], count: int, batch: int, start: int
) -> Iterator[dict[str, Any]]:
  """A fixed number of rows as batches, the last one filled up.

  Rows are made by several threads, up to two batches ahead.

  Args:
    make: the row of a number; called by several threads.
    count: of all rows.
    batch: rows a batch.
    start: number of batches to pass over.

  Yields:
    What `make` returns with a leading axis B, valid bool `[B]` (False where a
    row only fills the batch up) and index int32 `[B]`.

  Raises:
    sources.DataError: a row or its picture cannot be used.
  """
  first = start * batch
  # What fills up is not made again.
  rows = iter(
    grain.MapDataset.range(first, count)
    .map(lambda place: make(int(place)))
    .to_iter_dataset(grain.ReadOptions(THREADS, prefetch_buffer_size=2 * batch))
  )
  for start in range(first, count, batch):
    index = np.arange(start, start + batch, dtype=np.int32)
    valid = index < count
    made = [next(rows) for _ in range(valid.sum())]
    made += made[-1:] * (batch - len(made))
    whole = jax.tree.map(lambda *leaves: np.stack(leaves), *made)
    yield {**whole, "valid": valid, "index": np.minimum(index, count - 1)}


def chosen(
  items: Sequence[instructions.Instruction],
  rows: instruction_rows.Rows,
  *,
  count: int | None,
  seed: int,
) -> InstructionSet:
  """A fixed list of instructions.

  Args:
    items: to choose from.
    rows: makes rows of them.
    count: how many at most; None = all.
    seed: which; the same seed gives the same ones.
  """
  order = np.random.default_rng(seed).permutation(len(items))[:count]
  order = sorted(order, key=lambda place: (items[place].pictures, place))
  return InstructionSet(tuple(items[place] for place in order), rows)
