"""Readers of the fourteen benchmarks, from a folder with their official files.

Each takes a folder, a protocol (`prompts.PROTOCOLS`) and a `Collector`, which
gets every row. File names are those under which the benchmarks publish
them; a shorter file in the same form serves as well.
"""

from collections.abc import Callable, Iterator, Mapping
import functools
import pathlib
from typing import Any

from eos_jax import files
from eos_jax.data.benchmarks import prompts, tables
from eos_jax.data.benchmarks.samples import (
  Collector,
  Sample,
  number,
  one_of,
  picture_base64,
  picture_bytes,
  text,
  texts,
)
from eos_jax.data.faults import RowError

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
POPE_SPLITS = ("random", "popular", "adversarial")
_LABELS = ("yes", "no")
# Columns of MMBench that its server does not want back.
_NOT_SUBMITTED = ("hint", "category", "source", "image", "comment")
_NOT_SUBMITTED += ("l2-category",)


def _each(rows: list[Any], make: Callable[[Any], Sample | str]):
  """Numbers of rows of a list, and what makes their samples."""
  for place, row in enumerate(rows, 1):
    yield place, functools.partial(_made, make, row)


def _made(make, row):
  if isinstance(row, str):  # what is wrong with a line
    raise RowError(row)
  if not isinstance(row, Mapping):
    raise RowError(f"it is {type(row).__name__}; expected an object")
  return make(row)


def _numbered(rows: Iterator[tuple[int, Any]], make):
  for place, row in rows:
    yield place, functools.partial(_made, make, row)


def _add(collector: Collector, path: pathlib.Path, rows) -> None:
  for place, make in rows:
    collector.add(path.name, place, make)


def vqav2(folder: pathlib.Path, protocol: str, collector: Collector) -> None:
  """VQAv2: `v2_OpenEnded_mscoco_*_questions.json`, its annotations.

  Of val2014 as a rule; those of test2015 and test-dev2015 are not published.
  """
  del protocol  # both word it alike
  questions = tables.find(folder, "v2_OpenEnded_mscoco_*_questions.json")[0]
  split = questions.name.split("_")[3]
  pictures = split.replace("-dev", "")  # test-dev2015 has those of test2015
  hidden = split.startswith("test")
  known: dict[Any, Any] = {}
  if not hidden:
    people = tables.find(folder, f"v2_mscoco_{split}_annotations.json")[0]
    listed = tables.listed(people, tables.read_json(people), "annotations")
    known = {
      row.get("question_id"): row for row in listed if isinstance(row, Mapping)
    }

  def told(row):
    answered = known.get(row["question_id"])
    if answered is None:
      raise RowError(
        f"question_id {row['question_id']!r} is not in {people.name}"
      )
    answers = [text(answer, "answer") for answer in answered["answers"]]
    if not answers:
      raise RowError("answers is empty; expected those of ten people")
    return tuple(answers), {
      "answer type": text(answered, "answer_type"),
      "question type": text(answered, "question_type"),
    }

  def make(row):
    name = f"COCO_{pictures}_{number(row, 'image_id'):012d}.jpg"
    return Sample(
      str(row["question_id"]),
      collector.picture_file(folder / pictures, name),
      prompts.short(text(row, "question")),
      *(((), {}) if hidden else told(row)),
    )

  rows = tables.listed(questions, tables.read_json(questions), "questions")
  _add(collector, questions, _each(rows, make))


def gqa(folder: pathlib.Path, protocol: str, collector: Collector) -> None:
  """GQA, test-dev: `testdev_balanced_questions.json`, `images/`."""
  del protocol
  path = tables.find(folder, "*_balanced_questions.json", "*questions.json")[0]
  rows = tables.read_json(path)
  if not isinstance(rows, dict):
    rows = {}

  def make(name, row):
    if row.get("isBalanced", True) is not True:
      return "not in the balanced set"
    types = row["types"]
    structural = text(types, "structural")
    return Sample(
      name,
      collector.picture_file(folder / "images", f"{text(row, 'imageId')}.jpg"),
      prompts.short(text(row, "question")),
      (text(row, "answer"),),
      {
        "answers": "open" if structural == "query" else "binary",
        "structural": structural,
        "semantic": text(types, "semantic"),
      },
    )

  made = (
    (place, functools.partial(_made, functools.partial(make, name), row))
    for place, (name, row) in enumerate(rows.items(), 1)
  )
  _add(collector, path, made)


