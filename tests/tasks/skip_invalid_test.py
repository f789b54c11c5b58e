"""Rows that cannot be used, whenever that turns up: listed, or skipped."""

import json
import re

import numpy as np
from PIL import Image
import pytest

from eos_jax import main, tasks
from eos_jax.tasks import opening, search
from tests.data.benchmarks import minis
from tests.models import tiny_families
from tests.tasks import evaluate_test, search_test

# What is wrong with a row, and what is said of it by a tiny Qwen2-VL, which
# refuses long lines.
FAULTS = {
  "a truncated JPEG": "image file is truncated",
  "a long line": "more than 200 times as long as wide",
  "an image token": "contains the image token '<|image_pad|>'",
  "a long text": "tokens of text, but the text length is",
  "half a pair": "half of a surrogate pair",
  "a bomb": "at most 89,478,485 are read",
}

pytestmark = pytest.mark.filterwarnings(
  "ignore::PIL.Image.DecompressionBombWarning"
)


def _spoil(kind, file, text):
  """Makes one fault in an image file or a text; returns the text."""
  if kind == "a truncated JPEG":
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    Image.fromarray(noise).save(file, format="JPEG")
    file.write_bytes(file.read_bytes()[:-500])
  if kind == "a long line":
    Image.new("RGB", (2, 402)).save(file, format="PNG")
  if kind == "a bomb":
    Image.new("1", (10_000, 9_000)).save(file, format="PNG")
  added = {
    "an image token": " <|image_pad|>",
    "a long text": " x" * 900,
    "half a pair": "\ud83d",
  }
  return text + added.get(kind, "")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
  return tiny_families.write("qwen2_vl", tmp_path_factory.mktemp("m") / "model")


@pytest.fixture(scope="module")
def spoiled(tmp_path_factory):
  """Instructions with every fault, and their numbers."""
  path = tiny_families.instructions(tmp_path_factory.mktemp("data"), 40)
  entries = json.loads(path.read_text(encoding="utf-8"))
  rows = {}
  for number, kind in enumerate(FAULTS):
    entry = entries[5 * number + 2]
    turn = entry["conversations"][0]
    turn["value"] = _spoil(kind, path.parent / entry["image"], turn["value"])
    rows[5 * number + 3] = kind
  # An answer with an image token would lose it in silence.
  entries[35]["conversations"][1]["value"] += "<|image_pad|>"
  path.write_text(json.dumps(entries), encoding="utf-8")
  return path, rows | {36: "an image token"}


def _search(model, path, **changes):
  config = search_test._config("qwen2_vl", model, path, **changes)
  return tasks.settings.build(tasks.TASKS["search"].settings, config)


def _skipped(facts):
  """What is said of the entries that are not used, by row."""
  said = [*facts["invalid"], *facts["entries skipped"]]
  return {int(re.search(r"row (\d+): ", one)[1]): one for one in said}


def test_instructions(model, spoiled):
  path, rows = spoiled
  questions = opening.opened(
    _search(model, path, **{"data.skip_invalid": True})
  )
  questions = questions.questions
  skipped = _skipped(questions.identity)
  assert sorted(skipped) == sorted(rows)
  for row, said in skipped.items():
    assert said.startswith(f"instructions.json, row {row}: ")
    assert FAULTS[rows[row]] in said
  used = [
    item
    for part in questions.parts
    for item in questions.choose(part, count=0, seed=0)[0].items
  ]
  assert len(used) == 40 - len(rows)
  said = questions.summary(questions.parts)
  assert "1 entries are invalid and skipped; 6 cannot be used and" in said
  # Where they are not skipped, nothing is begun.
  with pytest.raises(main.EXPECTED, match="row 23: the question has half"):
    search.check(_search(model, path))
  mended = path.with_name("mended.json")
  text = path.read_text(encoding="utf-8").replace("\\ud83d", "")
  mended.write_text(text, encoding="utf-8")
  whole = {"evaluation.questions": 0, "check_questions": 99}
  with pytest.raises(main.EXPECTED) as error:
    search.check(_search(model, mended, **whole))
  said = str(error.value)
  found = {row: kind for row, kind in rows.items() if kind != "half a pair"}
  assert f"{len(found)} rows cannot be used" in said
  for row, kind in found.items():
    lines = [line for line in said.split("\n") if f"row {row}: " in line]
    assert len(lines) == 1 and FAULTS[kind] in lines[0]


