"""Building on first use, easy_vqa's records, and what goes wrong clearly."""

import collections
import hashlib
import pathlib
import shutil
import subprocess
import sys
import time

import easy_vqa
import numpy as np
from PIL import Image
import pytest

from eos_jax.data import easy_vqa as builders
from eos_jax.data import generator, labels, language_only, sources


@pytest.mark.slow
def test_easy_vqa_keeps_every_question(load):
  counts = {
    split: len(load("easy_vqa", split).questions()) for split in sources.SPLITS
  }
  train, test = easy_vqa.get_train_questions(), easy_vqa.get_test_questions()
  assert counts["train"] + counts["validation"] == len(train[0])
  assert counts["test"] == len(test[0])
  asked = builders.QUESTIONS
  assert asked == {split: counts[split] for split in ("validation", "test")}
  texts = sorted(q.question for q in load("easy_vqa", "test").questions())
  assert texts == sorted(test[0])
  assert [len(load("easy_vqa", s)) for s in sources.SPLITS] == [3700, 300, 1000]


def test_easy_vqa_records(load):
  record = load("easy_vqa", "test")[5]
  assert record.image.shape == (64, 64, 3) and record.image.dtype == np.uint8
  assert record.patch_labels is None
  assert {q.task for q in record.questions} == {"easy_vqa"}
  assert record.image_id == "test/5"
  assert record.scene_labels[: labels.EASY_START].sum() == 0


def test_easy_vqa_labels_are_one_shape_and_one_colour(load):
  source = load("easy_vqa", "validation")
  told = collections.Counter()
  for index in range(len(source)):
    vector = source[index].scene_labels
    shape = vector[labels.SCENE_SECTIONS["easy_shape"]]
    color = vector[labels.SCENE_SECTIONS["easy_color"]]
    assert shape.sum() <= 1 and color.sum() <= 1
    told["shape"] += shape.sum()
    told["color"] += color.sum()
  # Where all questions are about what it is not, it stays unknown.
  assert told["shape"] > 250 and told["color"] > 250


def test_easy_vqa_splits_share_no_picture_id(load):
  train, validation = (load("easy_vqa", s) for s in ("train", "validation"))
  ids = [
    source[index].image_id
    for source in (train, validation)
    for index in range(0, len(source), 10)
  ]
  assert len(set(ids)) == len(ids)


def test_hash_of_the_generator_is_stored(load):
  assert load().generator_hash == generator.generator_hash()
  assert load("easy_vqa").generator_hash is None


def test_kept_records_are_not_decoded_twice(load):
  source = load(keep=True)
  assert source[3] is source[3]
  assert load()[3].questions == source[3].questions
  with pytest.raises(IndexError, match="256 is not in 0..255"):
    source[256]


@pytest.mark.slow
def test_files_of_another_generator_are_replaced(
  data_dir, tmp_path, monkeypatch
):
  shutil.copytree(data_dir / "mini_suite", tmp_path / "mini_suite")
  old = sources.load("mini_suite", "test", data_dir=tmp_path, config="tiny")
  monkeypatch.setattr(generator, "generator_hash", lambda: "another")
  new = sources.load("mini_suite", "test", data_dir=tmp_path, config="tiny")
  assert old.generator_hash != new.generator_hash == "another"
  assert len(new) == 64
  left = {p.name for p in (tmp_path / "mini_suite" / "tiny").iterdir()}
  assert left == {"1.0.0"}


def _builder(data_dir):
  """Another process that builds the smallest suite."""
  code = (
    "import sys; from eos_jax.data import sources;"
    "sources.build('mini_suite', data_dir=sys.argv[1], config='tiny')"
  )
  return subprocess.Popen(
    [sys.executable, "-c", code, str(data_dir)],
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )


