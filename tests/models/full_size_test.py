"""The trees and the tables of full-size public models, without their memory."""

import math

import jax
import pytest

from eos_jax.models import families, loading
from tests.models import public_configs


@pytest.mark.slow
@pytest.mark.parametrize("name", public_configs.MODELS)
def test_every_parameter_is_stored_once(name):
  model = public_configs.MODELS[name]
  found = families.describe(model.config)
  assert found.cfg.name == name
  assert found.cfg.tokens == model.tokens
  leaves = loading.flat(loading.shapes(found.cfg))
  ours = sum(leaf.size for leaf in leaves.values())
  assert ours == model.parameters - model.unread
  stored: dict = {}
  for weight in found.table.weights:
    shape = leaves[weight.path].shape
    for tensor in weight.names(shape):
      assert stored.setdefault(tensor, weight.stored(shape)) == weight.stored(
        shape
      )
  # Both frames' kernels are stored.
  frames = model.unread if found.family == "qwen2_vl" else 0
  assert sum(map(math.prod, stored.values())) == ours + frames


@pytest.mark.parametrize("name", public_configs.MODELS)
def test_blocks_have_the_shapes_of_the_config(name):
  config = public_configs.MODELS[name].config
  text = config.get("text_config", config)
  found = families.describe(config)
  tree = loading.shapes(found.cfg)
  layers, width = text["num_hidden_layers"], text["hidden_size"]
  shared = width // text["num_attention_heads"] * text["num_key_value_heads"]
  blocks = tree["decoder"]["blocks"]
  assert blocks["k"]["kernel"].shape == (layers, width, shared)
  wide = (layers, width, text["intermediate_size"])
  assert blocks["gate"]["kernel"].shape == wide
  assert tree["decoder"]["embed"].shape == (
    text.get("vocab_size", config.get("vocab_size")),
    width,
  )
  assert ("head" in tree["decoder"]) == (
    name not in ("llava_onevision_0_5b", "qwen2_vl_2b")
  )
  projected = jax.tree.leaves(tree["projector"])
  assert any(leaf.shape[-1] == width for leaf in projected)


def test_pixels_beside_whole_patches_are_left_over():
  cfg = families.describe(public_configs.ONEVISION_7B).cfg
  assert cfg.vision.size == (384, 384)
  assert cfg.vision.grid == (27, 27)  # 378 pixels
