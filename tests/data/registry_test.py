"""Sources of questions, each asked to the tiny model and to a family."""

import dataclasses

import numpy as np
from PIL import Image
import pytest

from eos_jax import data, models
from eos_jax.data import registry, sources
from eos_jax.training import data_settings
from tests.data.benchmarks import minis
from tests.models import tiny_families

IMAGE = np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
  """Rows by the name of the model."""
  folder = tmp_path_factory.mktemp("family") / "model"
  tiny_families.write("llava_1_5", folder)
  family = models.open_files(str(folder), dtype="float32")
  return {
    "tiny": models.open_files("tiny").rows(48),
    "family": family.rows(200),
    "family, benchmarks": family.rows(300, "lmms_eval"),
  }


def _load(rows, **fields):
  return data.load(data_settings.DataSettings(**fields).resolved(), rows)


def _check(questions, parts, rows):
  """What every source has to do; returns the items of the last part."""
  assert questions.parts == parts and questions.rows is rows
  assert questions.summary(parts) and not questions.faults({})
  *trained, last = parts
  for part in trained:
    streamed = questions.dataset(part, 3)
    one, again = streamed[5], questions.dataset(part, 3)[5]
    assert one["loss_mask"].any()
    np.testing.assert_array_equal(one["tokens"], again["tokens"])
    assert questions.searched_on([part])
  sets = questions.choose(last, count=5, seed=1)
  for asked in sets:
    assert len(asked) <= 5 and len(asked.tasks) == len(asked)
    (batch,) = asked.batches(5)
    assert batch["tokens"].shape == (5, rows.text_length)
    assert batch["valid"].sum() == len(asked)
    assert len(asked.digests) == len(asked) and asked.digest()
    assert not asked.unusable()
  return sets


@pytest.mark.parametrize("model", ["tiny", "family"])
def test_the_suite(model, rows, data_dir):
  found = _load(
    rows[model], source="suite", suite="tiny", directory=str(data_dir)
  )
  assert found.name == "suite"
  parts = ("train", "validation", "test")
  (asked,) = _check(found, parts, rows[model])
  short = asked.items[0].question.endswith("single word or phrase.")
  assert short == (model == "family")  # tiny was trained without it
  assert found.identity["suite"] == "tiny"


@pytest.mark.parametrize("model", ["tiny", "family"])
def test_instructions(model, rows, tmp_path):
  path = tiny_families.instructions(tmp_path, 24)
  shares = {"train": 0.4, "validation": 0.3, "test": 0.3}
  found = _load(rows[model], path=str(path), **shares)
  assert found.name == "instructions"
  (asked,) = _check(found, tuple(shares), rows[model])
  assert set(asked.tasks) == {"instructions"}
  # An image and all that is asked about it serve one purpose.
  shown = [found.choose(p, count=0, seed=0)[0] for p in shares]
  assert sum(map(len, shown)) == 24
  images = {item.images for one in shown for item in one.items}
  assert len(images) == 24
  without = _load(rows[model], path=str(path))
  assert without.parts == ("validation", "test")


@pytest.mark.parametrize("model", ["tiny", "family, benchmarks"])
def test_benchmarks(model, rows, tmp_path):
  for name in ("chartqa", "vqav2"):
    minis.write(name, tmp_path / name)
  if model == "tiny":  # its rows are short for the field's prompts
    tiny = dataclasses.replace(rows[model], text_length=120)
    rows = {model: tiny}
  found = _load(rows[model], path=str(tmp_path), names=("chartqa", "vqav2"))
  assert found.name == "benchmarks"
  sets = _check(found, ("test",), rows[model])
  assert [asked.name for asked in sets] == ["chartqa", "vqav2"]
  for part in ("train", "validation"):
    with pytest.raises(ValueError, match=f"test split alone, and {part} is"):
      found.dataset(part, 0)
  count = {"names": ("vqav2",), "path": str(tmp_path), "count": 2}
  assert len(_load(rows[model], **count).choose("test")[0]) == 2


def good():
  """Items with images of every kind, and one with two turns."""
  kinds = (IMAGE, IMAGE[..., 0], Image.fromarray(IMAGE[::-1]))
  listed = [
    data.Item(f"{n}", "what is this?", "red", (kinds[n % 3],), task="colour")
    for n in range(4)
  ]
  later = (("and how many?", "2"),)
  return {
    "validation": listed,
    "test": (*listed, data.Item("5", "?", "a", (IMAGE,), later)),
  }


