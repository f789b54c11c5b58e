"""Readers of the benchmarks with options; as `readers`."""

from collections.abc import Mapping
import functools
import pathlib
from typing import Any

from eos_jax.data.benchmarks import prompts, readers, tables
from eos_jax.data.benchmarks.samples import (
  PASS,
  Collector,
  Sample,
  identifier,
  in_sheet,
  number,
  one_of,
  picture_base64,
  picture_bytes,
  text,
  texts,
)
from eos_jax.data.faults import RowError

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
# Columns of MMBench that its server does not want back.
_NOT_SUBMITTED = ("hint", "category", "source", "image", "comment")
_NOT_SUBMITTED += ("l2-category",)
# Files of MMBench: LLaVA's scripts name the first, lmms-eval's data set has the
# rows of the second. The last rules choose a file whose name is not official.
_MMBENCH = {
  "llava": ("mmbench_dev_20230712.tsv", "mmbench_dev_en_20231003.tsv"),
  "lmms_eval": ("mmbench_dev_en_20231003.tsv", "mmbench_dev_20230712.tsv"),
}
_MMBENCH_OTHERS = (
  *("mmbench_dev_en.tsv", "mmbench_dev_en_*.tsv", "*mmbench*dev*.tsv"),
  *("*mmbench*.tsv", "*.tsv"),
)
# In other languages; the prompts are in English.
_MMBENCH_UNLESS = tuple(
  f"*_{language}{end}"
  for language in ("cn", "cc", "ru", "ko", "ar", "fr", "pt", "tr")
  for end in ("_*", ".tsv")
)


def mmbench(folder: pathlib.Path, protocol: str, collector: Collector) -> None:
  """MMBench: `mmbench_dev*.tsv`; rows of later passes have numbers + k 10^6.

  The test split, which has no answers, serves as well.
  """
  rules = (*_MMBENCH[protocol], *_MMBENCH_OTHERS)
  (path,) = collector.questions_in(folder, *rules, unless=_MMBENCH_UNLESS)
  pictures: dict[int, bytes] = {}

  def make(row):
    index = number(row, "index")
    if index < 0:
      raise RowError(f"index is {index}; expected 0 or more")
    text(row, "question")
    options = [letter for letter in LETTERS[:5] if row.get(letter, "").strip()]
    if len(options) < 2:
      raise RowError("there are fewer than two choices")
    # Later passes may say which row has the picture.
    image = row["image"]
    if image.isdecimal() and len(image) < 16:
      picture = pictures.get(int(image))
      if picture is None:
        raise RowError(f"image names the row {image}, which has none")
    else:
      picture = pictures[index] = picture_base64(image)
    return Sample(
      str(index),
      picture,
      prompts.mmbench(row, protocol),
      (one_of(row["answer"], options, "answer"),) if "answer" in row else (),
      {
        name: text(row, name)
        for name in ("category", "l2-category")
        if row.get(name, "").strip()
      },
      prompts.mmbench_choices(row, protocol),
      {
        name: in_sheet(value, name)
        for name, value in row.items()
        if name not in _NOT_SUBMITTED
      },
    )

  rows = list(tables.tab_separated(path))
  samples = [
    readers.tried(functools.partial(readers.made, make, row)) for _, row in rows
  ]
  questions = [_question(row) for _, row in rows]
  first = {_index(row) for _, row in rows}
  broken = {
    question
    for question, one in zip(questions, samples, strict=True)
    if isinstance(one, Exception)
  }
  for (place, _), question, one in zip(rows, questions, samples, strict=True):
    chosen = functools.partial(
      _of_passes, one, question in broken, question in first
    )
    collector.add(path.name, place, chosen)


def _index(row: Any) -> int | None:
  """The number of a row of MMBench, if it has one."""
  try:
    return number(row, "index")
  except (RowError, KeyError, TypeError):
    return None


def _question(row: Any) -> int | None:
  """The number that a question has in its first pass."""
  index = _index(row)
  return None if index is None else index % PASS


def _of_passes(one, broken: bool, first: bool):
  """One of the passes of a question, if all of them can be used."""
  if isinstance(one, Exception):
    raise one
  if not first:
    raise RowError("the first pass of its question is missing")
  if broken:
    raise RowError(
      "another pass of its question cannot be used, and MMBench scores all of"
      " them together"
    )
  return one


