"""LLaVA-1.5: CLIP, a two-layer MLP and Vicuna, as Hugging Face stores them.

Liu et al., Improved Baselines with Visual Instruction Tuning,
https://arxiv.org/abs/2310.03744. Pictures of this family are normalised by
CLIP's mean and standard deviation, not to [-1, 1].
"""

from collections.abc import Mapping
from typing import Any

from eos_jax.models import config as config_lib
from eos_jax.models.families import common, decoders, towers
from eos_jax.models.families import fields as fields_lib
from eos_jax.models.families import table as table_lib

FAMILY = "llava_1_5"
MODEL_TYPE = "llava"

# Where config.json has no vision config at all, transformers fills in these.
_NO_VISION_CONFIG = {
  "hidden_size": 1024,
  "intermediate_size": 4096,
  "num_hidden_layers": 24,
  "num_attention_heads": 16,
  "image_size": 336,
  "patch_size": 14,
}

# The names that transformers saves (5.23). Checkpoints of older versions, which
# the hub has, call the tower `vision_tower.vision_model`; in memory, and in
# files saved from there by hand, everything but the head is below `model`.
RENAMES = (
  (r"^model\.(vision_tower|multi_modal_projector|image_newline)\b", r"\1"),
  (r"^model\.language_model\.", "language_model.model."),
  (r"^lm_head\.", "language_model.lm_head."),
  (r"^vision_tower\.vision_model\.", "vision_tower."),
)
TOWER, DECODER = "vision_tower", "language_model.model"
HEAD = "language_model.lm_head.weight"
PROJECTOR = (
  *table_lib.affine("projector.fc1", "multi_modal_projector.linear_1"),
  *table_lib.affine("projector.fc2", "multi_modal_projector.linear_2"),
)


def table(*, run: int, stored: int) -> table_lib.Table:
  """The weights of a model but the output head.

  Args:
    run: vision layers in front of the features that are read.
    stored: vision layers that the checkpoint has.
  """
  return table_lib.Table(
    (
      *towers.weights(TOWER, towers.CLIP),
      *PROJECTOR,
      *decoders.weights(DECODER),
    ),
    RENAMES,
    (
      decoders.frequencies(DECODER),
      *towers.surplus(TOWER, run=run, stored=stored),
    ),
    HEAD,
  )


def describe(config: Mapping[str, Any]) -> table_lib.Description:
  """The model that a config.json describes.

  Fields that change nothing in what the model computes are not looked at.

  Args:
    config: the object in the file, of any version of transformers.

  Raises:
    ValueError: it describes something else, or what this package cannot
      compute; every fault is listed.
  """
  top = fields_lib.Fields(config)
  top.choice("model_type", None, (MODEL_TYPE,), common.OTHER_MODEL)
  common.refuse_quantised(top)
  own = top.group("vision_config", _NO_VISION_CONFIG)
  stored = towers.stored_layers(own, towers.CLIP)
  run = towers.layers_run(top, stored, default=-2)
  vision = towers.read(own, towers.CLIP, layers=run)
  top.choice(
    "vision_feature_select_strategy",
    "default",
    ("default",),
    "only patches are projected here, without the class token",
  )
  text = top.group("text_config", {})
  text.choice("model_type", "llama", ("llama",), common.OTHER_MODEL)
  decoder = decoders.read(text, decoders.LLAMA, tied=common.tied(top, text))
  bos = text.whole("bos_token_id", 1, least=0)
  activation = common.activation(top, "projector_hidden_act", "gelu")
  top.choice("multimodal_projector_bias", True, (True,), common.OTHER_MODEL)
  image_token, dtype = common.image_token(top, 32_000), common.dtype(top)
  common.refuse(top, "LLaVA-1.5")
  cfg = config_lib.VLMConfig(
    name=FAMILY,
    vision=vision,
    decoder=decoder,
    projector=decoder.width,
    prefix=(bos,),
    projector_activation=activation,
  )
  weights = table(run=run, stored=stored)
  return common.described(FAMILY, cfg, weights, image_token, dtype)
