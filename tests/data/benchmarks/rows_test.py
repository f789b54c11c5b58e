"""Rows that are odd: which are used and how, and which are refused and why."""

import json

import pyarrow
import pyarrow.parquet
import pytest

from eos_jax.data import benchmarks, sources
from tests.data.benchmarks import minis

LETTER = "Answer with the option's letter from the given choices directly."


def _read(name, folder, protocol="llava", **options):
  return benchmarks.read(name, folder, protocol, **options)


def _refusal(name, folder):
  with pytest.raises(sources.DataError) as error:
    _read(name, folder)
  return str(error.value)


def _mmbench(folder, **cells):
  """The first row of the miniature with other cells."""
  folder = minis.write("mmbench", folder)
  (path,) = folder.glob("*.tsv")
  head, first, *_ = path.read_text(encoding="utf-8").splitlines()
  columns = head.split("\t")
  row = dict(zip(columns, first.split("\t"), strict=True)) | cells
  text = "\n".join("\t".join(cells) for cells in (row.keys(), row.values()))
  path.write_text(text + "\n", encoding="utf-8")
  return folder


@pytest.mark.parametrize(
  "protocol, options, shown, judged",
  [
    ("lmms_eval", "Two|None|One|Three", "ABCD", "ABCD"),
    ("llava", "Two|None|One|Three", "A", "ACD"),
    ("lmms_eval", "Two|nan|One|Three", "ACD", "ACD"),
    ("llava", "Two|nan|One|Three", "A", "ACD"),
    ("lmms_eval", "NaN|none|N/A|null", "ABCD", "ABCD"),
    ("llava", "1|2|N/A|3", "AB", "ABD"),
    ("lmms_eval", "Two|One||Three", "ABD", "ABD"),
    ("llava", "Two|One||Three", "AB", "ABD"),
    ("lmms_eval", "Two|One||", "AB", "AB"),
    ("lmms_eval", "1|2|3|4|5", "ABCDE", "ABCDE"),
    ("llava", "1|2|3|4|5", "ABCD", "ABCDE"),
  ],
)
def test_options_that_read_like_nothing(
  protocol, options, shown, judged, tmp_path
):
  cells = dict(zip("ABCDE", options.split("|"), strict=False))
  folder = _mmbench(tmp_path, **cells, answer="A")
  (sample,) = _read("mmbench", folder, protocol).samples
  listed = "".join(f"{x}. {cells[x]}\n" for x in shown)
  if protocol == "llava":
    assert sample.prompt == f"What is it?\n{listed}{LETTER}"
  else:
    assert sample.prompt == (
      f"What is it? There are several options:\n{listed}\n{LETTER}"
    )
  assert sample.choices == {x: cells[x] for x in judged}


def test_a_right_option_that_reads_like_nothing_is_one(tmp_path):
  folder = _mmbench(tmp_path, A="1", B="nan", answer="B")
  for protocol in benchmarks.prompts.PROTOCOLS:
    (sample,) = _read("mmbench", folder, protocol).samples
    assert sample.choices == {"A": "1", "B": "nan"} and sample.answers == ("B",)


@pytest.mark.parametrize(
  "hint, llava, lmms", [("None", "", "None "), ("nan", "", ""), ("", "", "")]
)
def test_hints_that_read_like_nothing(hint, llava, lmms, tmp_path):
  folder = _mmbench(tmp_path, hint=hint)
  for protocol, before in (("llava", llava), ("lmms_eval", lmms)):
    (sample,) = _read("mmbench", folder, protocol).samples
    assert sample.prompt.startswith(f"{before}What is it?")


@pytest.mark.parametrize(
  "cells, said",
  [
    ({"index": "1e5"}, "index is '1e5'; expected a whole number"),
    ({"index": "9" * 17}, "expected a whole number"),
    ({"index": "-1"}, "index is -1; expected 0 or more"),
    ({"question": "x" * 32768}, "expected at most 32767 characters"),
    ({"A": "a\x0bb"}, "no control characters, which a sheet cannot hold"),
    ({"image": "é"}, "image is no base64"),
    ({"question": '"a'}, "row 2: unexpected end of data; quotes inside"),
    ({"question": "a\tb"}, "row 2: it has 12 cells; expected 11"),
  ],
)
def test_cells_that_a_sheet_cannot_hold(cells, said, tmp_path):
  assert said in _refusal("mmbench", _mmbench(tmp_path, **cells))