@pytest.mark.slow
def test_leftovers_of_killed_builds_are_removed(tmp_path):
  process = _builder(tmp_path)
  while not (left := list(tmp_path.rglob("incomplete.*_1.0.0"))):
    assert process.poll() is None, process.stderr.read()
    time.sleep(0.002)
  process.kill()
  process.communicate()
  assert left[0].is_dir()
  (tmp_path / "mini_suite" / "tiny" / "stale.x" / "1.0.0").mkdir(parents=True)
  sources.build("mini_suite", data_dir=tmp_path, config="tiny")
  folder = tmp_path / "mini_suite" / "tiny"
  assert [path.name for path in folder.iterdir()] == ["1.0.0"]


@pytest.mark.slow
def test_simultaneous_builders_wait_for_each_other(tmp_path):
  processes = [_builder(tmp_path) for _ in range(2)]
  said = [process.communicate() for process in processes]
  assert [process.returncode for process in processes] == [0, 0], said
  waited = f"waiting for another process that builds {tmp_path}/mini_suite\n"
  assert sorted(out for out, _ in said) == ["", waited]
  built = sources.load("mini_suite", "test", data_dir=tmp_path, config="tiny")
  assert len(built) == 64 and built[63].questions


def _damaged(data_dir, tmp_path, change):
  shutil.copytree(data_dir / "easy_vqa", tmp_path / "easy_vqa")
  (path,) = pathlib.Path(tmp_path, "easy_vqa").rglob("easy_vqa-test*")
  change(path)
  return path


@pytest.mark.parametrize(
  "change",
  [
    pathlib.Path.unlink,
    lambda path: path.write_bytes(path.read_bytes()[: -(2**16) * 2]),
    lambda path: path.write_bytes(b"\0" * path.stat().st_size),
  ],
  ids=["missing", "cut", "zeroed"],
)
def test_missing_and_damaged_files(data_dir, tmp_path, change):
  path = _damaged(data_dir, tmp_path, change)
  with pytest.raises(RuntimeError, match="missing or damaged: delete") as error:
    source = sources.load("easy_vqa", "test", data_dir=tmp_path)
    for index in range(len(source)):
      source[index]
  assert str(path.parent) in str(error.value)


@pytest.mark.parametrize(
  "arguments, message",
  [
    (("coco", "train"), "'coco'.*mini_suite"),
    (("mini_suite", "dev"), "'dev'.*validation"),
    (("mini_suite", "train", "huge"), "'huge'.*tiny"),
  ],
)
def test_unknown_names(arguments, message, tmp_path):
  name, split, *config = arguments
  options = {"config": config[0]} if config else {}
  with pytest.raises(ValueError, match=message):
    sources.load(name, split, data_dir=tmp_path, **options)


def test_language_only_guess_of_easy_vqa(data_dir):
  got = language_only.measure("easy_vqa", data_dir=data_dir)
  assert 0.4 < got["easy_vqa"] < 0.75


@pytest.mark.slow
def test_no_tensorflow_and_no_accelerator_library_in_the_renderer(data_dir):
  code = (
    "import sys; from eos_jax.data import loader, sources, rendering;"
    f"s = sources.load('easy_vqa', 'test', data_dir={str(data_dir)!r}); s[0];"
    "assert 'tensorflow' not in sys.modules"
  )
  subprocess.run([sys.executable, "-c", code], check=True)
  code = (
    "import sys; from eos_jax.data import rendering;"
    "assert not {'jax', 'tensorflow', 'grain'} & set(sys.modules)"
  )
  subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.slow
def test_builds_are_quiet(tmp_path, capfd):
  sources.load("easy_vqa", "test", data_dir=tmp_path)
  shown = capfd.readouterr()
  assert shown.out == ""
  assert "Generating" not in shown.err and "WARNING" not in shown.err


def test_pictures_of_the_package_are_unchanged(load):
  source = load("easy_vqa", "test")
  path = easy_vqa.get_test_image_paths()[9]
  with Image.open(path) as image:
    expected = hashlib.sha256(np.asarray(image).tobytes()).digest()
  got = hashlib.sha256(source[9].image.tobytes()).digest()
  assert source[9].image_id == "test/9" and got == expected