def textvqa(
  folder: pathlib.Path,
  protocol: str,
  collector: Collector,
  *,
  ocr: bool = False,
) -> None:
  """TextVQA, val: `TextVQA_0.5.1_val.json`, `train_images/`.

  With `ocr` the prompt names the words of `TextVQA_Rosetta_OCR_*.json`.
  """
  path = tables.find(folder, "TextVQA_*_val.json")[0]
  words: dict[str, Any] = {}
  if ocr:
    found = tables.find(folder, "TextVQA_Rosetta_OCR_*val.json")[0]
    listed = tables.listed(found, tables.read_json(found), "data")
    words = {row["image_id"]: row["ocr_tokens"] for row in listed}

  def make(row):
    name = text(row, "image_id")
    if ocr and name not in words:
      raise RowError(f"image_id {name!r} has no words in {found.name}")
    return Sample(
      str(row["question_id"]),
      collector.picture_file(folder / "train_images", f"{name}.jpg"),
      prompts.textvqa(text(row, "question"), words.get(name), protocol),
      texts(row, "answers"),
    )

  rows = tables.listed(path, tables.read_json(path), "data")
  _add(collector, path, _each(rows, make))


def pope(folder: pathlib.Path, protocol: str, collector: Collector) -> None:
  """POPE: `coco_pope_{random,popular,adversarial}.json`, `val2014/`."""
  del protocol

  def make(split, row):
    label = one_of(text(row, "label").lower().strip(), _LABELS, "label")
    return Sample(
      f"{split}/{row['question_id']}",
      collector.picture_file(folder / "val2014", text(row, "image")),
      prompts.short(text(row, "text")),
      (label,),
      {"split": split},
      repeated={"question": row["text"]},
    )

  for path in tables.find(folder, "coco_pope_*.json"):
    split = path.stem.removeprefix("coco_pope_")
    rows = tables.json_lines(path)
    _add(collector, path, _numbered(rows, functools.partial(make, split)))


def mme(folder: pathlib.Path, protocol: str, collector: Collector) -> None:
  """MME: a folder a subtask; a text of two lines beside each picture.

  Pictures and texts lie together, or in `images/` and `questions_answers_YN/`.
  """
  del protocol
  for path in tables.find(folder, "*/*.txt", "*/questions_answers_YN/*.txt"):
    subtask = path.relative_to(folder).parts[0]
    beside = path.parent
    if beside.name == "questions_answers_YN":
      beside = beside.parent / "images"

    def make(row, path=path, subtask=subtask, beside=beside):
      question, tab, answer = row["line"].partition("\t")
      if not tab:
        raise RowError("there is no tab between question and answer")
      pictures = [beside / f"{path.stem}{end}" for end in (".jpg", ".png")]
      there = [file for file in pictures if file.is_file()]
      label = one_of(answer.strip().lower(), _LABELS, "the answer")
      return Sample(
        f"{subtask}/{path.stem}/{row['place']}",
        collector.picture_file(beside, (there or pictures)[0].name),
        prompts.mme(question),
        (label,),
        {"subtask": subtask, "picture": f"{subtask}/{path.stem}"},
        repeated={
          "picture": (there or pictures)[0].name,
          "question": question,
          "answer": answer.strip(),
        },
      )

    lines = files.lines(path)
    rows = [
      {"line": line, "place": place}
      for place, line in enumerate(lines, 1)
      if line.strip()
    ]
    made = [_tried(make, row) for row in rows]
    for row, one in zip(rows, made, strict=True):
      chosen = functools.partial(_of_pair, one, made)
      collector.add(f"{subtask}/{path.name}", row["place"], chosen)


def _tried(make, row):
  """A sample, or why there is none."""
  try:
    return make(row)
  except RowError as error:
    return error