def test_all_passes_of_a_question_of_mmbench_or_none(tmp_path):
  folder = minis.write("mmbench", tmp_path)
  (path,) = folder.glob("*.tsv")
  text = path.read_text(encoding="utf-8")
  rows = text.splitlines(keepends=True)
  broken = rows[3].replace("1000003\tWhat is it?", "1000003\t")
  path.write_text("".join([*rows[:3], broken, rows[4]]), encoding="utf-8")
  said = _refusal("mmbench", folder)
  assert "row 2: another pass of its question cannot be used" in said
  assert "row 4: question is ''; expected a text" in said
  found = _read("mmbench", folder, skip_invalid=True)
  assert [sample.id for sample in found.samples] == ["4", "1000004"]
  path.write_text("".join([*rows[:2], *rows[3:]]), encoding="utf-8")
  said = _refusal("mmbench", folder)
  assert "row 4: the first pass of its question is missing" in said


def _json(folder, name, change):
  path = folder / name
  value = json.loads(path.read_text(encoding="utf-8"))
  value = change(value) or value
  path.write_text(json.dumps(value), encoding="utf-8")


@pytest.mark.parametrize("name", ["vqav2", "textvqa"])
def test_ids_that_a_submission_cannot_hold(name, tmp_path):
  folder = minis.write(name, tmp_path)
  file, rows = {
    "vqav2": ("v2_OpenEnded_mscoco_val2014_questions.json", "questions"),
    "textvqa": ("TextVQA_0.5.1_val.json", "data"),
  }[name]
  for given in ("q7", 7.5, None, [7], float("inf"), 10**30, True):

    def change(value, given=given):
      value[rows][1]["question_id"] = given

    _json(folder, file, change)
    said = _refusal(name, folder)
    assert f"{file}, row 2: question_id is " in said
    assert "expected a whole number" in said
    found = _read(name, folder, skip_invalid=True)
    assert [fault.row for fault in found.faults] == [2]


def test_words_of_an_ocr_system_without_image_id(tmp_path):
  folder = minis.write("textvqa_ocr", tmp_path)
  file = "TextVQA_Rosetta_OCR_v0.2_val.json"

  def change(value):
    value["data"] = [value["data"][0], {"ocr_tokens": ["A"]}, None]

  _json(folder, file, change)
  said = _refusal("textvqa_ocr", folder)
  assert f"{file}, row 2: the field 'image_id' is missing" in said
  assert f"{file}, row 3: it is NoneType; expected an object" in said
  assert "row 2: image_id 'img1' has no words in" in said
  found = _read("textvqa_ocr", folder, skip_invalid=True)
  assert len(found.samples) == 1 and len(found.faults) == 3


def test_answers_that_are_null(tmp_path):
  folder = minis.write("vqav2", tmp_path)

  def change(value):
    value["annotations"][0]["answers"] = None
    value["annotations"][1]["answers"][3] = None
    value["annotations"][2]["answers"][3]["answer"] = None

  _json(folder, "v2_mscoco_val2014_annotations.json", change)
  said = _refusal("vqav2", folder).splitlines()
  assert said[1:] == [
    f"  v2_OpenEnded_mscoco_val2014_questions.json, row {row}: {what}"
    for row, what in (
      (1, "answers is empty; expected those of ten people"),
      (2, "answers has entries that are no objects"),
      (3, "answer is None; expected a text"),
    )
  ]


@pytest.mark.parametrize(
  "name, said",
  [
    ("x" * 300 + ".png", "cannot be a file name (File name too long)"),
    ("../test_human.json", "leads out of the image folder"),
    ("/etc/hostname", "has an absolute path"),
    ("../png/../1.png", "does not exist"),
    ("\ud83d.png", "which is not UTF-8"),
    ("a\0b.png", "cannot be a file name (embedded null byte)"),
  ],
)
def test_names_of_pictures(name, said, tmp_path):
  folder = minis.write("chartqa", tmp_path)

  def change(value):
    value[0]["imgname"] = name

  _json(folder, "test_human.json", change)
  line = _refusal("chartqa", folder).splitlines()[1]
  assert line.startswith("  test_human.json, row 1: ") and said in line
  assert len(_read("chartqa", folder, skip_invalid=True).samples) == 2


