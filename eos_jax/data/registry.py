"""Sources of questions by the name that a config uses.

A source is an object with the attributes of `Questions`. A new one is a module
and a line in `SOURCES`, or a call of `register`.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import grain

from eos_jax.data import item_questions, suite
from eos_jax.data.benchmarks import source as benchmark_source
from eos_jax.data.question_sets import QuestionSet, Rows


class Questions(Protocol):
  """Questions to one model, for training, validation and test.

  Attributes:
    name: of the source.
    rows: turns items into the arrays of the model.
    parts: of "train", "validation" and "test" those that there are.
    identity: what the questions depend on, as plain values.
  """

  name: str
  rows: Rows
  parts: tuple[str, ...]
  identity: Mapping[str, Any]

  def faults(self, asked: Mapping[str, tuple[int, str]]) -> list[str]:
    """Returns what is wrong with (number, part) by field, a line each."""
    raise NotImplementedError

  def dataset(self, part: str, seed: int) -> grain.MapDataset:
    """Returns an endless dataset of rows, for `question_sets.batches`."""
    raise NotImplementedError

  def choose(
    self, part: str, *, count: int, seed: int
  ) -> tuple[QuestionSet, ...]:
    """Returns fixed sets of at most `count` questions; 0 = all."""
    raise NotImplementedError

  def searched_on(self, parts: Sequence[str]) -> dict[str, Any]:
    """Returns what the streams of parts depend on, as plain values."""
    raise NotImplementedError

  def summary(self, parts: Sequence[str]) -> str:
    """Returns what is read, in words."""
    raise NotImplementedError


Load = Callable[[Any, Rows], Questions]


def _suite(settings, rows):
  return suite.Suite(
    rows,
    suite=settings.suite,
    directory=settings.directory,
    mixture=settings.mixture,
  )


def _instructions(settings, rows):
  return item_questions.from_file(
    settings.path,
    rows,
    settings.shares,
    images=settings.images,
    skip_invalid=settings.skip_invalid,
    images_anywhere=settings.images_anywhere,
  )


def _benchmarks(settings, rows):
  return benchmark_source.from_folder(
    settings.path,
    settings.names,
    rows,
    protocol=settings.protocol,
    files=settings.files_by_name,
    count=settings.count,
    skip_invalid=settings.skip_invalid,
    images_anywhere=settings.images_anywhere,
  )


# By the name of `config.data.source`.
SOURCES: dict[str, Load] = {
  "suite": _suite,
  "instructions": _instructions,
  "benchmarks": _benchmarks,
}


def register(name: str, load_source: Load) -> None:
  """Adds a source of questions.

  Args:
    name: that `config.data.source` uses.
    load_source: makes `Questions` from `config.data` and the rows of a model.
  """
  if name in SOURCES:
    raise ValueError(f"the source {name!r} is there already; use another name")
  SOURCES[name] = load_source


def load(settings: Any, rows: Rows) -> Questions:
  """Opens the questions that `config.data` names, for one model.

  Args:
    settings: `training.data_settings.DataSettings`, or an object with the same
      fields.
    rows: of the model, see `models.ModelFiles.rows`.

  Raises:
    ValueError, sources.DataError: files or rows cannot be used.
  """
  if ":" in settings.source:
    return item_questions.from_function(
      settings.source, rows, skip_invalid=settings.skip_invalid
    )
  return SOURCES[settings.source](settings, rows)