@pytest.mark.parametrize("model", ["tiny", "family"])
def test_a_function(model, rows):
  name = f"{__name__}:good"
  found = _load(rows[model], source=name)
  assert found.name == "registry_test"
  (asked,) = _check(found, ("validation", "test"), rows[model])
  assert sorted(asked.tasks) == ["colour"] * 4 + ["registry_test"]
  # Equal images are one image, also where the arrays are others.
  assert len(set(asked.image_ids.tolist())) == 3
  again = _load(rows[model], source=name)
  assert again.identity == found.identity
  assert again.choose("test", count=5, seed=1)[0].digest() == asked.digest()


def _item(**fields):
  known = {"name": "7", "question": "?", "answer": "a", "images": (IMAGE,)}
  return data.Item(**known | fields)


wrong_type = lambda: [_item()]
wrong_part = lambda: {"all": [_item()]}
wrong_items = lambda: {"test": [{"question": "?"}]}
wrong_list = lambda: {"test": None}
none_of_it = lambda: {"test": []}
nothing = lambda: {}
floats = lambda: {"test": [_item(images=(IMAGE / 255,))]}
one_name = lambda: {"test": [_item(images="a.png")]}
number = lambda: {"test": [_item(images=(3,))]}
no_answer = lambda: {"test": [_item(answer=None)]}
no_function = 3


@pytest.mark.parametrize(
  "name, said",
  [
    ("wrong_type", "returned .*; expected a mapping of some of train, valid"),
    ("wrong_part", "returned .*; expected a mapping of some of train, valid"),
    ("wrong_items", "returned .* to sequences of eos_jax.data.Item"),
    ("wrong_list", "returned .* to sequences of eos_jax.data.Item"),
    ("nothing", "returned {}; expected a mapping"),
    ("none_of_it", "returned no items for test"),
    ("floats", "question '7': a picture is an array float64"),
    ("one_name", "question '7': images is 'a.png'; expected a tuple"),
    ("number", "question '7': a picture is int; give a PIL picture"),
    ("no_answer", "question '7': a text is None; expected a str"),
    ("no_function", "is 3; expected a function without arguments"),
    ("missing", "cannot be imported .*; give package.module:function, which"),
  ],
)
def test_functions_that_cannot_be_used(name, said, rows):
  with pytest.raises(ValueError, match=said):
    _load(rows["tiny"], source=f"{__name__}:{name}")


def test_a_module_that_is_missing(rows):
  said = "the function 'no.such:f' cannot be imported .*No module named 'no'"
  with pytest.raises(ValueError, match=said):
    _load(rows["tiny"], source="no.such:f")


def some_bad():
  """Two items that cannot be shown, and one that can."""
  listed = [_item(name="0", images=(b"none",)), _item(), _item(name="2")]
  listed[2] = dataclasses.replace(listed[2], images=(IMAGE, IMAGE))
  return {"test": listed}


def all_bad():
  """An item that cannot be shown."""
  return {"test": some_bad()["test"][:1]}


def test_items_that_cannot_be_shown(rows):
  name = f"{__name__}:some_bad"
  (asked,) = _load(rows["tiny"], source=name).choose("test", count=0, seed=0)
  assert sorted(map(str, asked.unusable().values()))[1].startswith(
    "question '2': there are 2 images"
  )
  with pytest.raises(sources.DataError, match="^question '.*': "):
    list(asked.batches(3))
  found = _load(rows["tiny"], source=name, skip_invalid=True)
  (asked,) = found.choose("test", count=0, seed=0)
  assert [item.name for item in asked.items] == ["7"]
  assert "2 cannot be used and are skipped" in found.summary(["test"])
  with pytest.raises(sources.DataError, match="no entry is left for 'test'"):
    _load(rows["tiny"], source=f"{__name__}:all_bad", skip_invalid=True)


def test_a_source_can_be_registered(rows, monkeypatch):
  monkeypatch.setattr(registry, "SOURCES", dict(registry.SOURCES))
  made = object()
  data.register("mine", lambda settings, rows: (made, settings.path, rows))
  found = _load(rows["tiny"], source="mine", path="a")
  assert found == (made, "a", rows["tiny"])
  with pytest.raises(ValueError, match="'suite' is there already"):
    data.register("suite", lambda settings, rows: made)


def test_a_name_that_the_package_does_not_have():
  with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
    data.nothing  # noqa: B018
