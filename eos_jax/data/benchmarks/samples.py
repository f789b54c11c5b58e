"""Questions of a benchmark, and the rows that cannot be used."""

import base64
from collections.abc import Callable, Iterable, Mapping
import dataclasses
import pathlib
import re
from typing import Any

from eos_jax import naming
from eos_jax.data import faults as faults_lib
from eos_jax.data import image_folder, sources
from eos_jax.data.benchmarks import tables
from eos_jax.data.faults import Fault, RowError
from eos_jax.data.processors import image_file

# A picture as it lies on the disk, or as it came inside a table.
Source = pathlib.Path | bytes

PASS = 10**6  # by which the ids of MMBench's passes differ

# What Excel's cells can hold.
_CELL = 32767
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f]")


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

  @property
  def name(self) -> str:
    """The id, as `items.Item` names it."""
    return self.id

  @property
  def question(self) -> str:
    """The prompt, as `items.Item` names it."""
    return self.prompt

  @property
  def answer(self) -> str:
    """The first of the right answers; "" where they are kept secret."""
    return "".join(self.answers[:1])

  @property
  def images(self) -> tuple[Source, ...]:
    """The one image."""
    return (self.picture,)

  @property
  def task(self) -> str:
    """No task of its own: the benchmark is."""
    return ""


@dataclasses.dataclass(frozen=True)
class Questions:
  """What a benchmark's files hold.

  Attributes:
    samples: the questions, in the order of the files.
    faults: rows that were skipped.
    left_out: rows that the benchmark itself does not count, by reason.
    notes: which files were read, and what was expected and is not there.
  """

  samples: tuple[Sample, ...]
  faults: tuple[Fault, ...] = ()
  left_out: Mapping[str, int] = dataclasses.field(default_factory=dict)
  notes: tuple[str, ...] = ()

  def without(self, faults: Mapping[str, Fault]) -> "Questions":
    """Skips samples that turned out to be unusable, by their ids."""
    return dataclasses.replace(
      self,
      samples=tuple(one for one in self.samples if one.id not in faults),
      faults=(*self.faults, *faults.values()),
    )


class Collector:
  """Takes rows one by one, and collects those that cannot be used.

  Attributes:
    files: names of the files with questions that the user chose; empty = the
      reader's rule chooses.
    notes: as of `Questions`.
  """

  def __init__(
    self, files: Iterable[str] = (), *, images_anywhere: bool = False
  ):
    """Has no rows yet.

    Args:
      files: as of the attribute.
      images_anywhere: whether names of images may lead out of their folder.
    """
    self.files = tuple(files)
    self._anywhere = images_anywhere
    self._folders: dict[pathlib.Path, image_folder.ImageFolder] = {}
    self.notes: list[str] = []
    self._samples: dict[str, Sample] = {}
    self._faults: list[Fault] = []
    self._left_out: dict[str, int] = {}

  def questions_in(
    self,
    folder: pathlib.Path,
    *rules: str,
    unless: tuple[str, ...] = (),
    several: bool = False,
  ) -> list[pathlib.Path]:
    """Chooses the files with the questions, and notes the choice.

    Args:
      folder: of the benchmark.
      rules: patterns of file names; the first with a match decides.
      unless: patterns of file names that no rule may choose.
      several: whether all of its matches are read, instead of one.

    Raises:
      sources.DataError: no file matches, several do where one is read, or a
        file that the user chose does not exist.
    """
    found = tables.matching(folder, *rules, unless=unless)
    chosen = next((paths for paths in found if paths), [])
    if self.files:
      chosen = [folder / name for name in self.files]
      absent = [path.name for path in chosen if not path.is_file()]
      if absent:
        raise sources.DataError(
          f"{folder} has no {', '.join(absent)}, which data.files names; give"
          " the name of a file in this folder"
        )
    elif not chosen:
      raise sources.DataError(
        f"{folder} has no {' or '.join(rules)}; give the folder with the files"
        " that the benchmark publishes, or name the file with the questions in"
        " data.files"
      )
    names = [path.name for path in chosen]
    if len(names) > 1 and not several:
      raise sources.DataError(
        f"{folder}: {', '.join(names)} may be the file with the questions; name"
        " one of them in data.files"
      )
    rest = tables.matching(folder, *rules)
    others = {path.name for paths in rest for path in paths} - set(names)
    self.notes.append(f"questions from {_some(names)}")
    if others:
      self.notes.append(f"not read: {_some(sorted(others))}")
    if missing := tables.missing_shards(chosen):
      self.notes.append(f"missing: {_some(missing)}")
    return chosen

  def companion(self, folder: pathlib.Path, *rules: str) -> pathlib.Path:
    """Chooses a file that belongs to the questions, and notes the choice.

    Args:
      folder: of the benchmark.
      rules: patterns of file names; the first with a match decides.

    Raises:
      sources.DataError: no file matches, or several do.
    """
    found = tables.matching(folder, *rules)
    chosen = next((paths for paths in found if paths), [])
    if len(chosen) != 1:
      names = _some(path.name for path in chosen) or "no such file"
      raise sources.DataError(
        f"{folder}: expected one file {' or '.join(rules)} with the questions;"
        f" got {names}; give it as the benchmark publishes it"
      )
    self.notes.append(f"with {chosen[0].name}")
    return chosen[0]

  def expect(self, wanted: Iterable[str], there: Iterable[str], what: str):
    """Notes parts of a benchmark that are missing, or are none of its parts."""
    wanted, there = list(wanted), list(there)
    if missing := [name for name in wanted if name not in there]:
      self.notes.append(
        f"{len(missing)} of {len(wanted)} {what} missing: {_some(missing)}"
      )
    if others := [name for name in there if name not in wanted]:
      self.notes.append(f"not read, as they are no {what}: {_some(others)}")

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
    made = self.tried(file, row, make)
    if isinstance(made, str):
      self._left_out[made] = self._left_out.get(made, 0) + 1
    elif made is not None and made.id in self._samples:
      what = f"id {naming.quoted(made.id)} is there a second time"
      self._faults.append(Fault(file, row, f"{what}; give each once"))
    elif made is not None:
      self._samples[made.id] = dataclasses.replace(made, file=file, row=row)

  def tried(self, file: str, row: int, make: Callable[[], Any]) -> Any:
    """Returns what `make` makes of a row; None, and a fault, if it refuses."""
    try:
      return make()
    except KeyError as error:
      what = f"the field {naming.quoted(error.args[0])} is missing"
    except RowError as error:
      what = str(error)
    self._faults.append(Fault(file, row, what))
    return None

  def questions(self, *, skip_invalid: bool = False) -> Questions:
    """All that was added.

    Args:
      skip_invalid: skip rows that cannot be used instead of refusing them.

    Raises:
      sources.DataError: there are rows that cannot be used, which are listed,
        or none that can.
    """
    faults = self._faults
    if faults and not skip_invalid:
      raise sources.DataError(faults_lib.listed(faults))
    if not self._samples:
      raise sources.DataError(
        f"there are no questions to ask; {len(faults)} rows cannot be used,"
        f" {sum(self._left_out.values())} are not counted by the benchmark"
      )
    return Questions(
      tuple(self._samples.values()),
      tuple(faults),
      self._left_out,
      tuple(self.notes),
    )


