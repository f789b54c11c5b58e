"""Batches from sources, made by grain, that resume where they stopped.

Every function for training returns `Batches`: endless, shuffled anew each
epoch, a function of the seed alone. Save their `position` beside the train
state, and `seek` it with fresh ones, be it in another number of processes.
"""

from collections.abc import Iterable, Iterator, Sequence
import dataclasses
import functools
from typing import Any

import grain
from jaxtyping import Int32, UInt8
import numpy as np
from PIL import Image

from eos_jax.data import grounding, labels, packing
from eos_jax.data import sources as sources_lib
from eos_jax.data import tokenizer as tokenizer_lib

_NO_PATCHES = np.zeros(
  (labels.GRID, labels.GRID, labels.PATCH_CHANNELS), np.uint8
)
_VALID = {easy: labels.scene_valid(easy) for easy in (False, True)}
_EASY_SECTIONS = [
  labels.SCENE_SECTIONS[name] for name in ("easy_shape", "easy_color")
]


def sized(
  image: UInt8[np.ndarray, "height width 3"],
) -> UInt8[np.ndarray, "96 96 3"]:
  """The picture at 96 x 96 (bicubic), uint8 `[SIDE, SIDE, 3]`."""
  if image.shape[:2] == (labels.SIDE, labels.SIDE):
    return image
  return np.asarray(
    Image.fromarray(image).resize(
      (labels.SIDE, labels.SIDE), Image.Resampling.BICUBIC
    )
  )


def _mixed(sources, weights, seed: int) -> grain.MapDataset:
  """An endless, shuffled mixture of records."""
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
    "image": sized(record.image),
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
  dataset = _mixed(sources, weights, seed).map(_vision_example)
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
    return {"image": sized(record.image), **row}

  dataset = _mixed(sources, weights, seed).seed(seed).random_map(example)
  return Batches(
    dataset,
    batch,
    process_index=process_index,
    process_count=process_count,
    workers=workers,
  )


def question_batches(
  sources: Iterable[sources_lib.Source],
  tokenizer: tokenizer_lib.Tokenizer,
  *,
  beside: Iterable[sources_lib.Source] | None = None,
  batch: int,
  seed: int,
  text_length: int = packing.DEFAULT_TEXT_LENGTH,
  weights: Sequence[float] | None = None,
  process_index: int = 0,
  process_count: int = 1,
  workers: int = 0,
) -> Batches:
  """Pictures with one random question each.

  Args:
    sources: what to mix.
    tokenizer: encodes questions and answers.
    beside: what to mix for a second batch that comes with each, such as those
      of another split; the batches are then pairs.
    batch: pictures a batch, of this process.
    seed: the batches are a function of it.
    text_length: T.
    weights: share of each source; by default every picture is as likely.
      They are those of `beside` too.
    process_index: which part of the stream to read, in 0..process_count - 1.
    process_count: into how many parts the stream is cut.
    workers: grain worker processes (they need absl flags to be parsed).

  Returns:
    Iterator over dicts: image uint8 `[B, SIDE, SIDE, 3]`, tokens int32
    `[B, T]`, mask bool `[B, T]`, prompt_length int32 `[B]`, loss_mask bool
    `[B, T]`, task int32 `[B]`, as described at `packing.question_row`. With
    `beside`, over pairs of such dicts.
  """
  dataset, *others = (
    _questions(part, tokenizer, seed, text_length, weights)
    for part in (sources, beside)
    if part is not None
  )
  if others:
    dataset = grain.experimental.ZipMapDataset([dataset, *others])
  return Batches(
    dataset,
    batch,
    process_index=process_index,
    process_count=process_count,
    workers=workers,
  )


def _questions(sources, tokenizer, seed, text_length, weights):
  """An endless, shuffled stream of single questions."""

  def example(record: sources_lib.Record, rng: np.random.Generator):
    question = record.questions[rng.integers(len(record.questions))]
    row = packing.question_row(tokenizer, question, text_length=text_length)
    return {"image": sized(record.image), **row}

  return _mixed(sources, weights, seed).seed(seed).random_map(example)