def _of_pair(one, made):
  """One of the samples of a picture, if it has both."""
  if isinstance(one, RowError):
    raise one
  if len(made) != 2:
    raise RowError(f"its picture has {len(made)} questions; MME has two")
  if any(isinstance(other, RowError) for other in made):
    raise RowError(
      "the other question of its picture cannot be used, and MME scores both"
      " together"
    )
  return one


def mmbench(folder: pathlib.Path, protocol: str, collector: Collector) -> None:
  """MMBench: `mmbench_dev*.tsv`; rows of later passes have numbers + k 10^6.

  The test split, which has no answers, serves as well.
  """
  path = tables.find(folder, "*mmbench*dev*.tsv", "*MMBench*.tsv", "*.tsv")[0]
  pictures: dict[int, bytes] = {}

  def make(row):
    index = number(row, "index")
    choices = {}
    for letter in LETTERS[:5]:
      if not prompts.is_text(row.get(letter)):
        break
      choices[letter] = row[letter]
    if len(choices) < 2:
      raise RowError("there are fewer than two choices")
    # Later passes may say which row has the picture.
    image = row["image"]
    if prompts.is_text(image) and image.isdigit() and len(image) < 16:
      picture = pictures.get(int(image))
      if picture is None:
        raise RowError(f"image names the row {image}, which has none")
    else:
      picture = pictures[index] = picture_base64(image)
    return Sample(
      str(index),
      picture,
      prompts.mmbench(row, protocol),
      (one_of(row["answer"], choices, "answer"),) if "answer" in row else (),
      {
        name: row[name]
        for name in ("category", "l2-category")
        if prompts.is_text(row.get(name))
      },
      choices,
      {
        name: "" if value is None else value
        for name, value in row.items()
        if name not in _NOT_SUBMITTED
      },
    )

  _add(collector, path, _numbered(tables.tab_separated(path), make))


def seed(folder: pathlib.Path, protocol: str, collector: Collector) -> None:
  """SEED-Bench: `SEED-Bench.json`, `SEED-Bench-image/`; pictures alone."""
  del protocol
  path = tables.find(folder, "SEED-Bench.json")[0]
  value = tables.read_json(path)
  kinds = {}
  if isinstance(value, dict) and isinstance(value.get("question_type"), dict):
    kinds = {number_: name for name, number_ in value["question_type"].items()}

  def make(row):
    if row.get("data_type", "image") != "image":
      return "it is about a video"
    choices = {
      letter: text(row, f"choice_{letter.lower()}") for letter in LETTERS[:4]
    }
    kind = number(row, "question_type_id")
    return Sample(
      str(row["question_id"]),
      collector.picture_file(folder / "SEED-Bench-image", str(row["data_id"])),
      prompts.letter(text(row, "question"), list(choices.values())),
      (one_of(row["answer"], choices, "answer"),),
      {"type": kinds.get(kind, str(kind))},
      choices,
    )

  rows = tables.listed(path, value, "questions")
  _add(collector, path, _each(rows, make))


def mmstar(folder: pathlib.Path, protocol: str, collector: Collector) -> None:
  """MMStar: `*.parquet`; options are in the questions."""
  del protocol

  def make(row):
    return Sample(
      str(row["index"]),
      picture_bytes(row["image"]),
      prompts.mmstar(text(row, "question")),
      (one_of(row["answer"], LETTERS[:4], "answer"),),
      {name: text(row, name) for name in ("category", "l2_category")},
    )

  for path in tables.find(folder, "*mmstar*.parquet", "*.parquet"):
    _add(collector, path, _numbered(tables.parquet(path), make))


def ocrbench(folder: pathlib.Path, protocol: str, collector: Collector) -> None:
  """OCRBench: `OCRBench.json`, pictures by their `image_path`."""
  del protocol
  path = tables.find(folder, "OCRBench.json", "FullTest.json")[0]

  def make(row):
    answers = row["answers"]
    answers = (answers,) if isinstance(answers, str) else texts(row, "answers")
    return Sample(
      str(row["id"]),
      collector.picture_file(folder, text(row, "image_path")),
      text(row, "question").strip(),
      answers,
      {"type": text(row, "type"), "dataset": text(row, "dataset_name")},
    )

  rows = tables.listed(path, tables.read_json(path))
  _add(collector, path, _each(rows, make))


