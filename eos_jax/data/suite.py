"""The rendered suite and easy-VQA as questions to a model."""

from collections.abc import Mapping, Sequence
import dataclasses
import errno
import functools
import os
import pathlib
import stat
from typing import Any

import grain
import numpy as np

from eos_jax import naming
from eos_jax.data import (
  easy_vqa,
  generator,
  items,
  loader,
  mini_suite,
  packing,
  question_sets,
  sources,
)

# Of the mixture, in the order of `sources.NAMES`.
MIXTURE = (0.85, 0.15)
# What models of the field are asked, so that they answer in a word.
_SHORT = "\nAnswer the question using a single word or phrase."


@dataclasses.dataclass(frozen=True)
class _Image:
  """An image of a source, decoded when it is used."""

  source: sources.Source
  index: int

  def open(self) -> np.ndarray:
    """Returns the decoded image."""
    return self.source[self.index].image

  def digest(self) -> str:
    """Returns what identifies the image: the generator draws it."""
    source = self.source
    return f"{source.name}/{source.generator_hash}/{source.split}/{self.index}"


class Suite:
  """Questions of the rendered suite and easy-VQA; see `data.Questions`.

  Attributes:
    name: "suite".
    rows: of the model.
    parts: the splits that there are.
  """

  name = "suite"

  def __init__(
    self,
    rows: question_sets.Rows,
    *,
    suite: str = "default",
    directory: str = "",
    mixture: Sequence[float] = MIXTURE,
  ):
    """Renders nothing yet.

    Args:
      rows: of the model.
      suite: builder config of `mini_suite`, such as "default".
      directory: where prepared data are kept; "" = where tfds keeps them.
      mixture: share of each of `sources.NAMES` in streams.

    Raises:
      ValueError: the rows of "tiny" are too short.
    """
    if rows.drawn and rows.text_length < packing.DEFAULT_TEXT_LENGTH:
      raise ValueError(
        f"text_length is {rows.text_length}, and questions of the suite have up"
        f" to {packing.DEFAULT_TEXT_LENGTH} tokens; use"
        f" {packing.DEFAULT_TEXT_LENGTH} or more"
      )
    self.rows = rows
    self._suite, self._directory = suite, directory
    self._mixture = tuple(mixture)
    self.parts = tuple(mini_suite.COUNTS[suite])
    # The tiny model was trained on the questions as they are.
    self._suffix = "" if rows.drawn else _SHORT

  def faults(self, asked: Mapping[str, tuple[int, str]]) -> list[str]:
    """Returns what is wrong with the directory and the numbers of questions.

    Args:
      asked: by field the number of questions and the split.
    """
    found = []
    if reason := _unusable(self._directory):
      found.append(
        f"config.data.directory is {naming.quoted(self._directory)}, which"
        f" cannot be made ({reason}); choose another directory, or change its"
        " permissions"
      )
    for field, (count, part) in asked.items():
      if part not in self.parts:
        continue
      known = mini_suite.QUESTIONS[self._suite][part] + easy_vqa.QUESTIONS[part]
      if count > known:
        found.append(
          f"config.{field} is {count}; the {part} split of"
          f" config.data.suite={self._suite!r} has {known} questions, use at"
          " most so many"
        )
    return found

  def dataset(self, part: str, seed: int) -> grain.MapDataset:
    """Returns an endless dataset of rows: a random question of each image."""

    def draw(record, rng):
      return self._item(
        record.questions[rng.integers(len(record.questions))], record.image
      )

    mixed = loader.mixed(self.open(part), self._mixture, seed)
    rows = question_sets.row_maker(self.rows)
    return mixed.seed(seed).random_map(draw).map(rows)

  def choose(
    self, part: str, *, count: int, seed: int
  ) -> tuple[question_sets.QuestionSet, ...]:
    """Returns a fixed set of questions, equally many of each task.

    Args:
      part: the split.
      count: how many; 0 = all, unbalanced as they are.
      seed: which; the same seed gives the same ones.
    """
    by_task: dict[str, list[Any]] = {}
    for place, source in enumerate(self.open(part)):
      for index in range(len(source)):
        for number, question in enumerate(source.questions_of(index)):
          entry = (place, index, number, source, question)
          by_task.setdefault(question.task, []).append(entry)
    total = sum(map(len, by_task.values()))
    entries = stratified(by_task, count or total, seed)
    entries.sort(key=lambda entry: entry[:3])
    chosen = tuple(
      self._item(question, _Image(source, index))
      for _, index, _, source, question in entries
    )
    return (question_sets.QuestionSet(self.name, chosen, self.rows),)

  def _item(self, question, image):
    return items.Item(
      name=question.question,
      question=question.question + self._suffix,
      answer=question.answer,
      images=(image,),
      task=question.task,
    )

  @functools.cached_property
  def identity(self) -> dict[str, Any]:
    """What the questions depend on, as plain values."""
    return {"generator": generator.generator_hash(), "suite": self._suite}

  def searched_on(self, parts: Sequence[str]) -> dict[str, Any]:
    """Returns what streams of parts depend on, as plain values."""
    del parts
    return self.identity

  def summary(self, parts: Sequence[str]) -> str:
    """Returns what is read, in a line."""
    opened = [source for part in parts for source in self.open(part)]
    return "data: " + ", ".join(
      f"{source.name}/{source.split} {len(source):,} images"
      for source in opened
    )

  def open(self, part: str, keep: bool = False) -> list[sources.Source]:
    """Opens a split of both data sets, which are built on first use.

    Args:
      part: the split.
      keep: whether decoded images stay in memory.
    """
    return [
      sources.load(
        name,
        part,
        data_dir=self._directory or None,
        config=self._suite if name == "mini_suite" else "default",
        keep=keep,
      )
      for name in sources.NAMES
    ]


def _unusable(name: str) -> str:
  """Says why a folder cannot be there or be made; "" = no reason is known."""
  path = pathlib.Path(name).absolute()
  if not name or "://" in name:  # the default of tfds, or no local folder
    return ""
  for parent in (path, *path.parents):
    try:
      made = stat.S_ISDIR(os.stat(parent).st_mode)
    except FileNotFoundError:
      continue
    except OSError as error:
      return error.strerror
    if not made:
      return os.strerror(errno.ENOTDIR)
    if parent != path and not os.access(parent, os.W_OK | os.X_OK):
      return os.strerror(errno.EACCES)
    break
  return ""


def stratified(by_task: dict[str, list[Any]], count: int, seed: int) -> list:
  """Returns `count` entries, equally many of each task as far as possible."""
  rng = np.random.default_rng(seed)
  shuffled = {
    task: [entries[i] for i in rng.permutation(len(entries))]
    for task, entries in sorted(by_task.items())
  }
  out: list[Any] = []
  # The scarcest task first: what it lacks is shared among the others.
  by_size = sorted(shuffled.values(), key=len)
  for place, entries in enumerate(by_size):
    share = -(-(count - len(out)) // (len(by_size) - place))
    out += entries[:share]
  return out
