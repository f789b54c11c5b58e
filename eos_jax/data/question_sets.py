"""Questions as batches of one model's rows: fixed sets and endless streams."""

from collections.abc import Callable, Iterator, Sequence
import dataclasses
import functools
import os
import time
from typing import Any, Protocol

import grain
import jax
from jaxtyping import Int32
import numpy as np
import tqdm

from eos_jax.data import faults as faults_lib
from eos_jax.data import fingerprints, loader, sources

# Threads that decode and preprocess images.
THREADS = min(8, os.cpu_count() or 1)


class Rows(Protocol):
  """Turns items into the arrays of static shape that one model reads.

  Attributes:
    text_length: T, tokens of text of a row.
    max_images: I, images of a row; SmolVLM counts tiles.
    end_ids: ids that end an answer.
    drawn: whether a row has one image whose tokens fill a square raster, so
      that a plan can be drawn on it.
  """

  text_length: int
  max_images: int
  end_ids: tuple[int, ...]
  drawn: bool

  def row(self, item: Any) -> dict[str, Any]:
    """Returns arrays of a question with its answers."""
    raise NotImplementedError

  def ask(self, item: Any) -> dict[str, Any]:
    """Returns arrays of a question alone."""
    raise NotImplementedError

  def decode(self, ids: Sequence[int]) -> str:
    """Returns the text of an answer."""
    raise NotImplementedError

  def facts(self) -> dict[str, Any]:
    """Returns all that turns items into arrays, as plain values."""
    raise NotImplementedError


def row_maker(
  rows: Rows, source: str = "", answered: bool = True
) -> Callable[[Any], dict[str, Any]]:
  """Returns a function from items to rows that names the item in errors.

  Args:
    rows: of the model.
    source: what the items are from, for messages.
    answered: whether rows have the answers.
  """
  make = rows.row if answered else rows.ask

  def made(item):
    try:
      return make(item)
    except ValueError as error:
      fault = faults_lib.Fault(item.file, item.row, str(error))
      raise sources.DataError(f"{source}{fault}") from error

  return made


@dataclasses.dataclass(frozen=True)
class QuestionSet:
  """A fixed list of questions to one model.

  Attributes:
    name: of the source, or of the benchmark.
    items: `items.Item` or `benchmarks.Sample`; those that show the same images
      are neighbours.
    rows: makes rows of them.
    answered: whether rows have the answers, as checks of a loss need them.
    watch: called with the seconds that the model waited for a batch, and the
      number of its images.
  """

  name: str
  items: tuple[Any, ...]
  rows: Rows
  answered: bool = True
  watch: Callable[[float, int], None] = lambda seconds, images: None

  def __len__(self) -> int:
    return len(self.items)

  @property
  def text_length(self) -> int:
    """T."""
    return self.rows.text_length

  @property
  def tasks(self) -> tuple[str, ...]:
    """The task of each question."""
    return tuple(item.task or self.name for item in self.items)

  @property
  def answers(self) -> tuple[str, ...]:
    """The expected answers; "" where they are not known."""
    return tuple(item.answer for item in self.items)

  @property
  def stop(self) -> tuple[int, ...]:
    """Ids that end an answer."""
    return self.rows.end_ids

  @property
  def drawn(self) -> bool:
    """Whether plans can be drawn on the images."""
    return self.rows.drawn

  @functools.cached_property
  def image_ids(self) -> Int32[np.ndarray, "items"]:
    """The number of what each question shows; equal for the same images."""
    numbers: dict[Any, int] = {}
    return np.array(
      [numbers.setdefault(item.images, len(numbers)) for item in self.items],
      np.int32,
    )

  @functools.cached_property
  def digests(self) -> tuple[str, ...]:
    """A digest of all that is asked and shown, for each question."""
    return fingerprints.questions(self.items, answers=False)

  def digest(self) -> str:
    """Returns a digest of all that is asked, shown and expected."""
    return fingerprints.digest(fingerprints.questions(self.items, answers=True))

  def decode(self, ids: Sequence[int]) -> str:
    """Returns the text of an answer, without what follows its end."""
    return self.rows.decode(ids)

  def batches(self, batch: int, start: int = 0) -> Iterator[dict[str, Any]]:
    """Yields all rows in order, the last batch filled up; see `in_order`."""
    source = f"{self.name}, " if self.items[0].file else ""
    make = row_maker(self.rows, source, self.answered)
    made = in_order(
      lambda place: make(self.items[place]), len(self), batch, start
    )
    while True:
      before = time.perf_counter()
      rows = next(made, None)
      if rows is None:
        return
      shown = np.unique(self.image_ids[rows["index"]])
      self.watch(time.perf_counter() - before, len(shown))
      yield rows

  def unusable(self) -> dict[int, faults_lib.Fault]:
    """Returns the items whose rows cannot be made, by their places."""
    make = self.rows.row if self.answered else self.rows.ask
    return unusable(self.items, make)


