"""Questions of a benchmark, and the rows that cannot be used."""

import base64
from collections.abc import Callable, Iterable, Mapping
import dataclasses
import pathlib
from typing import Any

from eos_jax.data import faults as faults_lib
from eos_jax.data import image_folder, sources
from eos_jax.data.faults import Fault, RowError, shown
from eos_jax.data.processors import image_file

# A picture as it lies on the disk, or as it came inside a table.
Source = pathlib.Path | bytes


@dataclasses.dataclass(frozen=True)
class Sample:
  """One question.

  Attributes:
    id: of the question; no other of the benchmark has it.
    picture: that it is about.
    prompt: the user's turn without the picture, as the protocol words it.
    answers: the right ones; what they are, the benchmark's score knows. Empty
      where its authors keep them to themselves.
    groups: what breakdowns go by, such as its category.
    choices: texts of its options by their letters, if it has some.
    repeated: what a submission repeats of its row, in that order.
    file: that its row is in, for messages.
    row: its number there, from 1.
  """

  id: str
  picture: Source
  prompt: str
  answers: tuple[str, ...]
  groups: Mapping[str, str] = dataclasses.field(default_factory=dict)
  choices: Mapping[str, str] = dataclasses.field(default_factory=dict)
  repeated: Mapping[str, str] = dataclasses.field(default_factory=dict)
  file: str = dataclasses.field(default="", compare=False)
  row: int = dataclasses.field(default=0, compare=False)


@dataclasses.dataclass(frozen=True)
class Questions:
  """What a benchmark's files hold.

  Attributes:
    samples: the questions, in the order of the files.
    faults: rows that were set apart.
    left_out: rows that the benchmark itself does not count, by reason.
  """

  samples: tuple[Sample, ...]
  faults: tuple[Fault, ...] = ()
  left_out: Mapping[str, int] = dataclasses.field(default_factory=dict)

  def without(self, faults: Mapping[str, Fault]) -> "Questions":
    """Sets apart samples that turned out to be of no use, by their ids."""
    return dataclasses.replace(
      self,
      samples=tuple(one for one in self.samples if one.id not in faults),
      faults=(*self.faults, *faults.values()),
    )


class Collector:
  """Takes rows one by one, and keeps apart those that cannot be used."""

  def __init__(self, *, images_anywhere: bool = False):
    """Has no rows yet.

    Args:
      images_anywhere: whether names of images may lead out of their folder.
    """
    self._anywhere = images_anywhere
    self._folders: dict[pathlib.Path, image_folder.ImageFolder] = {}
    self._samples: dict[str, Sample] = {}
    self._faults: list[Fault] = []
    self._left_out: dict[str, int] = {}

  def picture_file(self, folder: pathlib.Path, name: str) -> pathlib.Path:
    """Finds an image by its name in a row, and checks its header.

    Raises:
      RowError: it is not there, not inside the folder, or no image.
    """
    if folder not in self._folders:
      self._folders[folder] = image_folder.ImageFolder(
        folder, anywhere=self._anywhere
      )
    path = self._folders[folder].path(name)
    try:
      image_file.check_picture(path)
    except ValueError as error:
      raise RowError(str(error)) from error
    return path

  def add(self, file: str, row: int, make: Callable[[], Sample | str]) -> None:
    """Makes a sample of a row.

    Args:
      file: where the row is.
      row: its number, from 1.
      make: makes it, or returns why the benchmark does not count the row.
        Raises `RowError`, or `KeyError` where a field is missing.
    """
    try:
      made = make()
      if isinstance(made, Sample) and made.id in self._samples:
        raise RowError(
          f"id {shown(made.id)} is there a second time; give each once"
        )
      if isinstance(made, Sample):
        _check_texts(made)
    except KeyError as error:
      what = f"the field {error.args[0]!r} is missing"
      self._faults.append(Fault(file, row, what))
    except RowError as error:
      self._faults.append(Fault(file, row, str(error)))
    else:
      if isinstance(made, str):
        self._left_out[made] = self._left_out.get(made, 0) + 1
      else:
        made = dataclasses.replace(made, file=file, row=row)
        self._samples[made.id] = made

  def questions(self, *, apart: bool = False) -> Questions:
    """All that was added.

    Args:
      apart: set rows that cannot be used apart instead of refusing them.

    Raises:
      sources.DataError: there are rows that cannot be used, which are listed,
        or none that can.
    """
    faults = self._faults
    if faults and not apart:
      raise sources.DataError(faults_lib.listed(faults))
    if not self._samples:
      raise sources.DataError(
        f"there are no questions to ask; {len(faults)} rows cannot be used,"
        f" {sum(self._left_out.values())} are not counted by the benchmark"
      )
    return Questions(
      tuple(self._samples.values()), tuple(faults), self._left_out
    )


def _check_texts(sample):
  """Refuses texts that neither a prompt nor a submission can hold."""
  found = {"its id": [sample.id], "the prompt": [sample.prompt]}
  found["an answer"] = list(sample.answers)
  for name in ("groups", "choices", "repeated"):
    mapping = getattr(sample, name)
    found[f"one of its {name}"] = [*mapping.keys(), *mapping.values()]
  for name, texts_ in found.items():
    for value in texts_:
      if isinstance(value, str):
        faults_lib.check_unicode(name, value)


def text(row: Mapping[str, Any], name: str, *, empty: bool = False) -> str:
  """A text field.

  Args:
    row: that has it.
    name: of the field.
    empty: whether it may be empty.
  """
  value = row[name]
  if not isinstance(value, str) or not (empty or value.strip()):
    raise RowError(f"{name} is {shown(value)}; expected a text")
  return value


def texts(row: Mapping[str, Any], name: str) -> tuple[str, ...]:
  """A field that is a list of texts, at least one."""
  value = row[name]
  if (
    not isinstance(value, list | tuple)
    or not value
    or not all(isinstance(item, str) for item in value)
  ):
    raise RowError(f"{name} is {shown(value)}; expected a list of texts")
  return tuple(value)


def one_of(value: Any, known: Iterable[str], name: str) -> str:
  """A text that is one of a few."""
  known = tuple(known)
  if value not in known:
    raise RowError(f"{name} is {value!r}; expected one of {', '.join(known)}")
  return value


def number(row: Mapping[str, Any], name: str) -> int:
  """A whole number, which tables may hold as a text."""
  value = row[name]
  try:
    found = int(value)
  except (TypeError, ValueError) as error:
    raise RowError(f"{name} is {value!r}; expected a whole number") from error
  if isinstance(value, bool | float) and value != found:
    raise RowError(f"{name} is {value!r}; expected a whole number")
  return found


def picture_bytes(value: Any) -> bytes:
  """A picture inside a table: bytes, or an object that has them."""
  found = value.get("bytes") if isinstance(value, Mapping) else value
  if not isinstance(found, bytes) or not found:
    raise RowError("image has no bytes; expected an encoded picture")
  _check(found)
  return found


def picture_base64(value: Any) -> bytes:
  """A picture as base64 text."""
  if not isinstance(value, str) or not value.strip():
    raise RowError("image is empty; expected a picture in base64")
  try:
    found = base64.b64decode(value, validate=True)
  except ValueError as error:
    raise RowError(f"image is no base64 ({error})") from error
  _check(found)
  return found


def _check(data):
  """Reads the header alone; pixels are read when they are shown."""
  try:
    image_file.check_picture(data)
  except ValueError as error:
    raise RowError(f"image is no picture: {error}") from error