def scienceqa(
  folder: pathlib.Path, protocol: str, collector: Collector
) -> None:
  """ScienceQA-IMG, test: `problems.json`, `pid_splits.json`, `test/`."""
  path = tables.find(folder, "problems.json")[0]
  problems = tables.read_json(path)
  splits = tables.find(folder, "pid_splits.json")[0]
  names = tables.listed(splits, tables.read_json(splits), "test")

  def make(name):
    row = problems[name]
    if not row.get("image"):
      return "it has no picture"
    choices = texts(row, "choices")
    answer = number(row, "answer")
    if not 0 <= answer < len(choices):
      raise RowError(f"answer is {answer} of {len(choices)} choices")
    hint = text(row, "hint", empty=True)
    return Sample(
      name,
      collector.picture_file(folder / "test", f"{name}/{text(row, 'image')}"),
      prompts.scienceqa(text(row, "question"), choices, hint, protocol),
      (LETTERS[answer],),
      {name: text(row, name) for name in ("subject", "grade")},
      dict(zip(LETTERS, choices, strict=False)),
    )

  made = (
    (place, functools.partial(make, str(name)))
    for place, name in enumerate(names, 1)
  )
  _add(collector, path, made)


def chartqa(folder: pathlib.Path, protocol: str, collector: Collector) -> None:
  """ChartQA, test: `test_human.json`, `test_augmented.json`, `png/`."""
  del protocol

  def make(part, place, row):
    return Sample(
      f"{part}/{place}",
      collector.picture_file(folder / "png", text(row, "imgname")),
      prompts.chartqa(text(row, "query")),
      (text(row, "label"),),
      {"part": part},
    )

  for path in tables.find(folder, "test_*.json"):
    part = path.stem.removeprefix("test_")
    rows = tables.listed(path, tables.read_json(path))
    for place, row in enumerate(rows, 1):
      one = functools.partial(make, part, place)
      collector.add(path.name, place, functools.partial(_made, one, row))


def ai2d(folder: pathlib.Path, protocol: str, collector: Collector) -> None:
  """AI2D, test: `*.parquet` of question, options, answer (a place), image."""
  del protocol

  def make(place, row):
    choices, answer = texts(row, "options"), number(row, "answer")
    if not 0 <= answer < len(choices):
      raise RowError(f"answer is {answer} of {len(choices)} options")
    return Sample(
      str(place),
      picture_bytes(row["image"]),
      prompts.letter(text(row, "question"), choices),
      (LETTERS[answer],),
      choices=dict(zip(LETTERS, choices, strict=False)),
    )

  _in_order(folder, collector, make)


def realworldqa(
  folder: pathlib.Path, protocol: str, collector: Collector
) -> None:
  """RealWorldQA: `*.parquet`; options and instruction are in the questions."""
  del protocol

  def make(place, row):
    return Sample(
      str(place),
      picture_bytes(row["image"]),
      text(row, "question").strip(),
      (text(row, "answer").strip(),),
    )

  _in_order(folder, collector, make)


def _in_order(folder, collector, make):
  """Rows of all Parquet files, which have no ids of their own."""
  count = 0
  for path in tables.find(folder, "*test*.parquet", "*.parquet"):
    for place, row in tables.parquet(path):
      count += 1
      one = functools.partial(make, count)
      collector.add(path.name, place, functools.partial(_made, one, row))


def mmvet(folder: pathlib.Path, protocol: str, collector: Collector) -> None:
  """MM-Vet: `mm-vet.json`, `images/`."""
  del protocol
  path = tables.find(folder, "mm-vet.json")[0]
  rows = tables.read_json(path)
  rows = rows if isinstance(rows, dict) else {}

  def make(name, row):
    return Sample(
      name,
      collector.picture_file(folder / "images", text(row, "imagename")),
      text(row, "question"),
      (text(row, "answer"),),
      {"capabilities": ",".join(sorted(texts(row, "capability")))},
    )

  made = (
    (place, functools.partial(_made, functools.partial(make, name), row))
    for place, (name, row) in enumerate(rows.items(), 1)
  )
  _add(collector, path, made)