@dataclasses.dataclass(frozen=True)
class EvaluationSet:
  """A fixed list of questions; see `evaluation_set`.

  Attributes:
    sources: where the pictures are.
    items: for each question its source, its picture and the question itself.
    tokenizer: encodes questions and answers.
    text_length: T.
  """

  sources: tuple[sources_lib.Source, ...]
  items: tuple[tuple[int, int, sources_lib.Question], ...]
  tokenizer: tokenizer_lib.Tokenizer
  text_length: int

  def __len__(self) -> int:
    return len(self.items)

  @property
  def questions(self) -> tuple[sources_lib.Question, ...]:
    """The questions, in the order of the batches."""
    return tuple(question for _, _, question in self.items)

  @property
  def answers(self) -> tuple[str, ...]:
    """The right answers, in the order of the batches."""
    return tuple(question.answer for question in self.questions)

  @property
  def stop(self) -> tuple[int, ...]:
    """Ids that end an answer."""
    return (self.tokenizer.eos_id,)

  @property
  def drawn(self) -> bool:
    """Whether plans can be drawn on the pictures: one a question, a square."""
    return True

  def decode(self, ids: Sequence[int]) -> str:
    """The text of an answer."""
    return self.tokenizer.decode(ids)

  @functools.cached_property
  def pictures(self) -> Int32[np.ndarray, "questions"]:
    """Number of each question's picture; questions of one are neighbours."""
    numbers: dict[tuple[int, int], int] = {}
    return np.array(
      [numbers.setdefault(item[:2], len(numbers)) for item in self.items],
      np.int32,
    )

  def batches(
    self, batch: int, start: int = 0
  ) -> Iterator[dict[str, np.ndarray]]:
    """All questions in order, the last batch filled up.

    Args:
      batch: questions a batch.
      start: number of batches to pass over.

    Yields:
      Dicts as of `question_batches`, and valid bool `[B]` (False where a row
      only fills the batch up) and index int32 `[B]` (place in `items`).
    """
    for first in range(start * batch, len(self), batch):
      places = np.arange(first, first + batch)
      valid = places < len(self)
      places = np.minimum(places, len(self) - 1)
      rows, images = [], {}
      for place in places:
        source, picture, question = self.items[place]
        if (source, picture) not in images:
          image = self.sources[source][picture].image
          images[source, picture] = sized(image)
        row = packing.question_row(
          self.tokenizer, question, text_length=self.text_length
        )
        rows.append({"image": images[source, picture], **row})
      out = {key: np.stack([row[key] for row in rows]) for key in rows[0]}
      yield {**out, "valid": valid, "index": places.astype(np.int32)}


def _stratified(by_task: dict[str, list], count: int, seed: int) -> list:
  """`count` entries, equally many of each task as far as there are any."""
  rng = np.random.default_rng(seed)
  shuffled = {
    task: [entries[i] for i in rng.permutation(len(entries))]
    for task, entries in sorted(by_task.items())
  }
  out = []
  # The scarcest task first: what it lacks is shared among the others.
  by_size = sorted(shuffled.values(), key=len)
  for place, entries in enumerate(by_size):
    share = -(-(count - len(out)) // (len(by_size) - place))
    out += entries[:share]
  return out


def evaluation_set(
  sources: Iterable[sources_lib.Source],
  tokenizer: tokenizer_lib.Tokenizer,
  *,
  count: int | None,
  seed: int,
  text_length: int = packing.DEFAULT_TEXT_LENGTH,
) -> EvaluationSet:
  """A fixed list of questions, equally many of each task.

  Args:
    sources: where to take questions from, usually test or validation splits.
    tokenizer: encodes questions and answers.
    count: how many questions; None is all of them, unbalanced as they are.
    seed: which questions; the same seed gives the same ones.
    text_length: T.

  Returns:
    An `EvaluationSet`, in the order of the pictures.
  """
  sources = tuple(sources)
  by_task: dict[str, list] = {}
  for place, source in enumerate(sources):
    for picture in range(len(source)):
      for number, question in enumerate(source.questions_of(picture)):
        entry = (place, picture, number, question)
        by_task.setdefault(question.task, []).append(entry)
  total = sum(len(entries) for entries in by_task.values())
  if not total:
    raise ValueError("sources have no questions: give at least one source")
  if count is not None and not 0 < count <= total:
    raise ValueError(f"count {count} is not in 1..{total}, what there is")
  chosen = _stratified(by_task, total if count is None else count, seed)
  items = tuple((s, p, q) for s, p, _, q in sorted(chosen))
  return EvaluationSet(sources, items, tokenizer, text_length)
