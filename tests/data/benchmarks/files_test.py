"""Which files of a benchmark are read, and what is said about the choice."""

import json
import re
import shutil

import pytest

from eos_jax.data import benchmarks, sources
from eos_jax.data.benchmarks import readers
from tests.data.benchmarks import minis


def _read(name, folder, protocol="llava", **options):
  return benchmarks.read(name, folder, protocol, **options)


def _refusal(name, folder, **options):
  with pytest.raises(sources.DataError) as error:
    _read(name, folder, **options)
  return str(error.value)


def _copy(path, name, change=lambda text: text):
  text = change(path.read_text(encoding="utf-8"))
  path.with_name(name).write_text(text, encoding="utf-8")


def _mme_release(folder, nested):
  """All subtasks, those of `nested` with folders for images and texts."""
  minis.write("mme", folder.parent / "mini")
  pair = folder.parent / "mini" / "existence" / "a"
  for subtask in readers.MME_SUBTASKS:
    images = texts = folder / subtask
    if subtask in nested:
      images, texts = images / "images", texts / "questions_answers_YN"
    for to, end in ((images, ".jpg"), (texts, ".txt")):
      to.mkdir(parents=True, exist_ok=True)
      shutil.copy(pair.with_suffix(end), to / f"0001{end}")
  return folder


@pytest.mark.parametrize("inner", ["", "MME_Benchmark_release_version"])
def test_both_layouts_of_mme_in_one_folder(inner, tmp_path):
  nested = ("artwork", "celebrity", "landmark", "posters", "scene")
  _mme_release(tmp_path / "mme" / inner, nested)
  found = _read("mme", tmp_path / "mme")
  subtasks = [sample.groups["subtask"] for sample in found.samples]
  assert subtasks == [x for x in sorted(readers.MME_SUBTASKS) for _ in "12"]
  assert not found.notes


def test_parts_of_mme_that_are_missing_are_named(tmp_path):
  folder = _mme_release(tmp_path / "mme", ("scene",))
  shutil.rmtree(folder / "OCR")
  shutil.rmtree(folder / "count")
  (folder / "eval_tool").mkdir()
  (folder / "eval_tool" / "readme.txt").write_text("Hello.", encoding="utf-8")
  (folder / "scene" / "questions_answers_YN" / "0001.txt").rename(
    folder / "scene" / "questions_answers_YN" / "0002.text"
  )
  found = _read("mme", folder)
  assert len(found.samples) == 2 * 11
  assert found.notes == (
    "3 of 14 subtasks missing: count, scene, OCR",
    "not read, as they are no subtasks: eval_tool",
    "scene: 1 pictures have no questions: 0001.jpg",
  )


def test_parts_of_pope_and_chartqa_that_are_missing_are_named(tmp_path):
  folder = minis.write("pope", tmp_path / "pope")
  (folder / "coco_pope_popular.json").rename(folder / "coco_pope_other.json")
  found = _read("pope", folder)
  assert len(found.samples) == 4
  assert found.notes[1:] == (
    "1 of 3 parts missing: popular",
    "not read, as they are no parts: other",
  )
  folder = minis.write("chartqa", tmp_path / "chartqa")
  (folder / "test_augmented.json").unlink()
  found = _read("chartqa", folder)
  assert found.notes[1:] == ("1 of 2 parts missing: augmented",)


def test_shards_are_all_read_and_missing_ones_named(tmp_path):
  folder = minis.write("realworldqa", tmp_path)
  for number in (0, 2):
    shutil.copy(folder / "test.parquet", folder / f"test-0000{number}-of-00003")
    path = folder / f"test-0000{number}-of-00003"
    path.rename(folder / f"{path.name}.parquet")
  (folder / "test.parquet").unlink()
  found = _read("realworldqa", folder)
  assert len(found.samples) == 4
  assert found.notes[1:] == ("missing: test-00001-of-00003.parquet",)


def test_gqa_as_its_archive_has_it(tmp_path):
  folder = minis.write("gqa", tmp_path)
  path = folder / "testdev_balanced_questions.json"
  for split in ("challenge", "submission", "test", "testdev", "train", "val"):
    for kind in ("all", "balanced"):
      if (split, kind) != ("testdev", "balanced"):
        _copy(path, f"{split}_{kind}_questions.json", lambda _: "{}")
  found = _read("gqa", folder)
  assert [sample.id for sample in found.samples] == ["1", "2"]
  assert found.notes[0] == "questions from testdev_balanced_questions.json"
  assert found.notes[1].startswith("not read: challenge_all_questions.json, ")


