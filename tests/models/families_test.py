"""What a config.json says, and the trees of the full-size models."""

import copy
import dataclasses
import json
import math

import jax
import pytest

from eos_jax import models
from eos_jax.models import families, loading
from tests.models import checkpoints, small

# Of CLIP-L, not read: its last layer, and the norm behind it.
_LAST_VISION_LAYER, _LAST_VISION_NORM = 12_596_224, 2_048


def _changed(config=checkpoints.CONFIG, **changes):
  """A config with dotted fields (`__`) changed; `...` deletes one."""
  config = copy.deepcopy(config)
  for name, value in changes.items():
    *groups, field = name.split("__")
    inside = config
    for group in groups:
      inside = inside[group]
    if value is ...:
      del inside[field]
    else:
      inside[field] = value
  return config


def _faults(**changes):
  with pytest.raises(ValueError) as error:
    families.describe(_changed(**changes))
  title, *lines = str(error.value).split("\n  ")
  assert title == "this is no LLaVA-1.5 that can be computed here:"
  return lines


def test_the_public_config_is_the_model_of_this_package():
  found = families.describe(checkpoints.PUBLIC_7B)
  assert found.cfg == models.llava_1_5_7b()
  assert (found.family, found.image_token) == ("llava_1_5", 32_000)
  assert found.dtype == "float16"


@pytest.mark.parametrize(
  "config, name, parameters",
  [
    # Counted by transformers 5.23; tests/parity counts again.
    (checkpoints.PUBLIC_7B, "llava_1_5_7b", 7_063_427_072),
    (checkpoints.PUBLIC_13B, "llava_1_5_13b", 13_351_494_656),
  ],
)
def test_full_size(config, name, parameters):
  found = families.describe(config)
  tree = loading.shapes(found.cfg)
  assert found.cfg.name == name
  count = sum(leaf.size for leaf in jax.tree.leaves(tree))
  assert count == parameters - _LAST_VISION_LAYER - _LAST_VISION_NORM
  text = config["text_config"]
  width, layers = text.get("hidden_size", 4096), found.cfg.decoder.layers
  assert tree["decoder"]["blocks"]["down"]["kernel"].shape == (
    layers,
    text.get("intermediate_size", 11_008),
    width,
  )
  assert tree["decoder"]["head"]["out"]["kernel"].shape == (width, 32_064)
  assert tree["vision"]["blocks"]["fc1"]["kernel"].shape == (23, 1024, 4096)
  assert tree["vision"]["embed"]["patch"]["kernel"].shape == (588, 1024)
  # All stored tensors together are the parameters, none twice.
  leaves, total, names = loading.flat(tree), 0, []
  for weight in found.table.weights:
    shape = leaves[weight.path].shape
    names += weight.names(shape)
    total += len(weight.names(shape)) * math.prod(weight.stored(shape))
  assert total == count
  assert len(set(names)) == len(names)


def test_a_config_without_sub_configs_is_clip_l_and_llama_7b():
  found = families.describe({"model_type": "llava"})
  assert found.cfg.vision == models.llava_1_5_7b().vision
  assert found.cfg.decoder == dataclasses.replace(
    models.llava_1_5_7b().decoder, vocab=32_000, norm_eps=1e-6
  )
  assert found.dtype == "float32"
  # A sub-config that is there but says nothing is the base model of CLIP.
  vision = families.describe({"model_type": "llava", "vision_config": {}})
  assert vision.cfg.vision == models.VisionConfig(
    image_size=224,
    patch_size=32,
    layers=11,
    width=768,
    heads=12,
    mlp=3072,
    activation="quick_gelu",
    post_norm=False,
  )


def test_old_and_new_names_of_fields_say_the_same():
  new = families.describe(checkpoints.CONFIG)
  assert new.cfg.decoder.rope_theta == 500
  old = families.describe(
    _changed(
      text_config__rope_parameters=...,
      text_config__rope_theta=500.0,
      text_config__rope_scaling=None,
      text_config__head_dim=4,
      image_token_index=...,
      image_token_id=31,
      dtype=...,
      torch_dtype="float32",
      vision_feature_select_strategy="default",
      vision_feature_layer=2,
    )
  )
  assert old == new


def test_the_feature_layer_says_how_many_layers_run():
  for layer, run in ((-1, 3), (-2, 2), (-3, 1), (1, 1), (3, 3)):
    found = families.describe(_changed(vision_feature_layer=layer))
    assert found.cfg.vision.layers == run
    left_out = [
      index
      for index in range(3)
      if found.table.why_left_out(
        f"vision_tower.encoder.layers.{index}.mlp.fc1.bias"
      )
    ]
    assert left_out == list(range(run, 3))


def test_a_tied_head_is_not_read():
  for name in ("tie_word_embeddings", "text_config__tie_word_embeddings"):
    found = families.describe(_changed(**{name: True}))
    assert found.cfg.decoder.tied
    assert found.table.why_left_out("language_model.lm_head.weight")


