"""Official files become questions, and rows that cannot be used are told."""

import base64
import json
import re
import shutil

import pytest

from eos_jax.data import benchmarks, processors, sources
from eos_jax.data.benchmarks import prompts
from tests.data.benchmarks import minis

COUNTS = {
  "vqav2": 3,
  "gqa": 2,
  "textvqa": 2,
  "textvqa_ocr": 2,
  "pope": 6,
  "mme": 6,
  "mmbench": 4,
  "seed": 2,
  "mmstar": 3,
  "ocrbench": 2,
  "scienceqa": 2,
  "chartqa": 3,
  "ai2d": 2,
  "realworldqa": 2,
  "mmvet": 2,
}
LEFT_OUT = {
  "gqa": {"not in the balanced set": 1},
  "seed": {"it is about a video": 1},
  "scienceqa": {"it has no picture": 1},
}


def test_every_benchmark_has_a_miniature():
  assert set(COUNTS) == set(benchmarks.READERS) == set(minis.WRITERS)


@pytest.mark.parametrize("protocol", prompts.PROTOCOLS)
@pytest.mark.parametrize("name", COUNTS)
def test_every_benchmark_is_read(name, protocol, tmp_path):
  found = benchmarks.read(name, minis.write(name, tmp_path), protocol)
  assert len(found.samples) == COUNTS[name] and not found.faults
  assert dict(found.left_out) == LEFT_OUT.get(name, {})
  for sample in found.samples:
    assert processors.open_picture(sample.picture).size == (16, 12)
    assert sample.prompt and all(sample.answers)
    assert not sample.choices or name == "mmvet" or sample.answers[0].isupper()


def _prompts(name, protocol, folder):
  found = benchmarks.read(name, minis.write(name, folder), protocol)
  return [sample.prompt for sample in found.samples]


def test_protocols_word_questions_differently(tmp_path):
  letter = "Answer with the option's letter from the given choices directly."
  assert _prompts("mmbench", "llava", tmp_path / "a")[1] == (
    f"A hint.\nAnd this?\nA. red\nB. blue\n{letter}"
  )
  assert _prompts("mmbench", "lmms_eval", tmp_path / "a")[1] == (
    f"A hint. And this? There are several options:\nA. red\nB. blue\n\n{letter}"
  )
  assert _prompts("scienceqa", "llava", tmp_path / "b") == [
    f"Context: {hint}\nQuestion: Which?\nOptions: (A) red (B) blue\n{letter}"
    for hint in ("N/A", "Look.")
  ]
  assert _prompts("textvqa_ocr", "llava", tmp_path / "c")[0] == (
    "what brand is it?\nReference OCR token: STOP\nAnswer the question using a"
    " single word or phrase."
  )
  assert _prompts("textvqa", "lmms_eval", tmp_path / "c")[0].startswith(
    "What brand is it?\nAnswer"
  )
  assert "yes or no" not in _prompts("mme", "llava", tmp_path / "d")[0]


def _change(path, change):
  value = json.loads(path.read_text(encoding="utf-8"))
  change(value)
  path.write_text(json.dumps(value), encoding="utf-8")


def _refusal(name, folder):
  with pytest.raises(sources.DataError) as error:
    benchmarks.read(name, folder, "llava")
  return str(error.value)


def test_rows_that_cannot_be_used_are_refused_or_set_apart(tmp_path):
  folder = minis.write("chartqa", tmp_path)
  rows = [
    {"imgname": "1.png", "query": "How many?", "label": "10"},
    {"imgname": "9.png", "query": "How many?", "label": "10"},
    {"imgname": "1.png", "query": " ", "label": "10"},
    {"imgname": "1.png", "label": "10"},
    ["no object"],
  ]
  (folder / "test_human.json").write_text(json.dumps(rows), encoding="utf-8")
  said = _refusal("chartqa", folder).splitlines()
  assert said[0].startswith("4 rows cannot be used; correct them")
  assert said[1].startswith("  test_human.json, row 2: the picture ")
  assert said[2:] == [
    "  test_human.json, row 3: query is ' '; expected a text",
    "  test_human.json, row 4: the field 'query' is missing",
    "  test_human.json, row 5: it is list; expected an object",
  ]
  found = benchmarks.read("chartqa", folder, "llava", skip_invalid=True)
  assert [sample.id for sample in found.samples] == ["augmented/1", "human/1"]
  assert [fault.row for fault in found.faults] == [2, 3, 4, 5]