def test_a_setting_overrides_the_choice(tmp_path):
  folder = minis.write("gqa", tmp_path)
  path = folder / "testdev_balanced_questions.json"
  hidden = {"9": {"imageId": "n1", "question": "Is it?", "isBalanced": True}}
  _copy(path, "test_balanced_questions.json", lambda _: json.dumps(hidden))
  found = _read("gqa", folder, files=["test_balanced_questions.json"])
  assert [(s.id, s.answers) for s in found.samples] == [("9", ())]
  assert found.notes == (
    "questions from test_balanced_questions.json",
    "not read: testdev_balanced_questions.json",
  )
  assert "has no a.json, which data.files names" in _refusal(
    "gqa", folder, files=["a.json"]
  )


def test_files_that_the_rule_cannot_choose_between(tmp_path):
  folder = minis.write("gqa", tmp_path)
  path = folder / "testdev_balanced_questions.json"
  _copy(path, "a_balanced_questions.json")
  path.rename(folder / "b_balanced_questions.json")
  said = _refusal("gqa", folder)
  assert "a_balanced_questions.json, b_balanced_questions.json may be" in said
  assert "name one of them in data.files" in said
  assert _read("gqa", folder, files=["b_balanced_questions.json"]).samples


def test_vqav2_is_asked_where_its_answers_are_known(tmp_path):
  minis.vqav2_test(tmp_path)
  minis.write("vqav2", tmp_path)
  path = tmp_path / "v2_OpenEnded_mscoco_test-dev2015_questions.json"
  _copy(path, "v2_OpenEnded_mscoco_test2015_questions.json")
  found = _read("vqav2", tmp_path)
  assert len(found.samples) == 3 and all(s.answers for s in found.samples)
  found = _read("vqav2", tmp_path, files=[path.name])
  assert [sample.answers for sample in found.samples] == [(), ()]


@pytest.mark.parametrize("protocol", ["llava", "lmms_eval"])
def test_mmbench_in_english(protocol, tmp_path):
  folder = minis.write("mmbench", tmp_path)
  first = {
    "llava": "mmbench_dev_20230712.tsv",
    "lmms_eval": "mmbench_dev_en_20231003.tsv",
  }
  path = folder / "mmbench_dev_20230712.tsv"
  for name in (
    *("mmbench_dev_cn_20231003.tsv", "MMBench_DEV_CN.tsv", "ccbench_cc.tsv"),
    *("mmbench_test_en_20231003.tsv", "mmbench_dev_en_20231003.tsv"),
  ):
    _copy(path, name, lambda text, x=name: text.replace("What", x))
  name = first[protocol]
  found = _read("mmbench", folder, protocol)
  assert found.notes[0] == f"questions from {name}"
  word = "What" if protocol == "llava" else name
  assert word in found.samples[0].prompt
  for left in folder.glob("*.tsv"):
    if "cn" not in left.name.lower():
      left.unlink()
  said = _refusal("mmbench", folder)
  assert re.search("has no mmbench_dev_.* name the file with the quest", said)
  found = _read("mmbench", folder, files=["MMBench_DEV_CN.tsv"])
  assert "MMBench_DEV_CN.tsv" in found.samples[0].prompt


def test_ids_of_ocrbench_start_anew_in_each_data_set(tmp_path):
  folder = minis.write("ocrbench", tmp_path)
  path = folder / "OCRBench.json"
  rows = json.loads(path.read_text(encoding="utf-8"))
  rows = [row | {"id": number} for row in rows for number in (7, 8)]
  path.write_text(json.dumps(rows), encoding="utf-8")
  ids = [sample.id for sample in _read("ocrbench", folder).samples]
  assert ids == ["ct80/7", "ct80/8", "HME100k/7", "HME100k/8"]
  path.write_text(json.dumps([*rows, rows[0]]), encoding="utf-8")
  said = _refusal("ocrbench", folder)
  assert "row 5: id 'ct80/7' is there a second time" in said
