"""Models by name: what they answer, what they refuse, and how they are kept."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image
import pytest

from eos_jax import models, ops
from eos_jax.data import generator
from eos_jax.evaluation import evaluator
from tests.models import tiny_families

# Static shapes for two images of 40 x 64 pixels, by family.
SHAPES = {
  "llava_1_5": {"max_images": 2},
  "onevision": {"max_images": 2, "max_tiles": (1, 2)},
  "qwen2_vl": {"max_images": 2, "max_size": (56, 84)},
  "smolvlm": {"max_images": 20},
}


def _one():
  return models.partition.mesh_of(jax.devices()[:1])


@pytest.fixture(scope="module")
def tiny():
  return models.load("tiny", mesh=_one())


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
  """A folder of each family, not to be changed."""
  root = tmp_path_factory.mktemp("families")
  return {
    family: tiny_families.write(family, root / family)
    for family in tiny_families.FAMILIES
  }


def _images():
  """Noise, and one colour."""
  draw = np.random.default_rng(0)
  noise = draw.integers(0, 256, (40, 64, 3), np.uint8)
  return noise, np.full((40, 64, 3), (255, 0, 0), np.uint8)


def _equal(got, want):
  assert jax.tree.structure(got) == jax.tree.structure(want)
  jax.tree.map(np.testing.assert_array_equal, got, want)


@pytest.mark.slow
def test_the_tiny_model_answers_about_images_of_every_kind(tiny, tmp_path):
  scene = generator.picture("test", 0)
  asked = [each.question for each in scene.questions]
  right = [each.answer for each in scene.questions]
  data = generator.encode_png(scene.image)
  (tmp_path / "a.png").write_bytes(data)
  answers = tiny.answer([scene.image] * len(asked), asked, max_tokens=6)
  assert isinstance(answers, list)
  wrong = sum(a != b for a, b in zip(answers, right, strict=True))
  assert wrong <= 0.25 * len(asked)
  for image in (
    scene.image,
    data,
    str(tmp_path / "a.png"),
    tmp_path / "a.png",
    Image.fromarray(scene.image),
    [scene.image],
  ):
    assert tiny.answer(image, asked[0], max_tokens=6) == answers[0]


@pytest.mark.slow
def test_the_tiny_model_answers_under_a_plan(tiny):
  plan = evaluator.preset_plan(tiny.cfg, ops.presets.PRUNE, 1.0)
  scenes = [generator.picture("test", index) for index in range(8)]
  images = [scene.image for scene in scenes]
  asked = [scene.questions[0].question for scene in scenes]
  dense = tiny.answer(images, asked, max_tokens=6)
  reduced = tiny.answer(images, asked, plan, max_tokens=6)
  # One token of 144 is not enough to see.
  assert reduced != dense and len(reduced) == len(dense)


@pytest.mark.slow
@pytest.mark.parametrize("family", tiny_families.FAMILIES)
def test_a_family_answers_about_one_image_and_several(folders, family):
  files = models.open_files(str(folders[family]))
  model = files.with_shape(**SHAPES[family]).load(_one())
  one, other = _images()
  answers = [
    model.answer(shown, "which of these is it?", max_tokens=12)
    for shown in (one, [one], [one, other], [other, one])
  ]
  assert all(isinstance(answer, str) for answer in answers)
  # Random weights see all images and their order.
  assert answers[0] == answers[1] and len(set(answers)) == 3


@pytest.mark.slow
def test_numbers_of_images_that_do_not_fit_are_refused(tiny, folders):
  one, other = _images()
  for images, count in ((one, 1), ([one], 1), ("ab", 1), ([one] * 3, 3)):
    with pytest.raises(
      ValueError, match=f"are 2 questions and {count} entries of images"
    ):
      tiny.answer(images, ["what?", "how?"])
  with pytest.raises(
    ValueError, match="are 2 images; the model tiny reads one"
  ):
    tiny.answer([one, other], "what?")
  model = models.load(str(folders["llava_1_5"]))
  assert isinstance(model.answer([one, other], "what?", max_tokens=2), str)
  with pytest.raises(ValueError, match="there is no picture; give at least"):
    model.answer([], "what?")


def test_arrays_that_are_no_images_are_refused(tiny):
  image = np.zeros((96, 96, 3), np.float32)
  with pytest.raises(ValueError, match="a picture is an array float32"):
    tiny.answer(image, "what?")


@pytest.mark.parametrize(
  ("name", "changes", "fault"),
  [
    (
      "llava_1_5",
      {"max_tiles": (2, 2)},
      "max_tiles is .2, 2., and models of the",
    ),
    (
      "onevision",
      {"max_size": (56, 56)},
      "max_size is .56, 56., and models of the",
    ),
    (
      "tiny",
      {"max_size": (96, 96)},
      "max_size is .96, 96., and the model 'tiny' has",
    ),
    ("tiny", {"style": "vicuna"}, "style is vicuna, and the model 'tiny' has"),
    ("tiny", {"max_images": 2}, "max_images is 2, and the model 'tiny' has"),
  ],
)
def test_static_shapes_that_a_model_does_not_have(
  folders, name, changes, fault
):
  files = models.open_files(str(folders.get(name, name)))
  with pytest.raises(ValueError, match=fault):
    files.with_shape(**changes)


def test_static_shapes_follow_from_the_family_unless_given(folders):
  files = models.open_files(str(folders["onevision"]))
  assert (files.cfg.tiles, files.max_images) == ((2, 2), 1)
  changed = files.with_shape(max_images=3, max_tiles=(1, 2))
  assert (changed.cfg.tiles, changed.max_images) == ((1, 2), 3)
  assert changed.cfg.tokens < files.cfg.tokens
  files = models.open_files(str(folders["qwen2_vl"]))
  assert files.cfg.vision.size == (672, 672)
  assert files.with_shape(max_size=(56, 84)).cfg.vision.size == (56, 84)


@pytest.mark.slow
def test_parameters_of_the_tiny_model_are_kept(tiny, tmp_path):
  params = jax.tree.map(lambda leaf: 2 * leaf, tiny.params)
  path = tiny.save(tmp_path / "twice.2", params)
  assert path == tmp_path / "twice.2.safetensors"
  assert tiny.save(path, params) == path
  again = models.load(str(path))
  _equal(again.params, params)
  assert again.fingerprint == tiny.with_params(params).fingerprint
  assert again.fingerprint != tiny.fingerprint
  assert (again.cfg, again.name) == (tiny.cfg, "tiny")


@pytest.mark.slow
@pytest.mark.parametrize(
  ("dtype", "output"), [("", "out"), ("bfloat16", "out.safetensors")]
)
def test_parameters_of_a_family_are_kept(folders, tmp_path, dtype, output):
  model = models.load(str(folders["qwen2_vl"]), dtype=dtype)
  kind = jnp.dtype(dtype or "float32")
  assert {leaf.dtype for leaf in jax.tree.leaves(model.params)} == {kind}
  path = model.save(tmp_path / output, model.params)
  assert path == tmp_path / output
  again = models.load(str(path))
  _equal(again.params, model.params)
  assert again.fingerprint == model.fingerprint
  assert (again.cfg, again.name) == (model.cfg, model.name)
  # As it was converted, and nothing else.
  assert again.files.dtype == kind
  assert models.open_files(str(path), dtype=kind.name).dtype == kind
  with pytest.raises(ValueError, match=f"converted to {kind.name}, and dtype"):
    models.open_files(str(path), dtype="float16")
  # The static shape of images goes with a model that was renamed.
  shaped = model.files.with_shape(max_size=(56, 84)).renamed(str(path))
  assert shaped.cfg.vision.size == (56, 84) and shaped.dtype == kind


def test_half_precision_is_read_as_bfloat16(folders, tmp_path):
  folder = tiny_families.write("llava_1_5", tmp_path / "half")
  config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
  config["dtype"] = "float16"
  (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
  assert models.open_files(str(folder)).dtype == jnp.bfloat16
  assert models.open_files(str(folder), dtype="float32").dtype == jnp.float32


@pytest.mark.slow
def test_random_weights_need_a_config_alone(folders, tmp_path):
  folder = tmp_path / "shape"
  folder.mkdir()
  text = (folders["smolvlm"] / "config.json").read_text(encoding="utf-8")
  (folder / "config.json").write_text(text, encoding="utf-8")
  files = models.open_files(str(folder), random_weights=True, dtype="bfloat16")
  model = files.load(_one())
  shapes = jax.tree.map(
    lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), model.params
  )
  assert shapes == files.shapes
  other = models.open_files(
    str(folder), random_weights=True, dtype="bfloat16", seed=1
  )
  one, two = (m.params["decoder"]["embed"] for m in (model, other.load(_one())))
  assert not np.array_equal(one, two)
  with pytest.raises(ValueError, match="without a tokenizer, which cannot be"):
    model.answer(_images()[0], "what?")
  with pytest.raises(ValueError, match="safetensors"):
    models.open_files(str(folder))


def test_shapes_without_files_have_random_weights_alone():
  files = models.open_files("wide", random_weights=True)
  assert dataclasses.replace(files.cfg) == models.SHAPES["wide"]()
  assert files.dtype == jnp.bfloat16 and files.processor is None
  with pytest.raises(ValueError, match="wide"):
    models.open_files("wide")
  with pytest.raises(ValueError, match="runs in float32; use ''"):
    models.load("tiny", dtype="bfloat16")