def _some(names: Iterable[str]) -> str:
  """The first names of many."""
  names = list(names)
  more = [f"and {len(names) - 20} more"] if len(names) > 20 else []
  return ", ".join([*names[:20], *more])


def valid(value: str, name: str) -> str:
  """A text, if it can be written as UTF-8."""
  faults_lib.check_unicode(name, value)
  return value


def in_lines(value: str, name: str) -> str:
  """A text that a submission holds between tabs, in a line."""
  if any(mark in value for mark in "\t\n\r"):
    raise RowError(
      f"{name} is {naming.quoted(value)}; expected a text without tabs and line"
      " ends, which the submission cannot hold"
    )
  return valid(value, name)


def in_sheet(value: str, name: str) -> str:
  """A text that a cell of the submission's sheet can hold."""
  if len(value) > _CELL or _CONTROL.search(value):
    raise RowError(
      f"{name} is {naming.quoted(value)}; expected at most {_CELL} characters"
      " and no control characters, which a sheet cannot hold"
    )
  return valid(value, name)


def mapping(row: Mapping[str, Any], name: str) -> Mapping[str, Any]:
  """A field that is an object."""
  value = row[name]
  if not isinstance(value, Mapping):
    raise RowError(f"{name} is {naming.quoted(value)}; expected an object")
  return value


def text(row: Mapping[str, Any], name: str, *, empty: bool = False) -> str:
  """A text field.

  Args:
    row: that has it.
    name: of the field.
    empty: whether it may be empty.
  """
  value = row[name]
  if not isinstance(value, str) or not (empty or value.strip()):
    raise RowError(f"{name} is {naming.quoted(value)}; expected a text")
  return valid(value, name)


def texts(
  row: Mapping[str, Any], name: str, *, empty: bool = False
) -> tuple[str, ...]:
  """A field that is a list of texts; at least one, or else it may be empty."""
  value = row[name]
  if (
    not isinstance(value, list | tuple)
    or not (value or empty)
    or not all(isinstance(item, str) for item in value)
  ):
    raise RowError(
      f"{name} is {naming.quoted(value)}; expected a list of texts"
    )
  return tuple(valid(item, name) for item in value)


def identifier(row: Mapping[str, Any], name: str) -> str:
  """An id, which may be a whole number or a text, as a text."""
  value = row[name]
  if isinstance(value, int) and not isinstance(value, bool):
    return str(value)
  if not isinstance(value, str) or not value.strip():
    raise RowError(
      f"{name} is {naming.quoted(value)}; expected a whole number or a text"
    )
  return valid(value, name)


def one_of(value: Any, known: Iterable[str], name: str) -> str:
  """A text that is one of a few."""
  known = tuple(known)
  if not isinstance(value, str) or value not in known:
    raise RowError(
      f"{name} is {naming.quoted(value)}; expected one of {', '.join(known)}"
    )
  return value


def number(row: Mapping[str, Any], name: str) -> int:
  """A whole number below 2^53, which tables may hold as a text or a float.

  Larger ones are not exact in sheets, nor in JSON as most programs read it.
  """
  value, found = row[name], None
  if isinstance(value, str) and re.fullmatch(r"\s*-?[0-9]{1,16}\s*", value):
    found = int(value)
  elif isinstance(value, float) and value.is_integer():
    found = int(value)
  elif isinstance(value, int) and not isinstance(value, bool):
    found = value
  if found is None or abs(found) >= 2**53:
    raise RowError(f"{name} is {naming.quoted(value)}; expected a whole number")
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
  except ValueError as error:  # other characters, or not ASCII
    raise RowError(f"image is no base64 ({error})") from error
  _check(found)
  return found


def _check(data):
  """Reads the header alone; pixels are read when they are shown."""
  try:
    image_file.check_picture(data)
  except ValueError as error:
    raise RowError(f"image is no picture: {error}") from error
