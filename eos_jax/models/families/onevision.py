"""LLaVA-OneVision: SigLIP, a two-layer MLP and Qwen2, over tiles of a picture.

Li et al., LLaVA-OneVision: Easy Visual Task Transfer,
https://arxiv.org/abs/2408.03326. How many tiles there is room for is the
user's choice: `dataclasses.replace(cfg, tiles=(2, 3))`; no weight depends on
it.
"""

from collections.abc import Mapping
from typing import Any

from eos_jax.models import config as config_lib
from eos_jax.models.families import common, decoders, llava_1_5, towers
from eos_jax.models.families import fields as fields_lib
from eos_jax.models.families import table as table_lib

FAMILY = "llava_onevision"
MODEL_TYPE = "llava_onevision"

# Where config.json has no vision config at all, transformers fills in these.
_NO_VISION_CONFIG = {
  "hidden_size": 1152,
  "intermediate_size": 4304,
  "num_hidden_layers": 26,
  "num_attention_heads": 16,
  "image_size": 384,
  "patch_size": 14,
}


def table(*, run: int, stored: int) -> table_lib.Table:
  """The weights of a model; arguments as of `llava_1_5.table`."""
  tower, decoder = llava_1_5.TOWER, llava_1_5.DECODER
  return table_lib.Table(
    (
      *towers.weights(tower, towers.SIGLIP),
      *llava_1_5.PROJECTOR,
      table_lib.Weight("newline", "image_newline"),
      *decoders.weights(decoder, qkv_bias=True),
    ),
    llava_1_5.RENAMES,
    (
      decoders.frequencies(decoder),
      *towers.surplus(tower, run=run, stored=stored),
    ),
    llava_1_5.HEAD,
  )


def describe(config: Mapping[str, Any]) -> table_lib.Description:
  """The model that a config.json describes; as `llava_1_5.describe`."""
  top = fields_lib.Fields(config)
  top.choice("model_type", None, (MODEL_TYPE,), common.OTHER_MODEL)
  common.refuse_quantised(top)
  own = top.group("vision_config", _NO_VISION_CONFIG)
  stored = towers.stored_layers(own, towers.SIGLIP)
  run = towers.layers_run(top, stored, default=-1)
  vision = towers.read(own, towers.SIGLIP, layers=run)
  top.choice(
    "vision_feature_select_strategy",
    "full",
    ("full",),
    "all features of the encoder are projected here",
  )
  text = top.group("text_config", {})
  text.choice("model_type", "qwen2", ("qwen2",), common.OTHER_MODEL)
  decoder = decoders.read(text, decoders.QWEN2, tied=common.tied(top, text))
  activation = common.activation(top, "projector_hidden_act", "gelu")
  top.choice("multimodal_projector_bias", True, (True,), common.OTHER_MODEL)
  image_token, dtype = common.image_token(top, 151_646), common.dtype(top)
  common.refuse(top, "LLaVA-OneVision")
  cfg = config_lib.VLMConfig(
    name=FAMILY,
    vision=vision,
    decoder=decoder,
    projector=decoder.width,
    prefix=(),
    projector_activation=activation,
    tiles=(0, 0),
  )
  weights = table(run=run, stored=stored)
  return common.described(FAMILY, cfg, weights, image_token, dtype)