def test_line_ends_inside_texts(tmp_path):
  marks = "a\u2028b\u2029c\x85d\x0be\x0cf"
  folder = minis.write("pope", tmp_path / "pope")
  path = folder / "coco_pope_random.json"
  row = json.loads(path.read_text(encoding="utf-8").splitlines()[0])
  text = json.dumps(row | {"text": marks}, ensure_ascii=False)
  for mark in "\x0b\x0c":  # JSON wants them escaped
    text = text.replace(mark, json.dumps(mark)[1:-1])
  path.write_text(text + "\r\n", encoding="utf-8", newline="")
  assert _read("pope", folder).samples[-1].prompt.startswith(marks)
  folder = minis.write("mme", tmp_path / "mme")
  path = folder / "existence" / "a.txt"
  text = f"{marks}\tYes\r\nIs it?\tNo"
  path.write_text(text, encoding="utf-8", newline="")
  prompts = [sample.prompt for sample in _read("mme", folder).samples]
  assert [x.startswith(f"{marks}\nAnswer") for x in prompts].count(True) == 1


@pytest.mark.parametrize(
  "name, pattern, old",
  [
    ("pope", "coco_pope_random.json", "Is there"),
    ("mme", "existence/a.txt", "Is it a dog"),
    ("mmbench", "*.tsv", "And this"),
    ("chartqa", "test_human.json", "Which"),
    ("gqa", "*.json", "What is it"),
  ],
)
def test_rows_that_are_not_utf_8_are_named(name, pattern, old, tmp_path):
  folder = minis.write(name, tmp_path)
  (path,) = folder.glob(pattern)
  data = path.read_bytes()
  path.write_bytes(data.replace(old.encode(), b"Caf\xe9", 1))
  said = _refusal(name, folder)
  assert f"{path.name}, row " in said and "which is not UTF-8" in said
  whole = len(
    _read(name, minis.write(name, tmp_path / "b"), skip_invalid=True).samples
  )
  found = _read(name, folder, skip_invalid=True)
  assert found.faults
  assert len(found.samples) + len(found.faults) == whole
  path.write_bytes(data.decode().encode("utf-16"))
  assert f"{path.name} cannot be read" in _refusal(name, folder)
  path.write_bytes(b"\xef\xbb\xbf" + data)
  assert len(_read(name, folder).samples) == whole


def test_tables_with_texts_that_are_not_utf_8(tmp_path):
  folder = minis.write("realworldqa", tmp_path)
  (path,) = folder.glob("*.parquet")
  table = pyarrow.parquet.read_table(path)
  raw = pyarrow.array([b"Which?\n", b"Caf\xe9"], pyarrow.binary())
  column = pyarrow.StringArray.from_buffers(
    2, raw.buffers()[1], raw.buffers()[2]
  )
  place = table.column_names.index("question")
  table = table.set_column(place, "question", column)
  pyarrow.parquet.write_table(table, path)
  assert "test.parquet, row 2: a text is not UTF-8" in _refusal(
    "realworldqa", folder
  )
  assert len(_read("realworldqa", folder, skip_invalid=True).samples) == 1


def test_names_of_rows_that_are_there_twice(tmp_path):
  folder = minis.write("gqa", tmp_path)
  path = folder / "testdev_balanced_questions.json"
  text = path.read_text(encoding="utf-8").replace('"2": {', '"1": {')
  path.write_text(text, encoding="utf-8")
  assert "row 2: id '1' is there a second time" in _refusal("gqa", folder)


def test_long_values_are_shortened(tmp_path):
  folder = minis.write("chartqa", tmp_path)

  def change(value):
    value[0]["label"] = ["x" * 10**6] * 9

  _json(folder, "test_human.json", change)
  assert len(_refusal("chartqa", folder)) < 500