def unusable(
  items: Sequence[Any], make: Callable[[Any], Any]
) -> dict[int, faults_lib.Fault]:
  """Makes the row of every item once, to find those that cannot be used.

  Damaged images and texts that are too long show only then. Several threads
  make rows; none is kept.

  Args:
    items: with the attributes of `items.Item`.
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


def in_order(
  make: Callable[[int], dict[str, Any]], count: int, batch: int, start: int
) -> Iterator[dict[str, Any]]:
  """Yields a fixed number of rows as batches, the last one filled up.

  Rows are made by several threads, up to two batches ahead.

  Args:
    make: makes the row of a number; called by several threads.
    count: number of rows.
    batch: rows a batch.
    start: number of batches to skip.

  Yields:
    What `make` returns with a leading axis B, valid bool `[B]` (False where a
    row only fills the batch up) and index int32 `[B]`.

  Raises:
    sources.DataError: a row or its image cannot be used.
  """
  first = start * batch
  # Rows that fill up a batch are not made again.
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


def stream(
  items: Sequence[Any], rows: Rows, seed: int, *, source: str = ""
) -> grain.MapDataset:
  """Returns an endless dataset of rows, shuffled anew each epoch.

  Args:
    items: to draw from; at least one.
    rows: of the model.
    seed: the order is a function of it.
    source: what the items are from, for messages.
  """
  make = row_maker(rows, source)
  places = grain.MapDataset.range(len(items)).seed(seed).shuffle().repeat()
  return places.map(lambda place: make(items[int(place)]))


def batches(
  dataset: grain.MapDataset,
  beside: grain.MapDataset | None = None,
  *,
  batch: int,
  process_index: int = 0,
  process_count: int = 1,
  threads: int = THREADS,
) -> loader.Batches:
  """Returns endless batches of rows.

  Args:
    dataset: endless, of rows.
    beside: rows of a second batch that comes with each, such as those of
      another split; the batches are then pairs.
    batch: rows a batch, of this process.
    process_index: which part of the stream to read.
    process_count: into how many parts the stream is cut.
    threads: that make rows.

  Returns:
    Iterator over rows with a leading axis B. It raises `sources.DataError`
    where an item or its image cannot be used.
  """
  if beside is not None:
    dataset = grain.experimental.ZipMapDataset([dataset, beside])
  return loader.Batches(
    dataset,
    batch,
    process_index=process_index,
    process_count=process_count,
    threads=threads,
  )


def chosen(items: Sequence[Any], count: int, seed: int) -> tuple[Any, ...]:
  """Returns a fixed choice of items; those of the same images are neighbours.

  Args:
    items: to choose from.
    count: how many at most; 0 = all.
    seed: which; the same seed gives the same ones.
  """
  order = np.random.default_rng(seed).permutation(len(items))[: count or None]
  first: dict[Any, int] = {}
  for place, item in enumerate(items):
    first.setdefault(item.images, place)
  order = sorted(order, key=lambda place: (first[items[place].images], place))
  return tuple(items[place] for place in order)