def test_lines_of_json(tmp_path):
  folder = minis.write("pope", tmp_path)
  path = folder / "coco_pope_random.json"
  lines = path.read_text(encoding="utf-8").splitlines()
  maybe = lines[1].replace('"no"', '"maybe"')
  text = "\n".join([lines[0], lines[0], "{", maybe])
  path.write_text(text, encoding="utf-8")
  said = _refusal("pope", folder)
  assert "row 2: id 'random/1' is there a second time" in said
  assert "row 3: no JSON" in said
  assert "row 4: label is 'maybe'; expected one of yes, no" in said


def test_pictures_in_tables(tmp_path):
  folder = minis.write("mmbench", tmp_path)
  path = next(folder.glob("*.tsv"))
  lines = path.read_text(encoding="utf-8").splitlines()
  cells = [line.split("\t") for line in lines]
  cells[1][-1] = "no base64!"
  cells[2][-1] = base64.b64encode(b"no picture").decode()
  cells[3][cells[0].index("answer")] = "C"
  cells[4][-1] = "9"
  text = "\n".join("\t".join(row) for row in cells)
  path.write_text(text + "\n", encoding="utf-8")
  said = _refusal("mmbench", folder)
  assert "row 2: image is no base64" in said
  assert "row 3: image is no picture" in said
  assert "row 4: answer is 'C'; expected one of A, B" in said
  assert "row 5: image names the row 9, which has none" in said


def test_later_passes_may_name_the_row_of_their_picture(tmp_path):
  folder = minis.write("mmbench", tmp_path)
  path = next(folder.glob("*.tsv"))
  lines = path.read_text(encoding="utf-8").splitlines()
  cells = [line.split("\t") for line in lines]
  cells[3][-1], cells[4][-1] = "3", "4"
  text = "\n".join("\t".join(row) for row in cells)
  path.write_text(text + "\n", encoding="utf-8")
  found = benchmarks.read("mmbench", folder, "llava").samples
  assert found[2].picture == found[0].picture


def test_splits_whose_answers_are_hidden(tmp_path):
  for write, name, count in (
    (minis.vqav2_test, "vqav2", 2),
    (minis.mmbench_test, "mmbench", 4),
  ):
    write(tmp_path / name)
    found = benchmarks.read(name, tmp_path / name, "llava").samples
    assert [sample.answers for sample in found] == [()] * count
    assert processors.open_picture(found[0].picture).size == (16, 12)


def test_both_questions_of_a_picture_of_mme_or_none(tmp_path):
  folder = minis.write("mme", tmp_path)
  path = folder / "existence" / "a.txt"
  path.write_text("Is it?\tYes\nIs it not?\tMaybe\n", encoding="utf-8")
  path = folder / "existence" / "b.txt"
  path.write_text("Is it?\tYes\n", encoding="utf-8")
  said = _refusal("mme", folder)
  assert "existence/a.txt, row 1: the other question of its picture" in said
  assert "existence/a.txt, row 2: the answer is 'maybe'" in said
  assert "existence/b.txt, row 1: its picture has 1 questions; MME has" in said
  found = benchmarks.read("mme", folder, "llava", skip_invalid=True)
  assert len(found.samples) == 2 and len(found.faults) == 3


def test_questions_that_nobody_answered(tmp_path):
  folder = minis.write("vqav2", tmp_path)
  path = folder / "v2_mscoco_val2014_annotations.json"

  def change(value):
    value["annotations"][0]["answers"] = []
    value["annotations"][1]["question_id"] = 5

  _change(path, change)
  said = _refusal("vqav2", folder)
  assert "row 1: answers is empty; expected those of ten people" in said
  assert "row 2: question_id 71 is not in v2_mscoco_val2014_annot" in said


def test_files_that_are_missing_or_of_another_form(tmp_path):
  assert "has no SEED-Bench.json; give the folder" in _refusal("seed", tmp_path)
  folder = minis.write("seed", tmp_path / "seed")
  (folder / "SEED-Bench.json").write_text("{}", encoding="utf-8")
  assert "expected a list under 'questions'" in _refusal("seed", folder)
  (folder / "SEED-Bench.json").write_text("{", encoding="utf-8")
  assert "cannot be read" in _refusal("seed", folder)
  folder = minis.write("mmstar", tmp_path / "mmstar")
  (folder / "mmstar.parquet").write_bytes(b"PAR1 and nothing")
  assert "expected a Parquet table" in _refusal("mmstar", folder)
  folder = minis.write("gqa", tmp_path / "gqa")
  shutil.rmtree(folder / "images")
  assert _refusal("gqa", folder).startswith("2 rows cannot be used")