def _evaluation(model, folder, **changes):
  files = {"model": model, "data.path": folder}
  return evaluate_test._config(files, **changes)


@pytest.fixture(scope="module")
def benchmark(tmp_path_factory):
  """MM-Vet with every fault and two sound rows."""
  root = tmp_path_factory.mktemp("benchmarks")
  folder = minis.write("mmvet", root / "mmvet")
  rows = json.loads((folder / "mm-vet.json").read_text(encoding="utf-8"))
  for number, kind in enumerate(FAULTS):
    file = folder / "images" / f"{number}.png"
    file.write_bytes(minis.encoded())
    question = _spoil(kind, file, "What is it?")
    rows[f"bad_{number}"] = rows["v1_0"] | {
      "imagename": file.name,
      "question": question,
    }
  text = json.dumps(rows)
  (folder / "mm-vet.json").write_text(text, encoding="utf-8")
  return root


_ROOM = {
  "data.names": ("mmvet",),
  "data.max_size": (56, 84),
  "data.style": "",
  "data.aspect": "",
  "plans": (),
}


def test_a_benchmark(model, benchmark):
  config = _evaluation(model, benchmark, **_ROOM, **{"data.skip_invalid": True})
  kind = tasks.TASKS["evaluate"].settings
  found = opening.opened(tasks.settings.build(kind, config)).questions
  (asked,), questions = found.choose("test"), found.read["mmvet"]
  assert [sample.id for sample in asked.items] == ["v1_0", "v1_1"]
  assert sorted(fault.row for fault in questions.faults) == [3, 4, 5, 6, 7, 8]
  for fault in questions.faults:
    assert fault.file == "mm-vet.json"
    assert FAULTS[list(FAULTS)[fault.row - 3]] in fault.what


def test_both_questions_of_an_image_go(model, tmp_path):
  folder = minis.write("mme", tmp_path / "mme")
  path = folder / "existence" / "a.txt"
  text = path.read_text(encoding="utf-8").replace("dog?", "dog?" + " x" * 900)
  path.write_text(text, encoding="utf-8")
  room = _ROOM | {"data.names": ("mme",), "data.skip_invalid": True}
  kind = tasks.TASKS["evaluate"].settings
  job = tasks.settings.build(kind, _evaluation(model, tmp_path, **room))
  questions = opening.opened(job).questions.read["mme"]
  assert len(questions.samples) == 4
  said = sorted(questions.faults, key=lambda fault: fault.row)
  assert [fault.row for fault in said] == [1, 2]
  assert "another question that is scored with it" in said[0].what
  assert "tokens of text, but the text length" in said[1].what


@pytest.mark.full
def test_runs_end_with_what_is_sound(model, spoiled, benchmark, tmp_path):
  path, rows = spoiled
  config = search_test._config(
    "qwen2_vl", model, path, **{"data.skip_invalid": True}
  )
  tasks.run("search", config, tmp_path / "search")
  text = (tmp_path / "search" / "results.json").read_text(encoding="utf-8")
  assert sorted(_skipped(json.loads(text)["protocol"])) == sorted(rows)
  config = _evaluation(model, benchmark, **_ROOM, **{"data.skip_invalid": True})
  tasks.run("evaluate", config, tmp_path / "out")
  text = (tmp_path / "out" / "results.json").read_text(encoding="utf-8")
  counts = json.loads(text)["questions"]["mmvet"]
  assert counts["asked"] == 2 and len(counts["skipped"]) == len(FAULTS)
