"""Random access to the records of a dataset, built on first use.

`load("mini_suite", "train")` renders the suite if it is not yet in the tfds
data directory, and returns a `Source` that grain can read from.
"""

import contextlib
import dataclasses
import errno
import fcntl
import io
import logging
import pathlib
import shutil
import tempfile

import numpy as np
from PIL import Image
import tensorflow_datasets as tfds

from eos_jax.data import easy_vqa, generator, labels, mini_suite, questions

Question = questions.Question

_BUILDERS = {"mini_suite": mini_suite.MiniSuite, "easy_vqa": easy_vqa.EasyVqa}
NAMES = tuple(_BUILDERS)
SPLITS = ("train", "validation", "test")


@dataclasses.dataclass(frozen=True)
class Record:
  """One picture and what is known about it.

  Attributes:
    image: uint8 `[H, W, 3]`, 96 x 96 in mini_suite and 64 x 64 in easy_vqa.
    image_id: unique within the dataset.
    questions: its questions.
    patch_labels: uint8 `[GRID, GRID, PATCH_CHANNELS]`, or None.
    scene_labels: uint8 `[NUM_SCENE]`.
  """

  image: np.ndarray
  image_id: str
  questions: tuple[Question, ...]
  patch_labels: np.ndarray | None
  scene_labels: np.ndarray


class DataError(RuntimeError):
  """Prepared data that cannot be read."""


class Source:
  """The records of one split: `len(source)` and `source[index]`."""

  def __init__(self, name, split, data, path, *, hash_, keep):
    self.name = name
    self.split = split
    self.path = path
    self.generator_hash = hash_
    self._data = data
    self._kept = {} if keep else None

  def __len__(self) -> int:
    return len(self._data)

  def __repr__(self) -> str:
    return f"Source({self.name}/{self.split}, {len(self)} pictures)"

  def __getitem__(self, index: int) -> Record:
    if self._kept is not None and index in self._kept:
      return self._kept[index]
    if not 0 <= index < len(self):
      raise IndexError(f"index {index} is not in 0..{len(self) - 1} of {self}")
    try:
      record = _record(self._data[index])
    except Exception as error:
      raise _unreadable(self.path, f"{self}, record {index}", error) from error
    if self._kept is not None:
      self._kept[index] = record
    return record

  def questions_of(self, index: int) -> tuple[Question, ...]:
    """The questions of one picture, without decoding the picture."""
    try:
      return _questions(self._data[index])
    except Exception as error:
      raise _unreadable(self.path, f"{self}, record {index}", error) from error

  def questions(self) -> list[Question]:
    """All questions of the split."""
    return [q for index in range(len(self)) for q in self.questions_of(index)]


def _questions(raw) -> tuple[Question, ...]:
  asked = raw["questions"]
  return tuple(
    Question(question.decode(), answer.decode(), labels.TASKS[task])
    for question, answer, task in zip(
      asked["question"], asked["answer"], asked["task"], strict=True
    )
  )


def _record(raw) -> Record:
  return Record(
    image=np.asarray(Image.open(io.BytesIO(raw["image"]))),
    image_id=raw["image_id"].decode(),
    questions=_questions(raw),
    patch_labels=raw.get("patch_labels"),
    scene_labels=raw["scene_labels"],
  )


def _unreadable(path, what: str, error: Exception) -> DataError:
  return DataError(
    f"cannot read {what} under {path}: {type(error).__name__}: {error}. A file"
    f" there is missing or damaged: delete the directory {path} and run again,"
    " it is then built anew."
  )


@contextlib.contextmanager
def _quiet():
  """Keeps the progress bars and prints of tfds away from the terminal."""
  logger = logging.getLogger("absl")
  level = logger.level
  tfds.disable_progress_bar()
  logger.setLevel(logging.ERROR)
  try:
    with contextlib.redirect_stdout(io.StringIO()):
      yield
  finally:
    logger.setLevel(level)
    tfds.enable_progress_bar()


