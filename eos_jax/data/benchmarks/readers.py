"""Readers of the benchmarks without options, from their official files.

Each takes a folder, a protocol (`prompts.PROTOCOLS`) and a `Collector`, which
gets every row. File names are those under which the benchmarks publish
them; a shorter file in the same form serves as well.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
import functools
import pathlib
import re
from typing import Any

from eos_jax.data import sources
from eos_jax.data.benchmarks import prompts, tables
from eos_jax.data.benchmarks.samples import (
  Collector,
  Sample,
  identifier,
  in_lines,
  mapping,
  number,
  one_of,
  picture_bytes,
  text,
  texts,
  valid,
)
from eos_jax.data.faults import RowError

POPE_SPLITS = ("random", "popular", "adversarial")
CHARTQA_PARTS = ("human", "augmented")
# In the order of MME's tables: perception, then cognition.
MME_SUBTASKS = (
  *("existence", "count", "position", "color", "posters", "celebrity"),
  *("scene", "landmark", "artwork", "OCR"),
  *("commonsense_reasoning", "numerical_calculation"),
  *("text_translation", "code_reasoning"),
)
# The folder in MME's archive, and those in some of its subtasks.
_MME_RELEASE = "MME_Benchmark_release_version"
_MME_IMAGES, _MME_TEXTS = "images", "questions_answers_YN"
_MME_ENDS = (".jpg", ".png")
_LABELS = ("yes", "no")
_VQAV2_NAME = "v2_OpenEnded_mscoco_{}_questions.json"

Make = Callable[[Any], Sample | str]


def made(make: Make, row: Any) -> Sample | str:
  """What `make` makes of a row that is an object."""
  if isinstance(row, RowError):
    raise row
  if not isinstance(row, Mapping):
    raise RowError(f"it is {type(row).__name__}; expected an object")
  return make(row)


def tried(make: Callable[[], Any]) -> Any:
  """A sample, or the error that says why there is none."""
  try:
    return make()
  except (KeyError, RowError) as error:
    return error


def add(
  collector: Collector,
  path: pathlib.Path,
  rows: Iterable[tuple[int, Any]],
  make: Make,
) -> None:
  """Adds numbered rows of a file."""
  for place, row in rows:
    collector.add(path.name, place, functools.partial(made, make, row))


def add_named(
  collector: Collector,
  path: pathlib.Path,
  make: Callable[[str, Any], Sample | str],
) -> None:
  """Adds the rows of a file that is an object, by their names."""
  for place, (name, row) in enumerate(tables.entries(path), 1):
    one = functools.partial(_named, make, name)
    collector.add(path.name, place, functools.partial(made, one, row))


def _named(make, name, row):
  return make(identifier({"id": name}, "id"), row)


def _known(
  collector: Collector,
  path: pathlib.Path,
  name: str,
  key: Callable[[Any], Any],
) -> dict[Any, Mapping[str, Any]]:
  """Rows of a file that belongs to the questions, by key.

  Only rows without a usable key, or with one that is there twice, are faults of
  this file; others are read where a question asks for them.

  Args:
    collector: takes the faults.
    path: the file.
    name: of the list in it.
    key: makes the key of a row.
  """
  found: dict[Any, Mapping[str, Any]] = {}

  def keep(row):
    if found.setdefault(key(row), row) is not row:
      raise RowError(f"{key(row)!r} is there a second time; give each once")

  rows = tables.listed(path, tables.read_json(path), name)
  for place, row in enumerate(rows, 1):
    collector.tried(path.name, place, functools.partial(made, keep, row))
  return found


def vqav2(folder: pathlib.Path, protocol: str, collector: Collector) -> None:
  """VQAv2: `v2_OpenEnded_mscoco_*_questions.json`, its annotations.

  Of val2014 if it is there, else of test-dev2015 or test2015, whose annotations
  are not published.
  """
  del protocol  # both word it alike
  splits = ("val2014", "test-dev2015", "test2015", "*")
  rules = [_VQAV2_NAME.format(split) for split in splits]
  (questions,) = collector.questions_in(folder, *rules)
  named = re.fullmatch(_VQAV2_NAME.format("([^_]+)"), questions.name)
  if not named:
    raise sources.DataError(
      f"{questions}: the name does not say which split it is of; expected"
      f" {rules[0]} or that of another split"
    )
  split = named[1]
  pictures = split.replace("-dev", "")  # test-dev2015 has those of test2015
  hidden = split.startswith("test")
  known: dict[int, Mapping[str, Any]] = {}
  if not hidden:
    people = collector.companion(folder, f"v2_mscoco_{split}_annotations.json")
    key = functools.partial(number, name="question_id")
    known = _known(collector, people, "annotations", key)

  def told(asked):
    if asked not in known:
      raise RowError(f"question_id {asked} is not in {people.name}")
    row = known[asked]
    answers = row["answers"]
    if not isinstance(answers, list) or not answers:
      raise RowError("answers is empty; expected those of ten people")
    if not all(isinstance(answer, Mapping) for answer in answers):
      raise RowError("answers has entries that are no objects")
    return tuple(text(answer, "answer", empty=True) for answer in answers), {
      "answer type": text(row, "answer_type"),
      "question type": text(row, "question_type"),
    }

  def make(row):
    asked = number(row, "question_id")
    name = f"COCO_{pictures}_{number(row, 'image_id'):012d}.jpg"
    return Sample(
      str(asked),
      collector.picture_file(folder / pictures, name),
      prompts.short(text(row, "question")),
      *(((), {}) if hidden else told(asked)),
    )

  rows = tables.listed(questions, tables.read_json(questions), "questions")
  add(collector, questions, enumerate(rows, 1), make)


def gqa(folder: pathlib.Path, protocol: str, collector: Collector) -> None:
  """GQA: `testdev_balanced_questions.json`, `images/`.

  Without test-dev another split, in the order of the rules; those of the
  challenge and the test have no answers.
  """
  del protocol
  (path,) = collector.questions_in(
    folder,
    "testdev_balanced_questions.json",
    "testdev_all_questions.json",
    "val_balanced_questions.json",
    "val_all_questions.json",
    "*_balanced_questions.json",
    "*questions*.json",
  )

  def make(name, row):
    if row.get("isBalanced", True) is not True:
      return "not in the balanced set"
    image = identifier(row, "imageId")
    answers, groups = (), {}
    if "answer" in row or "types" in row:
      types = mapping(row, "types")
      structural = text(types, "structural")
      answers = (text(row, "answer"),)
      groups = {
        "answers": "open" if structural == "query" else "binary",
        "structural": structural,
        "semantic": text(types, "semantic"),
      }
    return Sample(
      name,
      collector.picture_file(folder / "images", f"{image}.jpg"),
      prompts.short(text(row, "question")),
      answers,
      groups,
    )

  add_named(collector, path, make)


def textvqa(
  folder: pathlib.Path,
  protocol: str,
  collector: Collector,
  *,
  ocr: bool = False,
) -> None:
  """TextVQA, val: `TextVQA_0.5.1_val.json`, `train_images/`.

  With `ocr` the prompt names the words of `TextVQA_Rosetta_OCR_v0.2_val.json`.
  """
  (path,) = collector.questions_in(
    folder,
    "TextVQA_0.5.1_val.json",
    "TextVQA_*_val.json",
    unless=("TextVQA_Rosetta_*",),
  )
  words: dict[str, Mapping[str, Any]] = {}
  if ocr:
    found = collector.companion(
      folder,
      "TextVQA_Rosetta_OCR_v0.2_val.json",
      "TextVQA_Rosetta_OCR_*val.json",
    )
    key = functools.partial(text, name="image_id")
    words = _known(collector, found, "data", key)

  def tokens(name):
    if name not in words:
      raise RowError(f"image_id {name!r} has no words in {found.name}")
    return texts(words[name], "ocr_tokens", empty=True)

  def make(row):
    name = text(row, "image_id")
    return Sample(
      str(number(row, "question_id")),
      collector.picture_file(folder / "train_images", f"{name}.jpg"),
      prompts.textvqa(
        text(row, "question"), tokens(name) if ocr else None, protocol
      ),
      texts(row, "answers"),
    )

  rows = tables.listed(path, tables.read_json(path), "data")
  add(collector, path, enumerate(rows, 1), make)


def pope(folder: pathlib.Path, protocol: str, collector: Collector) -> None:
  """POPE: `coco_pope_{random,popular,adversarial}.json`, `val2014/`."""
  del protocol

  def make(split, row):
    label = one_of(text(row, "label").lower().strip(), _LABELS, "label")
    asked = text(row, "text")
    return Sample(
      f"{split}/{identifier(row, 'question_id')}",
      collector.picture_file(folder / "val2014", text(row, "image")),
      prompts.short(asked),
      (label,),
      {"split": split},
      repeated={"question": asked},
    )

  for split, path in _parts(collector, folder, "coco_pope_", POPE_SPLITS):
    rows = tables.json_lines(path)
    add(collector, path, rows, functools.partial(make, split))


def _parts(collector, folder, prefix, parts) -> Iterator[Any]:
  """Parts that a benchmark has a file each of, and their files."""
  paths = collector.questions_in(folder, f"{prefix}*.json", several=True)
  found = {path.stem.removeprefix(prefix): path for path in paths}
  collector.expect(parts, found, "parts")
  for part, path in found.items():
    if part in parts or collector.files:
      yield part, path


def mme(folder: pathlib.Path, protocol: str, collector: Collector) -> None:
  """MME: a folder a subtask; a text of two lines for each picture.

  Pictures and texts lie together, or in `images/` and `questions_answers_YN/`;
  in the release some subtasks have the one layout and some the other.
  """
  del protocol
  if collector.files:
    raise sources.DataError(
      "data.files names files of mme, whose questions are in a folder a"
      " subtask; leave it out"
    )
  if (folder / _MME_RELEASE).is_dir():
    folder /= _MME_RELEASE
  found = [*folder.glob("*/*.txt"), *folder.glob(f"*/{_MME_TEXTS}/*.txt")]
  subtasks: dict[str, list[pathlib.Path]] = {}
  for path in sorted(found):
    subtasks.setdefault(path.relative_to(folder).parts[0], []).append(path)
  if not subtasks.keys() & set(MME_SUBTASKS):
    raise sources.DataError(
      f"{folder} has no */*.txt or */{_MME_TEXTS}/*.txt in folders named after"
      " the subtasks of MME; give the folder with the files that the benchmark"
      " publishes"
    )
  collector.expect(MME_SUBTASKS, subtasks, "subtasks")
  for subtask in sorted(MME_SUBTASKS):
    there = subtasks.get(subtask, [])
    for path in there:
      _mme_text(subtask, path, collector)
    if lacking := _mme_unasked(folder / subtask, there):
      some = ", ".join(lacking[:5]) + (", ..." if len(lacking) > 5 else "")
      collector.notes.append(
        f"{subtask}: {len(lacking)} pictures have no questions: {some}"
      )


def _mme_folder(path):
  """Where the pictures of a text are."""
  beside = path.parent
  return beside.parent / _MME_IMAGES if beside.name == _MME_TEXTS else beside


def _mme_unasked(folder, paths):
  """Names of pictures without a text."""
  asked = {(_mme_folder(path), path.stem) for path in paths}
  return [
    path.name
    for path in sorted([*folder.glob("*"), *folder.glob(f"{_MME_IMAGES}/*")])
    if path.suffix in _MME_ENDS and (path.parent, path.stem) not in asked
  ]


def _mme_text(subtask, path, collector):
  """Both questions of a picture, or neither."""
  beside = _mme_folder(path)

  def make(row):
    place, line = row
    question, tab, answer = line.partition("\t")
    if not tab:
      raise RowError("there is no tab between question and answer")
    pictures = [f"{path.stem}{end}" for end in _MME_ENDS]
    there = [name for name in pictures if (beside / name).is_file()]
    picture = (there or pictures)[0]
    label = one_of(answer.strip().lower(), _LABELS, "the answer")
    return Sample(
      f"{subtask}/{path.stem}/{place}",
      collector.picture_file(beside, picture),
      prompts.mme(in_lines(valid(question, "the question"), "the question")),
      (label,),
      {"subtask": subtask, "picture": f"{subtask}/{path.stem}"},
      repeated={
        "picture": in_lines(picture, "the name of the picture"),
        "question": question,
        "answer": answer.strip(),
      },
    )

  rows = list(tables.lines(path, "a text of questions"))
  samples = [tried(functools.partial(make, row)) for row in rows]
  for (place, _), one in zip(rows, samples, strict=True):
    chosen = functools.partial(_of_pair, one, samples)
    collector.add(f"{subtask}/{path.name}", place, chosen)


def _of_pair(one, samples):
  """One of the samples of a picture, if it has both."""
  if isinstance(one, Exception):
    raise one
  if len(samples) != 2:
    raise RowError(f"its picture has {len(samples)} questions; MME has two")
  if any(isinstance(other, Exception) for other in samples):
    raise RowError(
      "the other question of its picture cannot be used, and MME scores both"
      " together"
    )
  return one


def ocrbench(folder: pathlib.Path, protocol: str, collector: Collector) -> None:
  """OCRBench: `OCRBench.json`, pictures by their `image_path`.

  Ids start anew in each of its data sets.
  """
  del protocol
  (path,) = collector.questions_in(folder, "OCRBench.json", "FullTest.json")

  def make(row):
    answers = row["answers"]
    answers = texts(
      {"answers": [answers] if isinstance(answers, str) else answers}, "answers"
    )
    dataset = text(row, "dataset_name")
    return Sample(
      f"{dataset}/{identifier(row, 'id')}",
      collector.picture_file(folder, text(row, "image_path")),
      text(row, "question").strip(),
      answers,
      {"type": text(row, "type"), "dataset": dataset},
    )

  rows = tables.listed(path, tables.read_json(path))
  add(collector, path, enumerate(rows, 1), make)


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

  for part, path in _parts(collector, folder, "test_", CHARTQA_PARTS):
    rows = tables.listed(path, tables.read_json(path))
    for place, row in enumerate(rows, 1):
      one = functools.partial(make, part, place)
      add(collector, path, [(place, row)], one)


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

  in_order(folder, collector, make)


def in_order(
  folder: pathlib.Path,
  collector: Collector,
  make: Callable[[int, Any], Sample | str],
  unless: tuple[str, ...] = (),
) -> None:
  """Adds rows of Parquet files, which have no ids, with their numbers."""
  rules = ("*test*.parquet", "*.parquet")
  count = 0
  for path in collector.questions_in(
    folder, *rules, unless=unless, several=True
  ):
    for place, row in tables.parquet(path):
      count += 1
      add(collector, path, [(place, row)], functools.partial(make, count))


def mmvet(folder: pathlib.Path, protocol: str, collector: Collector) -> None:
  """MM-Vet: `mm-vet.json`, `images/`."""
  del protocol
  (path,) = collector.questions_in(folder, "mm-vet.json")

  def make(name, row):
    return Sample(
      name,
      collector.picture_file(folder / "images", text(row, "imagename")),
      text(row, "question"),
      (text(row, "answer"),),
      {"capabilities": ",".join(sorted(texts(row, "capability")))},
    )

  add_named(collector, path, make)
