"""Batches from sources, made by grain, that resume where they stopped.

Every function for training returns `Batches`: endless, shuffled anew each
epoch, a function of the seed alone. Save their `position` with the train
state, and `seek` it with fresh ones, be it in another number of processes.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import grain
import numpy as np

from eos_jax.data import grounding, labels, packing, tiny_rows
from eos_jax.data import sources as sources_lib
from eos_jax.data import tokenizer as tokenizer_lib

_NO_PATCHES = np.zeros(
  (labels.GRID, labels.GRID, labels.PATCH_CHANNELS), np.uint8
)
_VALID = {easy: labels.scene_valid(easy) for easy in (False, True)}
_EASY_SECTIONS = [
  labels.SCENE_SECTIONS[name] for name in ("easy_shape", "easy_color")
]


def mixed(sources, weights, seed: int) -> grain.MapDataset:
  """Returns an endless, shuffled mixture of records."""
  sources = list(sources)
  if not sources:
    raise ValueError("sources is empty: give at least one")
  if weights is not None and len(weights) != len(sources):
    raise ValueError(
      f"weights has {len(weights)} entries for {len(sources)} sources: give"
      " one a source"
    )
  # By default every picture is as likely as any other.
  weights = weights or [len(source) for source in sources]
  parts = [
    grain.MapDataset.source(source).seed(seed + place).shuffle().repeat()
    for place, source in enumerate(sources)
    if weights[place]
  ]
  if len(parts) == 1:
    return parts[0]
  weights = [weight for weight in weights if weight]
  total = float(sum(weights))
  return grain.MapDataset.mix(parts, [weight / total for weight in weights])


class Batches(Iterator[Any]):
  """Endless batches of one process; where it stands is a number.

  That number means the same however many processes read the stream, so that a
  run may go on with others.

  Attributes:
    position: batches drawn so far.
  """

  def __init__(
    self,
    dataset: grain.MapDataset,
    batch: int,
    *,
    process_index: int = 0,
    process_count: int = 1,
    workers: int = 0,
    threads: int = 1,
  ):
    """Reads nothing yet.

    Args:
      dataset: endless, of trees of arrays.
      batch: examples a batch, of this process.
      process_index: which part of the stream to read, in 0..process_count - 1.
      process_count: into how many parts the stream is cut.
      workers: grain worker processes (they need absl flags to be parsed).
      threads: that make examples; more pay where most of it is decoding of
        pictures, which leaves Python's lock.
    """
    if not 0 <= process_index < process_count:
      raise ValueError(
        f"process_index {process_index} is not in 0..{process_count - 1}"
      )
    self._dataset, self._batch = dataset, batch
    self._index, self._count = process_index, process_count
    self._workers, self._threads = workers, threads
    self.seek(0)

  def seek(self, position: int) -> None:
    """Goes to where `position` batches have been drawn."""
    self.position = position
    self._stream: grain.DatasetIterator | None = None

  def _opened(self) -> grain.DatasetIterator:
    start = self.position * self._batch * self._count + self._index
    options = grain.ReadOptions(
      self._threads, prefetch_buffer_size=2 * self._batch
    )
    part = self._dataset[start :: self._count].to_iter_dataset(options)
    stream = part.batch(self._batch, drop_remainder=True)
    if self._workers:
      stream = stream.mp_prefetch(
        grain.MultiprocessingOptions(num_workers=self._workers)
      )
    return iter(stream)

  def __next__(self) -> Any:
    """The next batch, a tree of arrays with a leading axis."""
    if self._stream is None:
      self._stream = self._opened()
    drawn = next(self._stream)
    self.position += 1
    return drawn


def _vision_example(record: sources_lib.Record) -> dict[str, np.ndarray]:
  easy = record.patch_labels is None
  valid = _VALID[easy].copy()
  if easy:
    # Some pictures' questions do not tell what the shape or its colour is.
    for section in _EASY_SECTIONS:
      valid[section] = record.scene_labels[section].any()
  return {
    "image": tiny_rows.small(record.image),
    "patch_labels": _NO_PATCHES if easy else record.patch_labels,
    "patch_valid": np.bool_(not easy),
    "scene_labels": record.scene_labels,
    "scene_valid": valid,
  }


def vision_batches(
  sources: Iterable[sources_lib.Source],
  *,
  batch: int,
  seed: int,
  weights: Sequence[float] | None = None,
  process_index: int = 0,
  process_count: int = 1,
  workers: int = 0,
) -> Batches:
  """Pictures with labels of their patches and of the whole.

  Args:
    sources: what to mix.
    batch: pictures a batch, of this process.
    seed: the batches are a function of it.
    weights: share of each source; by default every picture is as likely.
    process_index: which part of the stream to read, in 0..process_count - 1.
    process_count: into how many parts the stream is cut.
    workers: grain worker processes (they need absl flags to be parsed).

  Returns:
    Iterator over dicts: image uint8 `[B, SIDE, SIDE, 3]`, patch_labels uint8
    `[B, GRID, GRID, PATCH_CHANNELS]`, patch_valid bool `[B]`, scene_labels
    uint8 `[B, NUM_SCENE]`, scene_valid bool `[B, NUM_SCENE]`.
  """
  dataset = mixed(sources, weights, seed).map(_vision_example)
  return Batches(
    dataset,
    batch,
    process_index=process_index,
    process_count=process_count,
    workers=workers,
  )


def packed_batches(
  sources: Iterable[sources_lib.Source],
  tokenizer: tokenizer_lib.Tokenizer,
  *,
  batch: int,
  seed: int,
  questions: int = packing.DEFAULT_QUESTIONS,
  text_length: int = packing.DEFAULT_PACKED_LENGTH,
  places: int = 0,
  sides: bool = False,
  weights: Sequence[float] | None = None,
  process_index: int = 0,
  process_count: int = 1,
  workers: int = 0,
) -> Batches:
  """Pictures with several random questions each, packed in one sequence.

  Args:
    sources: what to mix.
    tokenizer: encodes questions and answers.
    batch: pictures a batch, of this process.
    seed: the batches are a function of it.
    questions: how many questions to draw of a picture.
    text_length: T; questions that do not fit any more are left out.
    places: how many questions about places (`data.grounding`) to add to those
      of a picture before drawing.
    sides: ask for nothing but which side an object is on, at most `places`
      times; pictures without such questions keep their own.
    weights: share of each source; by default every picture is as likely.
    process_index: which part of the stream to read, in 0..process_count - 1.
    process_count: into how many parts the stream is cut.
    workers: grain worker processes (they need absl flags to be parsed).

  Returns:
    Iterator over dicts: image uint8 `[B, SIDE, SIDE, 3]`, and `[B, T]` arrays
    tokens, segments, positions (int32) and loss_mask (bool) as described at
    `packing.packed_row`.
  """

  def example(record: sources_lib.Record, rng: np.random.Generator):
    known = []
    if places and record.patch_labels is not None:
      known = grounding.questions(
        record.patch_labels, rng, count=places, sides=sides
      )
    if not (sides and known):
      known += record.questions
    chosen = [known[i] for i in rng.permutation(len(known))[:questions]]
    row = packing.packed_row(tokenizer, chosen, text_length=text_length)
    return {"image": tiny_rows.small(record.image), **row}

  dataset = mixed(sources, weights, seed).seed(seed).random_map(example)
  return Batches(
    dataset,
    batch,
    process_index=process_index,
    process_count=process_count,
    workers=workers,
  )