def _builder(name: str, data_dir, config: str):
  if name not in _BUILDERS:
    raise ValueError(f"name {name!r} is unknown: use one of {NAMES}")
  options = {"data_dir": data_dir}
  if name == "mini_suite":
    if config not in mini_suite.COUNTS:
      raise ValueError(
        f"config {config!r} is unknown for mini_suite: use one of"
        f" {tuple(mini_suite.COUNTS)}"
      )
    options["config"] = config
  with _quiet():
    return _BUILDERS[name](**options)


def _is_stale(builder) -> bool:
  """Whether the files were rendered by another version of the generator."""
  if builder.name != "mini_suite":
    return False
  stored = (builder.info.metadata or {}).get("generator_hash")
  return stored != generator.generator_hash()


def _set_aside(path: pathlib.Path) -> None:
  """Removes a directory such that no one ever sees half of it."""
  aside = tempfile.mkdtemp(prefix="stale.", dir=path.parent)
  path.rename(pathlib.Path(aside) / path.name)
  shutil.rmtree(aside, ignore_errors=True)


@contextlib.contextmanager
def _alone(folder: pathlib.Path):
  """Lets one process at a time build below a folder; the others wait.

  What killed builds have left there is removed: whoever holds the lock knows
  that none of them is alive.
  """
  folder.mkdir(parents=True, exist_ok=True)
  with open(folder / ".lock", "w", encoding="utf-8") as lock:
    try:
      fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
      print(f"waiting for another process that builds {folder}", flush=True)
      fcntl.flock(lock, fcntl.LOCK_EX)
    for pattern in ("incomplete.*", "stale.*"):
      for left in list(folder.rglob(pattern)):
        if left.is_dir():
          shutil.rmtree(left, ignore_errors=True)
        else:
          left.unlink(missing_ok=True)
    yield


def build(name: str, *, data_dir=None, config: str = "default"):
  """Makes sure that a dataset is on disk, rendering it if need be.

  Args:
    name: one of `NAMES`.
    data_dir: where tfds keeps datasets; None is its default.
    config: size of mini_suite, "default" or "tiny" (tests); easy_vqa has one
      size and ignores it.

  Returns:
    The prepared tfds builder. Files of another generator are replaced.
  """
  builder = _builder(name, data_dir, config)
  path = pathlib.Path(builder.data_path)
  if path.exists() and not _is_stale(builder):
    return builder
  try:
    with _alone(pathlib.Path(builder.data_dir_root) / name):
      builder = _builder(name, data_dir, config)  # as it now is
      if path.exists() and _is_stale(builder):
        logging.warning("%s is from another generator: rendering anew", path)
        _set_aside(path)
        builder = _builder(name, data_dir, config)
      if not path.exists():
        with _quiet():
          builder.download_and_prepare(file_format="array_record")
  except OSError as error:
    if error.errno not in (errno.EACCES, errno.EROFS, errno.ENOTDIR):
      raise
    raise DataError(
      f"{name} cannot be built in {path} ({error.strerror}); choose another"
      " directory with --config.data.directory=DIR, or change its permissions"
    ) from error
  return _builder(name, data_dir, config)


def load(
  name: str,
  split: str,
  *,
  data_dir=None,
  config: str = "default",
  keep: bool = False,
) -> Source:
  """Opens one split of a dataset, building it on first use.

  Args:
    name: "mini_suite" or "easy_vqa".
    split: "train", "validation" or "test"; no picture is in two of them.
    data_dir: where tfds keeps datasets; None is its default.
    config: size of mini_suite: "default" or "tiny" (a few hundred pictures).
    keep: keep every decoded record in memory (27 KB a picture).

  Returns:
    A `Source`; its `generator_hash` tells which generator rendered it (None
    for easy_vqa).
  """
  if split not in SPLITS:
    raise ValueError(f"split {split!r} is unknown: use one of {SPLITS}")
  builder = build(name, data_dir=data_dir, config=config)
  try:
    with _quiet():
      # Pictures are decoded here and only when asked for.
      data = builder.as_data_source(
        split, decoders={"image": tfds.decode.SkipDecoding()}
      )
      len(data)
  except Exception as error:
    what = f"{name}/{split}"
    raise _unreadable(builder.data_path, what, error) from error
  metadata = builder.info.metadata or {}
  return Source(
    name,
    split,
    data,
    builder.data_path,
    hash_=metadata.get("generator_hash"),
    keep=keep,
  )
