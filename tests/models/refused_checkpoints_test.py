"""Checkpoints that are refused, each with the reason and where it lies."""

import copy
import json
import os

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from eos_jax import models, ops
from eos_jax.models import blocks, families, loading, weight_files
from eos_jax.models.families import table as table_lib
from tests.models import checkpoints, public_configs, small, tiny_families

WEIGHTS = checkpoints.weights()
DOWN = "language_model.model.layers.1.mlp.down_proj.weight"
FILE = "model.safetensors"


def _refusal(folder, **options):
  with pytest.raises(ValueError) as error:
    loading.inspect(folder, **options)
  return str(error.value)


# Files outside the folder.


def _pointing(folder, name):
  """A checkpoint whose index names one file, by some path."""
  checkpoints.write(folder, {})
  (folder / FILE).unlink()
  index = {"weight_map": dict.fromkeys(WEIGHTS, name)}
  (folder / weight_files.INDEX).write_text(json.dumps(index), encoding="utf-8")
  return folder


@pytest.mark.parametrize(
  "kind", ["absolute", "parent", "link", "linked folder"]
)
def test_weights_outside_the_folder_need_a_setting(tmp_path, kind):
  there = checkpoints.write(tmp_path / "there", WEIGHTS) / FILE
  name = {
    "absolute": str(there),
    "parent": f"../there/{FILE}",
    "link": "part.safetensors",
    "linked folder": f"parts/{FILE}",
  }[kind]
  folder = _pointing(tmp_path / "model", name)
  if kind == "link":
    (folder / name).symlink_to(there)
  if kind == "linked folder":
    (folder / "parts").symlink_to(there.parent)
  said = _refusal(folder)
  assert said.startswith(f"weights in {folder} are not read:\n  {name!r} is ")
  assert f"{there}, expected a file inside the folder" in said
  assert "allow_outside=True" in said
  assert loading.inspect(folder, allow_outside=True).tensors


def test_a_single_file_that_is_a_link_is_treated_alike(tmp_path):
  there = checkpoints.write(tmp_path / "there", WEIGHTS) / FILE
  folder = checkpoints.write(tmp_path / "model", {})
  (folder / FILE).unlink()
  (folder / FILE).symlink_to(there)
  assert "expected a file inside the folder" in _refusal(folder)
  assert loading.inspect(folder, allow_outside=True).tensors


def test_the_links_of_the_hugging_face_cache_are_followed(tmp_path):
  there = checkpoints.write(tmp_path / "written", WEIGHTS)
  root = tmp_path / "models--a--b"
  folder, blobs = root / "snapshots" / "1f", root / "blobs"
  folder.mkdir(parents=True)
  blobs.mkdir()
  for name in ("config.json", FILE):
    os.rename(there / name, blobs / f"0{name}")
    (folder / name).symlink_to(f"../../blobs/0{name}")
  assert loading.inspect(folder).tensors


def test_a_pipe_is_refused_before_it_is_opened(tmp_path):
  folder = _pointing(tmp_path / "model", "part.safetensors")
  os.mkfifo(folder / "part.safetensors")
  assert "is no regular file" in _refusal(folder)


@pytest.mark.parametrize("entry", [3, None, 1e300, [FILE], {"a": 1}, True])
def test_entries_of_an_index_that_are_no_names(tmp_path, entry):
  said = _refusal(_pointing(tmp_path / "model", entry))
  assert "cannot be read as an index of weights" in said
  assert weight_files.INDEX in said


@pytest.mark.parametrize("name", ["", "a\0b", "x" * 300, ".", "a/" * 3000])
def test_entries_of_an_index_that_name_no_file(tmp_path, name):
  said = _refusal(_pointing(tmp_path / "model", name))
  assert str(tmp_path / "model") in said and len(said) < 20_000


# Numbers that are none.


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
def test_weights_that_are_no_numbers_name_their_tensor(tmp_path, value, dtype):
  bad = WEIGHTS[DOWN].astype(dtype)
  bad[3, 5] = value
  folder = checkpoints.write(tmp_path, WEIGHTS | {DOWN: bad})
  with pytest.raises(ValueError) as error:
    loading.load(folder)
  assert str(error.value).startswith(
    f"{DOWN} in {folder / FILE} has 1 of 384 numbers that are NaN or infinite"
  )


