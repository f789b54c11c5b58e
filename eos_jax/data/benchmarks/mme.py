"""Reader of MME; as `readers`."""

import functools
import pathlib

from eos_jax.data import sources
from eos_jax.data.benchmarks import prompts, readers, tables
from eos_jax.data.benchmarks.samples import (
  Collector,
  Sample,
  in_lines,
  one_of,
  valid,
)
from eos_jax.data.faults import RowError

# In the order of MME's tables: perception, then cognition.
SUBTASKS = (
  *("existence", "count", "position", "color", "posters", "celebrity"),
  *("scene", "landmark", "artwork", "OCR"),
  *("commonsense_reasoning", "numerical_calculation"),
  *("text_translation", "code_reasoning"),
)
# The folder in MME's archive, and those in some of its subtasks.
_RELEASE = "MME_Benchmark_release_version"
_IMAGES, _TEXTS = "images", "questions_answers_YN"
_ENDS = (".jpg", ".png")


def read(folder: pathlib.Path, protocol: str, collector: Collector) -> None:
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
  if (folder / _RELEASE).is_dir():
    folder /= _RELEASE
  found = [*folder.glob("*/*.txt"), *folder.glob(f"*/{_TEXTS}/*.txt")]
  subtasks: dict[str, list[pathlib.Path]] = {}
  for path in sorted(found):
    subtasks.setdefault(path.relative_to(folder).parts[0], []).append(path)
  if not subtasks.keys() & set(SUBTASKS):
    raise sources.DataError(
      f"{folder} has no */*.txt or */{_TEXTS}/*.txt in folders named after"
      " the subtasks of MME; give the folder with the files that the benchmark"
      " publishes"
    )
  collector.expect(SUBTASKS, subtasks, "subtasks")
  for subtask in sorted(SUBTASKS):
    there = subtasks.get(subtask, [])
    for path in there:
      _text(subtask, path, collector)
    if lacking := _unasked(folder / subtask, there):
      some = ", ".join(lacking[:5]) + (", ..." if len(lacking) > 5 else "")
      collector.notes.append(
        f"{subtask}: {len(lacking)} pictures have no questions: {some}"
      )


def _folder(path):
  """Where the pictures of a text are."""
  folder = path.parent
  return folder.parent / _IMAGES if folder.name == _TEXTS else folder


def _unasked(folder, paths):
  """Names of pictures without a text."""
  asked = {(_folder(path), path.stem) for path in paths}
  return [
    path.name
    for path in sorted([*folder.glob("*"), *folder.glob(f"{_IMAGES}/*")])
    if path.suffix in _ENDS and (path.parent, path.stem) not in asked
  ]


def _text(subtask, path, collector):
  """Both questions of a picture, or neither."""
  folder = _folder(path)

  def make(row):
    place, line = row
    question, tab, answer = line.partition("\t")
    if not tab:
      raise RowError("there is no tab between question and answer")
    pictures = [f"{path.stem}{end}" for end in _ENDS]
    there = [name for name in pictures if (folder / name).is_file()]
    picture = (there or pictures)[0]
    label = one_of(answer.strip().lower(), readers.LABELS, "the answer")
    return Sample(
      f"{subtask}/{path.stem}/{place}",
      collector.picture_file(folder, picture),
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
  samples = [readers.tried(functools.partial(make, row)) for row in rows]
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
