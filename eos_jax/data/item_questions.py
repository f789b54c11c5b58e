"""Questions of the user's own: instruction files, and Python functions."""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import hashlib
import importlib
import pathlib
from typing import Any

import grain

from eos_jax import files, naming
from eos_jax.data import faults as faults_lib
from eos_jax.data import (
  fingerprints,
  instructions,
  items,
  question_sets,
  sources,
)

PARTS = ("train", "validation", "test")


class ItemQuestions:
  """Lists of items for each purpose; see `data.Questions`.

  Attributes:
    name: of the source, which is the task of items that name none.
    rows: of the model.
    parts: the purposes that have items.
    invalid: items that were dropped, since they cannot be used.
    identity: what the questions depend on, as plain values.
  """

  def __init__(
    self,
    name: str,
    rows: question_sets.Rows,
    parts: Mapping[str, Sequence[items.Item]],
    *,
    source: str,
    identity: Mapping[str, Any],
    skip_invalid: bool = False,
    notes: Sequence[str] = (),
  ):
    """Takes the items.

    Args:
      name: of the source.
      rows: of the model.
      parts: items by purpose.
      source: where they are from, for messages.
      identity: what they depend on in addition to images.
      skip_invalid: drop and count items whose rows cannot be made.
      notes: further remarks for the summary.

    Raises:
      sources.DataError: no item of a purpose can be used.
    """
    self.name, self.rows, self._source = name, rows, source
    self.invalid: list[faults_lib.Fault] = []
    self._items = {part: tuple(listed) for part, listed in parts.items()}
    if skip_invalid:
      self._items = {part: self._usable(part) for part in parts}
    self.parts = tuple(self._items)
    self._notes = list(notes)
    self.identity = {**identity, "invalid": [str(one) for one in self.invalid]}

  def _usable(self, part):
    listed = self._items[part]
    lost = question_sets.unusable(listed, self.rows.row)
    if len(lost) == len(listed):
      raise sources.DataError(
        f"{self._source}: no entry is left for {part!r}:"
        f" {faults_lib.listed(tuple(lost.values()))}"
      )
    self.invalid += lost.values()
    return tuple(one for place, one in enumerate(listed) if place not in lost)

  def faults(self, asked: Mapping[str, tuple[int, str]]) -> list[str]:
    """Returns nothing: numbers of questions are upper limits here."""
    del asked
    return []

  def dataset(self, part: str, seed: int) -> grain.MapDataset:
    """Returns an endless dataset of rows, shuffled anew each epoch."""
    return question_sets.stream(self._items[part], self.rows, seed)

  def choose(
    self, part: str, *, count: int, seed: int
  ) -> tuple[question_sets.QuestionSet, ...]:
    """Returns a fixed set of questions; see `question_sets.chosen`."""
    chosen = question_sets.chosen(self._items[part], count, seed)
    return (question_sets.QuestionSet(self.name, chosen, self.rows),)

  def searched_on(self, parts: Sequence[str]) -> dict[str, Any]:
    """Returns what streams of parts depend on, as plain values."""
    listed = [item for part in parts for item in self._items[part]]
    return {**self.identity, "images": fingerprints.image_files(listed)}

  def summary(self, parts: Sequence[str]) -> str:
    """Returns what is read, in a line."""
    del parts
    counts = ", ".join(
      f"{len(listed):,} for {part}" for part, listed in self._items.items()
    )
    notes = self._notes.copy()
    if self.invalid:
      notes.append(f"{len(self.invalid):,} cannot be used and are skipped")
    return "; ".join([f"data: {self.name} in {self._source}, {counts}", *notes])