def test_a_dtype_that_is_too_narrow_is_refused(tmp_path):
  large = WEIGHTS[DOWN].copy()
  large[0, 0] = 1e6
  folder = checkpoints.write(tmp_path, WEIGHTS | {DOWN: large})
  loading.load(folder, dtype=jnp.bfloat16)
  with pytest.raises(ValueError, match="infinite in float16 .stored as F32"):
    loading.load(folder, dtype=jnp.float16)


# Layouts and names.


def test_the_original_layout_has_a_hint_to_convert(tmp_path):
  config = {
    "model_type": "llava",
    "architectures": ["LlavaLlamaForCausalLM"],
    "mm_vision_tower": "openai/clip-vit-large-patch14-336",
    "mm_hidden_size": 1024,
    "hidden_size": 4096,
  }
  hint = "convert it with the script convert_llava_weights_to_hf.py"
  for kind in ("llava", "llava_llama"):
    folder = checkpoints.write(tmp_path, {}, config | {"model_type": kind})
    said = _refusal(folder)
    assert str(folder / "config.json") in said and hint in said
    assert "missing" not in said
  # A config of transformers with the original's tensors.
  table = {
    "model.mm_projector.0.weight": np.ones((16, 8), np.float32),
    "model.embed_tokens.weight": np.ones((32, 16), np.float32),
  }
  said = _refusal(checkpoints.write(tmp_path, table))
  assert hint in said
  said.index("missing")


def test_a_message_about_many_faults_stays_short(tmp_path):
  table = {f"x{i}": np.ones(1, np.float32) for i in range(3000)}
  said = _refusal(checkpoints.write(tmp_path, table))
  assert len(said.split("\n")) == 102
  assert said.endswith("more") and len(said) < 20_000


@pytest.mark.parametrize(
  "changes",
  [
    {"intermediate_size": 14_336, "num_key_value_heads": 8},  # Llama 3's sizes
    {"num_attention_heads": 64},
    {"num_key_value_heads": 4},
  ],
)
def test_another_model_of_the_same_width_and_depth_has_another_name(changes):
  config = copy.deepcopy(checkpoints.PUBLIC_7B)
  config["text_config"] |= changes
  found = families.describe(config)
  assert (found.cfg.decoder.width, found.cfg.decoder.layers) == (4096, 32)
  assert found.cfg.name.startswith("llava_1_5_32x4096_")
  spec = ops.presets.FASTV
  site = ops.PlannedSite("decoder.2", 64, spec)
  plan = ops.ReductionPlan("a", "llava_1_5_7b", 576, 32, (site,))
  models.reduction.check(plan, families.describe(checkpoints.PUBLIC_7B).cfg)
  with pytest.raises(ValueError, match="model is 'llava_1_5_7b', this model's"):
    models.reduction.check(plan, found.cfg)


def test_plans_belong_to_one_set_of_sizes():
  described = []
  for hidden in (96, 160):
    config = copy.deepcopy(checkpoints.CONFIG)
    config["text_config"]["intermediate_size"] = hidden
    described.append(families.describe(config).cfg)
  one, other = described
  site = ops.PlannedSite("decoder.0", 3, ops.presets.PRUNE)
  plan = ops.ReductionPlan(
    "a", one.name, one.tokens, one.decoder.layers, (site,)
  )
  models.reduction.check(plan, one)
  with pytest.raises(ValueError, match=f"model is '{one.name}', this model's"):
    models.reduction.check(plan, other)


def test_published_models_have_their_names():
  for name, model in public_configs.MODELS.items():
    assert families.describe(model.config).cfg.name == name
  # An extended vocabulary is the same model.
  text = public_configs.QWEN2_VL_2B | {"vocab_size": 160_000}
  assert families.describe(text).cfg.name == "qwen2_vl_2b"


# Configs.


def _described(family, **changes):
  kinds = {
    "llava_1_5": "llava",
    "onevision": "llava_onevision",
    "qwen2_vl": "qwen2_vl",
    "smolvlm": "smolvlm",
  }
  config = copy.deepcopy(tiny_families.config(family))
  config["model_type"] = kinds[family]
  for name, value in changes.items():
    *groups, field = name.split("__")
    inside = config
    for group in groups:
      inside = inside[group]
    inside[field] = value
  return families.describe(config)