def test_names_that_are_not_known(tmp_path):
  with pytest.raises(ValueError, match="use one of vqav2, gqa"):
    benchmarks.read("vqa", tmp_path, "llava")
  with pytest.raises(ValueError, match="use one of lmms_eval, llava"):
    benchmarks.read("vqav2", tmp_path, "lmms")


@pytest.mark.parametrize("mark", ["\u2028", "\u2029", "\u0085"])
def test_lines_end_at_line_feeds_alone(mark, tmp_path):
  asked = f"Is there{mark}a dog?"
  folder = minis.write("pope", tmp_path / "pope")
  for path in folder.glob("*.json"):
    text = path.read_text(encoding="utf-8")
    rows = [
      json.loads(line) | {"text": asked} for line in text.split("\n")[:-1]
    ]
    lines = [json.dumps(row, ensure_ascii=False) + "\r\n" for row in rows]
    path.write_text("".join(lines), encoding="utf-8", newline="")
  samples = benchmarks.read("pope", folder, "llava").samples
  assert len(samples) == 6
  assert all(sample.prompt.startswith(asked) for sample in samples)
  folder = minis.write("mme", tmp_path / "mme")
  for path in folder.glob("*/*.txt"):
    text = f"{asked}\tYes\n{asked} Why?\tNo\n"
    path.write_text(text, encoding="utf-8")
  samples = benchmarks.read("mme", folder, "llava").samples
  assert [sample.repeated["question"] for sample in samples] == [
    asked,
    f"{asked} Why?",
  ] * 3


# A row of each benchmark that names its images, and the field that does so.
_NAMED = {
  "pope": ("image", "coco_pope_random.json"),
  "ocrbench": ("image_path", "OCRBench.json"),
  "chartqa": ("imgname", "test_human.json"),
  "seed": ("data_id", "SEED-Bench.json"),
  "textvqa": ("image_id", "TextVQA_0.5.1_val.json"),
  "gqa": ("imageId", "testdev_balanced_questions.json"),
  "mmvet": ("imagename", "mm-vet.json"),
  "scienceqa": ("image", "problems.json"),
}


@pytest.mark.parametrize("name", _NAMED)
def test_images_stay_in_their_folder(name, tmp_path):
  field, file = _NAMED[name]
  folder = minis.write(name, tmp_path / "inner" / name)
  for end in ("", ".jpg"):
    (tmp_path / f"other{end}").write_bytes(minis.encoded())
  path = folder / file
  text = path.read_text(encoding="utf-8")
  for outside in ("../../../other", "../../../../other", "../" * 30 + "etc/x"):
    changed = re.sub(rf'("{field}": )"[^"]*"', rf'\1"{outside}"', text)
    assert changed != text
    path.write_text(changed, encoding="utf-8")
    with pytest.raises(sources.DataError, match="leads out of|does not exist"):
      benchmarks.read(name, folder, "llava")
  path.write_text(
    re.sub(rf'("{field}": )"[^"]*"', rf'\1"{"x" * 300}"', text),
    encoding="utf-8",
  )
  with pytest.raises(sources.DataError, match="row 1: .*File name too long"):
    benchmarks.read(name, folder, "llava")


def test_links_out_of_the_folder_need_a_setting(tmp_path):
  folder = minis.write("chartqa", tmp_path / "chartqa")
  (folder / "png" / "1.png").rename(tmp_path / "elsewhere.png")
  (folder / "png" / "1.png").symlink_to(tmp_path / "elsewhere.png")
  with pytest.raises(sources.DataError, match="row 1: .*images_anywhere=True"):
    benchmarks.read("chartqa", folder, "llava")
  found = benchmarks.read("chartqa", folder, "llava", images_anywhere=True)
  assert len(found.samples) == 3
  # The folder of the images may be a link itself.
  (folder / "png").rename(tmp_path / "png")
  (folder / "png").symlink_to(tmp_path / "png")
  (folder / "png" / "1.png").unlink()
  (tmp_path / "elsewhere.png").rename(folder / "png" / "1.png")
  assert len(benchmarks.read("chartqa", folder, "llava").samples) == 3


def test_halves_of_surrogate_pairs_are_refused(tmp_path):
  folder = minis.write("mmvet", tmp_path)
  path = folder / "mm-vet.json"
  text = path.read_text(encoding="utf-8")
  for old in ("What is x?", "-1<AND>-5", 'v1_0": {'):
    path.write_text(text.replace(old, "\\ud83d" + old, 1), encoding="utf-8")
    with pytest.raises(sources.DataError, match="row 1: .*half of a surrogate"):
      benchmarks.read("mmvet", folder, "llava")
    found = benchmarks.read("mmvet", folder, "llava", skip_invalid=True)
    assert [sample.id for sample in found.samples] == ["v1_1"]