def from_file(
  path: pathlib.Path | str,
  rows: question_sets.Rows,
  shares: Mapping[str, float],
  *,
  images: pathlib.Path | str = "",
  skip_invalid: bool = False,
  images_anywhere: bool = False,
) -> ItemQuestions:
  """Reads a file of instructions in LLaVA's JSON format.

  Args:
    path: the JSON file.
    rows: of the model.
    shares: of the images, by purpose; see `instructions.load`.
    images: the folder of the images; "" = that of the file.
    skip_invalid: drop and count entries that cannot be used.
    images_anywhere: whether names of images may lead out of their folder.

  Raises:
    ValueError: as by `instructions.load`.
    sources.DataError: no entry of a purpose can be used.
  """
  path = pathlib.Path(path)
  read = instructions.load(
    path,
    images or path.parent,
    shares,
    skip_invalid=skip_invalid,
    images_anywhere=images_anywhere,
  )
  with open(path, "rb") as file:
    digest = hashlib.file_digest(file, "sha256").hexdigest()
  notes = []
  if read.without_picture:
    notes.append(f"{read.without_picture:,} without an image are left out")
  if read.faults:
    notes.append(f"{len(read.faults):,} entries are invalid and skipped")
  return ItemQuestions(
    "instructions",
    rows,
    read.parts,
    source=str(path),
    identity={
      "sha256": digest,
      "shares": dict(shares),
      "entries skipped": [str(fault) for fault in read.faults],
    },
    skip_invalid=skip_invalid,
    notes=notes,
  )


def from_function(
  name: str, rows: question_sets.Rows, *, skip_invalid: bool = False
) -> ItemQuestions:
  """Takes the questions that a Python function returns.

  The function has no arguments. It returns a mapping of "train", "validation"
  and "test", or of some of these, to sequences of `data.Item`. Images are
  files, bytes of files, PIL images, or uint8 arrays `[height, width, 3]`.

  Args:
    name: "package.module:function".
    rows: of the model.
    skip_invalid: drop and count items that cannot be used.

  Raises:
    ValueError: there is no such function, or it returns something else.
  """
  module, _, attribute = name.partition(":")
  try:
    make: Callable[[], Any] = getattr(
      importlib.import_module(module), attribute
    )
  except (ImportError, AttributeError, ValueError) as error:
    raise ValueError(
      f"the function {naming.quoted(name)} cannot be imported ({error}); give"
      " package.module:function, which Python finds from the working directory"
      " or in PYTHONPATH"
    ) from error
  if not callable(make):
    raise ValueError(
      f"{name} is {naming.quoted(make)}; expected a function without arguments"
    )
  made = make()
  known = isinstance(made, Mapping) and made and set(made) <= set(PARTS)
  if not known or not all(
    isinstance(part, Sequence) and all(isinstance(i, items.Item) for i in part)
    for part in made.values()
  ):
    raise ValueError(
      f"{name} returned {naming.quoted(made)}; expected a mapping of some of"
      f" {', '.join(PARTS)} to sequences of eos_jax.data.Item"
    )
  empty = [part for part, listed in made.items() if not len(listed)]
  if empty:
    raise ValueError(f"{name} returned no items for {', '.join(empty)}")
  parts = {part: list(map(_own, listed)) for part, listed in made.items()}
  words = [
    [part, [[i.question, i.answer, i.later, i.task] for i in listed]]
    for part, listed in parts.items()
  ]
  return ItemQuestions(
    module.rpartition(".")[2],
    rows,
    parts,
    source=name,
    identity={"function": name, "sha256": files.digest(words)},
    skip_invalid=skip_invalid,
  )


def _own(item):
  """An item of the user's, with images that can be compared."""
  with items.named(item):
    texts = [item.question, item.answer]
    texts += [text for turn in item.later for text in turn]
    if others := [text for text in texts if not isinstance(text, str)]:
      raise ValueError(f"a text is {naming.quoted(others[0])}; expected a str")
    if not isinstance(item.images, (tuple, list)):
      raise ValueError(
        f"images is {naming.quoted(item.images)}; expected a tuple of images"
      )
    images = tuple(map(items.encoded, item.images))
    return dataclasses.replace(item, images=images)