HUGE = (10**9, 10**18, 10**30)
SIZES = [
  f"text_config__{name}"
  for name in (
    "head_dim",
    "hidden_size",
    "intermediate_size",
    "num_attention_heads",
    "num_hidden_layers",
    "num_key_value_heads",
    "vocab_size",
  )
]


@pytest.mark.parametrize("family", tiny_families.FAMILIES)
@pytest.mark.parametrize("value", HUGE)
def test_huge_sizes_are_refused_at_once(family, value):
  depth = "depth" if family == "qwen2_vl" else "num_hidden_layers"
  for name in [*SIZES, f"vision_config__{depth}", "vision_config__patch_size"]:
    with pytest.raises(ValueError) as error:
      _described(family, **{name: value})
    assert name.replace("__", ".") + f" is {value}" in str(error.value)


def test_sizes_that_are_huge_together_are_refused():
  sizes = dict.fromkeys(SIZES, 2**12)
  sizes["text_config__intermediate_size"] = 2**24
  sizes["text_config__vocab_size"] = 2**24
  with pytest.raises(ValueError, match="a model of .* parameters, expected at"):
    _described("smolvlm", **sizes)


@pytest.mark.parametrize("kind", [["llava"], {}, 3, None, True, "x" * 9999])
def test_a_model_type_that_is_no_name(kind):
  with pytest.raises(
    ValueError, match="model_type is .*, expected one of"
  ) as e:
    families.describe({"model_type": kind})
  assert len(str(e.value)) < 600


@pytest.mark.parametrize(
  "value",
  ["2,1,1", 4, {}, [2, 1], [2, 1, 1, 0], [2, 1, "1"], [2.0, 1, 1], [4, -1, 1],
   [True, 2, 1], [10**9, 1, 1], [[2], 1, 1]],
)  # fmt: skip
def test_sections_of_another_type(value):
  rope = {"mrope_section": value, "rope_type": "default"}
  with pytest.raises(ValueError, match="mrope_section is .*, expected 3 whole"):
    _described("qwen2_vl", text_config__rope_parameters=rope)


def test_one_feature_layer_in_a_list_is_that_layer():
  one = _described("llava_1_5", vision_feature_layer=[-2])
  assert one == _described("llava_1_5", vision_feature_layer=-2)
  for family in ("llava_1_5", "onevision"):
    with pytest.raises(ValueError, match="checkpoints such as ibm-granite"):
      _described(family, vision_feature_layer=[-2, -1])


def test_deep_nesting_is_no_json(tmp_path):
  path = tmp_path / "config.json"
  path.write_text("[" * 100_000 + "]" * 100_000, encoding="utf-8")
  with pytest.raises(ValueError, match=r"config.json is no JSON"):
    families.read(tmp_path)


# Sums and look-ups.


def test_kernels_of_two_frames_are_summed_in_float32():
  draw = np.random.default_rng(0).normal(size=(5, 3, 2, 4, 4))
  stored = draw.astype(ml_dtypes.bfloat16)
  got = table_lib.FORMS["frames"].ours(stored)
  wide = stored.astype(np.float32)
  want = (wide[:, :, 0] + wide[:, :, 1]).transpose(2, 3, 1, 0).reshape(-1, 5)
  assert got.dtype == np.float32
  np.testing.assert_array_equal(got, want)
  halves = stored[:, :, 0] + stored[:, :, 1]
  assert np.any(halves.astype(np.float32) != wide[:, :, 0] + wide[:, :, 1])


def test_ids_without_a_row_are_never_silent():
  table = jnp.arange(12.0).reshape(4, 3)
  rows = jax.jit(blocks.embed)({"embed": table}, jnp.array([0, 3, 4, -1, 99]))
  np.testing.assert_array_equal(rows[:2], table[jnp.array([0, 3])])
  assert bool(jnp.all(jnp.isnan(rows[2:])))
  cfg = small.config()
  params = jax.tree.map(lambda leaf: np.zeros(leaf.shape), loading.shapes(cfg))
  engine = models.Engine(cfg, params, stop=(), buckets=(4,), room=4)
  for bad in (32, -1, 10**6):
    fault = rf"prompt 1 has the token ids \[{bad}\], expected ids from 0 to 31"
    with pytest.raises(ValueError, match=fault):
      engine.begin(np.zeros((2, 16, 16, 3)), [[3, 4], [5, bad]])
