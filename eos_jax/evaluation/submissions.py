"""Answers in the files that servers, judges and official scripts read.

Sources: haotian-liu/LLaVA `scripts/convert_*_for_submission.py`,
`scripts/convert_gqa_for_eval.py`, `scripts/convert_mmvet_for_eval.py`;
AoiDragon/POPE `evaluate.py`; BradyFU/Awesome-Multimodal-Large-Language-Models,
branch Evaluation, `tools/eval_tool.zip`.
"""

from collections.abc import Callable, Sequence
import json
import pathlib
from typing import Any

import openpyxl
from openpyxl.cell import cell as cells

from eos_jax import files
from eos_jax.evaluation.scoring import texts, vqa

Answered = Sequence[tuple[Any, str]]  # samples and the texts given

# Place of the answers among the columns of MMBench.
_MMBENCH_COLUMN = 6


def write(folder: pathlib.Path, name: str, answered: Answered) -> None:
  """Writes what is handed in of a benchmark; of some there is nothing.

  Args:
    folder: for the files.
    name: of the benchmark.
    answered: samples, as `data.benchmarks.samples.Sample`, and the texts given.
  """
  if name in _WRITERS:
    folder.mkdir(parents=True, exist_ok=True)
    _WRITERS[name](folder, answered)


def _listed(name: str, row: Callable[[str, str], dict[str, Any]]):
  """A JSON list with an object an answer."""

  def make(folder, answered):
    listed = [row(sample.id, text) for sample, text in answered]
    files.write_json(folder / f"{name}.json", listed)

  return make


def _write_lines(path, rows):
  lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
  files.write_text(path, "".join(lines))


def _seed(folder, answered):
  rows = [
    {"question_id": sample.id, "prediction": text} for sample, text in answered
  ]
  _write_lines(folder / "seed.jsonl", rows)


def _mmvet(folder, answered):
  """For the judge; marks that it gave to other answers are put aside."""
  found = {sample.id: text for sample, text in answered}
  path, marks = folder / "mmvet.json", folder / "mmvet_marks.json"
  if marks.is_file() and path.is_file() and _other(path, found):
    aside = folder / "mmvet_marks.of_other_answers.json"
    marks.replace(aside)
    print(
      f"note: {marks} has marks of answers that have changed since; it is now"
      f" {aside.name}, and MM-Vet is not scored until its judge has marked"
      f" {path}",
      flush=True,
    )
  files.write_json(path, found)


def _other(path, found):
  """Whether a file does not hold these answers."""
  try:
    return files.read_json(path) != found
  except ValueError:
    return True


def _pope(folder, answered):
  splits: dict[str, list[dict[str, str]]] = {}
  for sample, text in answered:
    row = {"question": sample.repeated["question"], "answer": text}
    splits.setdefault(sample.groups["split"], []).append(row)
  for split, rows in splits.items():
    _write_lines(folder / f"pope_{split}.jsonl", rows)


def _mme(folder, answered):
  """A text a subtask: picture, question, right answer, answer, with tabs."""
  subtasks: dict[str, list[str]] = {}
  for sample, text in answered:
    row = [*sample.repeated.values(), " ".join(text.split())]
    lines = subtasks.setdefault(sample.groups["subtask"], [])
    lines.append("\t".join(row) + "\n")
  (folder / "mme").mkdir(exist_ok=True)
  for subtask, lines in subtasks.items():
    files.write_text(folder / "mme" / f"{subtask}.txt", "".join(lines))


def _mmbench(folder, answered):
  """An Excel sheet with the columns that the server wants."""
  book = openpyxl.Workbook(write_only=True)
  sheet = book.create_sheet()

  def add(values, given):
    row = [*values[:_MMBENCH_COLUMN], given, *values[_MMBENCH_COLUMN:]]
    sheet.append([_cell(sheet, value) for value in row])

  for number, (sample, text) in enumerate(answered):
    if not number:
      add(list(sample.repeated), "prediction")
    row = {**sample.repeated, "index": int(sample.id)}
    add(list(row.values()), text)
  with files.whole(folder / "mmbench.xlsx") as file:
    book.save(file)


def _cell(sheet, value):
  """A cell that shows its text, whatever it begins with."""
  if isinstance(value, str):
    value = cells.ILLEGAL_CHARACTERS_RE.sub("", value)
  made = cells.WriteOnlyCell(sheet, value)
  if isinstance(value, str):
    made.data_type = "s"  # "=..." would be a formula
  return made


_WRITERS: dict[str, Callable[[pathlib.Path, Answered], None]] = {
  "vqav2": _listed(
    "vqav2",
    lambda name, text: {
      "question_id": int(name),
      "answer": vqa.submitted(text),
    },
  ),
  "textvqa": _listed(
    "textvqa", lambda name, text: {"question_id": int(name), "answer": text}
  ),
  "textvqa_ocr": _listed(
    "textvqa_ocr", lambda name, text: {"question_id": int(name), "answer": text}
  ),
  "gqa": _listed(
    "gqa",
    lambda name, text: {
      "questionId": name,
      "prediction": texts.gqa_converted(text),
    },
  ),
  "seed": _seed,
  "pope": _pope,
  "mme": _mme,
  "mmbench": _mmbench,
  "mmvet": _mmvet,
}
