"""What is handed in of each benchmark."""

import json

import openpyxl
import pytest

from eos_jax.data import benchmarks
from eos_jax.evaluation import submissions
from tests.data.benchmarks import minis


@pytest.fixture
def submit(tmp_path):
  """Writes the submission of a miniature; returns the folder."""

  def call(name, told, write=None):
    files = tmp_path / "files"
    (write or minis.WRITERS[name])(files)
    samples = benchmarks.read(name, files, "llava").samples
    folder = tmp_path / "submissions"
    submissions.write(folder, name, list(zip(samples, told, strict=True)))
    return folder

  return call


@pytest.mark.parametrize(
  "name, told, wanted",
  [
    (
      "vqav2",
      ["Yes.", "two", "A red"],
      [
        {"question_id": 70, "answer": "yes"},
        {"question_id": 71, "answer": "2"},
        {"question_id": 72, "answer": "red"},
      ],
    ),
    (
      "gqa",
      ["Yes.", "Bed"],
      [
        {"questionId": "1", "prediction": "yes"},
        {"questionId": "2", "prediction": "bed"},
      ],
    ),
    (
      "textvqa",
      ["Nokia", "a"],
      [
        {"question_id": 500, "answer": "Nokia"},
        {"question_id": 501, "answer": "a"},
      ],
    ),
    ("mmvet", ["a", "b"], {"v1_0": "a", "v1_1": "b"}),
  ],
)
def test_json(name, told, wanted, submit):
  text = (submit(name, told) / f"{name}.json").read_text(encoding="utf-8")
  assert json.loads(text) == wanted


def test_lines_of_json(submit):
  text = (submit("seed", ["A", "B"]) / "seed.jsonl").read_text("utf-8")
  assert [json.loads(line) for line in text.splitlines()] == [
    {"question_id": "0", "prediction": "A"},
    {"question_id": "1", "prediction": "B"},
  ]


def test_pope_has_a_file_a_split(submit):
  folder = submit("pope", ["Yes", "No"] * 3)
  for split in ("random", "popular", "adversarial"):
    text = (folder / f"pope_{split}.jsonl").read_text(encoding="utf-8")
    question = "Is there a dog in the image?"
    assert [json.loads(line) for line in text.splitlines()] == [
      {"question": question, "answer": answer} for answer in ("Yes", "No")
    ]


def test_mme_has_a_file_a_subtask(submit):
  told = ["Yes", "Yes,\n\tit is", "Yes", "No", "y", "No"]
  folder = submit("mme", told) / "mme"
  text = (folder / "code_reasoning.txt").read_text(encoding="utf-8")
  end = " Please answer yes or no."
  assert text == (
    f"c.png\tIs it a cat?{end}\tYes\tYes\n"
    f"c.png\tIs it a dog?{end}\tNo\tYes, it is\n"
  )
  text = (folder / "existence.txt").read_text(encoding="utf-8")
  assert [line.split("\t")[0] for line in text.splitlines()] == [
    *("a.jpg", "a.jpg"),
    *("b.jpg", "b.jpg"),
  ]


@pytest.mark.parametrize("write", [minis.mmbench, minis.mmbench_test])
def test_mmbench_is_a_sheet(write, submit):
  told = ["A", "=B1", "the\x0bcat", "(B)"]
  path = submit("mmbench", told, write) / "mmbench.xlsx"
  head, *rows = openpyxl.load_workbook(path).active.values
  answers = ("answer",) if write is minis.mmbench else ()
  assert head == ("index", "question", *"ABCD", "prediction", *answers)
  assert [row[0] for row in rows] == [3, 4, 1000003, 1000004]
  assert rows[1][1:6] == ("And this?", "red", "blue", None, None)
  assert [row[6] for row in rows] == ["A", "=B1", "thecat", "(B)"]


def test_of_others_there_is_nothing(submit, tmp_path):
  submit("chartqa", ["1"] * 3)
  assert not (tmp_path / "submissions").exists()


def test_the_index_of_mmbench_may_be_any_column(submit):
  def write(folder):
    minis.write("mmbench", folder)
    (path,) = folder.glob("*.tsv")
    rows = path.read_text(encoding="utf-8").splitlines()
    rows = [row.split("\t") for row in rows]
    rows = [[row[1], row[0], *row[2:]] for row in rows]
    text = "".join("\t".join(row) + "\n" for row in rows)
    path.write_text(text, encoding="utf-8")

  folder = submit("mmbench", ["A", "B", "C", "D"], write)
  book = openpyxl.load_workbook(folder / "mmbench.xlsx")
  head, first, *_ = book.active.iter_rows(values_only=True)
  assert head[:2] == ("question", "index") and first[1] == 3