def seed(folder: pathlib.Path, protocol: str, collector: Collector) -> None:
  """SEED-Bench: `SEED-Bench.json`, `SEED-Bench-image/`; pictures alone."""
  del protocol
  (path,) = collector.questions_in(folder, "SEED-Bench.json")
  value = tables.read_json(path)
  kinds = value.get("question_type") if isinstance(value, dict) else None
  names = {
    number_: name
    for name, number_ in (kinds.items() if isinstance(kinds, dict) else ())
    if isinstance(number_, int)
  }

  def make(row):
    kind = one_of(
      row.get("data_type", "image"), ("image", "video"), "data_type"
    )
    if kind == "video":
      return "it is about a video"
    choices = {
      letter: text(row, f"choice_{letter.lower()}") for letter in LETTERS[:4]
    }
    kind = number(row, "question_type_id")
    return Sample(
      identifier(row, "question_id"),
      collector.picture_file(
        folder / "SEED-Bench-image", identifier(row, "data_id")
      ),
      prompts.letter(text(row, "question"), list(choices.values())),
      (one_of(row["answer"], choices, "answer"),),
      {"type": names.get(kind, str(kind))},
      choices,
    )

  rows = tables.listed(path, value, "questions")
  readers.add(collector, path, enumerate(rows, 1), make)


def mmstar(folder: pathlib.Path, protocol: str, collector: Collector) -> None:
  """MMStar: `*.parquet`; options are in the questions."""
  del protocol

  def make(row):
    return Sample(
      identifier(row, "index"),
      picture_bytes(row["image"]),
      prompts.mmstar(text(row, "question")),
      (one_of(row["answer"], LETTERS[:4], "answer"),),
      {name: text(row, name) for name in ("category", "l2_category")},
    )

  rules = ("*mmstar*.parquet", "*.parquet")
  for path in collector.questions_in(folder, *rules, several=True):
    readers.add(collector, path, tables.parquet(path), make)


def scienceqa(
  folder: pathlib.Path, protocol: str, collector: Collector
) -> None:
  """ScienceQA-IMG, test: `problems.json`, `pid_splits.json`, `test/`."""
  (path,) = collector.questions_in(folder, "problems.json")
  problems: dict[str, list[Any]] = {}
  for place, (name, row) in enumerate(tables.entries(path), 1):
    problems.setdefault(name, []).append((place, row))
  splits = collector.companion(folder, "pid_splits.json")
  names = tables.listed(splits, tables.read_json(splits), "test")

  def missing(name):
    count = len(problems.get(name, []))
    raise RowError(f"{path.name} has {count} problems {name!r}; expected one")

  def problem(name: str, row: Mapping[str, Any]):
    if row.get("image") in (None, ""):
      return "it has no picture"
    choices = texts(row, "choices")
    hint = text(row, "hint", empty=True)
    letter = _letter(row, choices)
    return Sample(
      name,
      collector.picture_file(folder / "test", f"{name}/{text(row, 'image')}"),
      prompts.scienceqa(text(row, "question"), choices, hint, protocol),
      (letter,),
      {name: text(row, name) for name in ("subject", "grade")},
      dict(zip(LETTERS, choices, strict=False)),
    )

  for place, given in enumerate(names, 1):
    one = functools.partial(identifier, {"test": given}, "test")
    name = collector.tried(splits.name, place, one)
    if name is None:
      continue
    rows = problems.get(name, [])
    if len(rows) == 1:
      one = functools.partial(problem, name)
      readers.add(collector, path, rows, one)
    else:
      collector.add(splits.name, place, functools.partial(missing, name))


def _letter(row, choices):
  """The letter of the right choice, whose place is known."""
  answer = number(row, "answer")
  if not 0 <= answer < len(choices):
    raise RowError(f"answer is {answer} of {len(choices)} choices")
  if len(choices) > len(LETTERS):
    raise RowError(f"there are {len(choices)} choices; expected 26 or fewer")
  return LETTERS[answer]


def ai2d(folder: pathlib.Path, protocol: str, collector: Collector) -> None:
  """AI2D, test: `*.parquet` of question, options, answer (a place), image.

  The pictures with letters over their labels, if those without are there too.
  """
  del protocol

  def make(place, row):
    choices = texts(row, "options")
    letter = _letter(row, choices)
    return Sample(
      str(place),
      picture_bytes(row["image"]),
      prompts.letter(text(row, "question"), choices),
      (letter,),
      choices=dict(zip(LETTERS, choices, strict=False)),
    )

  unless = ("*no_mask*", "*no-mask*", "*nomask*")
  readers.in_order(folder, collector, make, unless)