def test_another_family_is_refused(tmp_path):
  config = {"model_type": "llava_next"}
  (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
  with pytest.raises(ValueError) as error:
    families.read(tmp_path)
  assert str(error.value) == (
    f"{tmp_path / 'config.json'}: model_type is 'llava_next', expected one of"
    " idefics3, llava, llava_onevision, qwen2_vl, smolvlm; use a checkpoint of"
    " these families in the form that transformers saves"
  )


def test_config_files_that_cannot_be_read(tmp_path):
  path = tmp_path / "config.json"
  with pytest.raises(ValueError, match="No such file.*give the folder of a"):
    families.read(tmp_path)
  path.write_text('{"model_type": "lla', encoding="utf-8")
  with pytest.raises(ValueError, match="config.json is no JSON .*again"):
    families.read(tmp_path)
  path.write_text("[1]", encoding="utf-8")
  with pytest.raises(ValueError, match="config.json holds a list, expected"):
    families.read(tmp_path)


def test_all_faults_are_listed_with_their_places():
  other = "only this one is implemented, use another checkpoint"
  own = "use the config.json that belongs to the weights"
  assert _faults(
    text_config__rope_parameters={"rope_type": "yarn", "factor": 4.0},
    text_config__hidden_act="gelu",
    text_config__attention_bias=True,
    text_config__num_hidden_layers="3",
    text_config__rms_norm_eps=0,
    vision_config__hidden_act="relu",
    vision_config__model_type="siglip_vision_model",
    vision_feature_layer=[-2, -5],
    vision_feature_select_strategy="full",
    multimodal_projector_bias=False,
    quantization_config={"bits": 4},
    image_token_id=5,
    dtype="int8",
  ) == [
    "quantization_config is {'bits': 4}, expected no such field; use the"
    " checkpoint before its quantisation",
    "vision_feature_layer is [-2, -5], expected one layer, -1 to -3 or 1 to 3;"
    " features of several layers side by side, which checkpoints such as"
    " ibm-granite/granite-vision-3.2-2b and llava-hf/vip-llava-7b-hf read, and"
    " those of the embedding are not implemented: use a checkpoint of this"
    " family with one layer, such as llava-hf/llava-1.5-7b-hf",
    "vision_config.model_type is 'siglip_vision_model', expected"
    f" 'clip_vision_model'; {other}",
    "vision_config.hidden_act is 'relu', expected 'gelu' or 'gelu_new' or"
    f" 'gelu_pytorch_tanh' or 'quick_gelu'; {other}",
    "vision_feature_select_strategy is 'full', expected 'default'; only"
    " patches are projected here, without the class token",
    f"text_config.hidden_act is 'gelu', expected 'silu' or 'swish'; {other}",
    f"text_config.attention_bias is True, expected False; {other}",
    "text_config.num_hidden_layers is '3', expected a whole number of at least"
    f" 1; {own}",
    "text_config.rope_parameters.rope_type is 'yarn', expected 'default';"
    " scaled rotary positions are not read",
    f"text_config.rms_norm_eps is 0, expected a number above 0; {own}",
    f"multimodal_projector_bias is False, expected True; {other}",
    "image_token_id is 5, expected 31, the value of image_token_index; delete"
    " the wrong one",
    "dtype is 'int8', expected 'float32' or 'float16' or 'bfloat16' or"
    " 'float64'; use a checkpoint in floating point",
  ]


@pytest.mark.parametrize(
  "changes, fault",
  [
    (
      {"text_config__rope_scaling": {"type": "linear", "factor": 2.0}},
      "text_config.rope_scaling.type is 'linear', expected 'default'",
    ),
    (
      {"text_config__rope_parameters__partial_rotary_factor": 0.5},
      "text_config.rope_parameters.partial_rotary_factor is 0.5, expected 1",
    ),
    ({"vision_feature_layer": -4}, "vision_feature_layer is -4, expected one"),
    ({"vision_feature_layer": 0}, "vision_feature_layer is 0, expected one"),
    ({"vision_feature_layer": True}, "vision_feature_layer is True, expected"),
    ({"text_config": 3}, "text_config is 3, expected an object"),
    (
      {"vision_config__image_size": [12, 16]},
      "vision_config.image_size is [12, 16], expected a whole number",
    ),
    ({"vision_config__patch_size": 13}, "vision_config: image_size=12 has no"),
    (
      {"text_config__num_key_value_heads": 3},
      "text_config: heads=4 is no multiple of kv_heads=3.",
    ),
  ],
)
def test_single_faults(changes, fault):
  (line,) = _faults(**changes)
  assert line.startswith(fault), line


def test_activations_are_those_of_their_names():
  exact = families.describe(checkpoints.CONFIG).cfg
  assert exact.projector_activation == "gelu_exact"
  assert exact.vision.activation == "quick_gelu"
  tanh = _changed(projector_hidden_act="gelu_pytorch_tanh")
  assert families.describe(tanh).cfg.projector_activation == "gelu"
  with pytest.raises(ValueError, match="projector_activation='relu' is not"):
    dataclasses.replace(exact, projector_activation="relu")
  with pytest.raises(ValueError, match="vision activation='silu' is not"):
    dataclasses.replace(exact.vision, activation="silu")


def test_biases_of_queries_keys_and_values_start_at_zero():
  cfg = small.config(qkv_bias=True)
  block = loading.shapes(cfg)["decoder"]["blocks"]
  assert [block[name]["bias"].shape for name in "qkv"] == [(3, 16)] + 2 * [
    (3, 8)
  ]
  assert "bias" not in block["out"]
