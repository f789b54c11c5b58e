"""SmolVLM and Idefics3: SigLIP, a pixel shuffle, one matrix, and Llama.

Marafioti et al., SmolVLM, https://arxiv.org/abs/2504.05299; Laurencon et al.,
Building and better understanding vision-language models (Idefics3),
https://arxiv.org/abs/2408.12637. Each tile of a picture is a picture to the
model: text stands between them.
"""

from collections.abc import Mapping
from typing import Any

from eos_jax.models import config as config_lib
from eos_jax.models.families import common, decoders, towers
from eos_jax.models.families import fields as fields_lib
from eos_jax.models.families import table as table_lib

FAMILY = "smolvlm"
MODEL_TYPES = ("smolvlm", "idefics3")

_TOWER = towers.Defaults(
  ("smolvlm_vision", "idefics3_vision", "idefics3", "siglip_vision_model"),
  "gelu_pytorch_tanh",
  1e-6,
  clip=False,
  width=1152,
  heads=16,
)
# Where config.json has no text config at all, transformers fills in this.
_NO_TEXT_CONFIG = {"rms_norm_eps": 1e-5}

RENAMES = ((r"^(vision_model|connector|text_model)\.", r"model.\1."),)
_VISION, _TEXT = "model.vision_model", "model.text_model"


def table() -> table_lib.Table:
  """The weights of a model but the output head."""
  return table_lib.Table(
    (
      *towers.weights(_VISION, _TOWER, post_norm=True),
      table_lib.linear(
        "projector.fc", "model.connector.modality_projection.proj"
      ),
      *decoders.weights(_TEXT),
    ),
    RENAMES,
    (
      decoders.frequencies(_TEXT),
      *towers.surplus(_VISION, run=1, stored=1, post_norm=True),
    ),
    "lm_head.weight",
  )


def describe(config: Mapping[str, Any]) -> table_lib.Description:
  """The model that a config.json describes; as `llava_1_5.describe`."""
  top = fields_lib.Fields(config)
  top.choice("model_type", None, MODEL_TYPES, common.OTHER_MODEL)
  common.refuse_quantised(top)
  vision = towers.read(top.group("vision_config", {}), _TOWER, post_norm=True)
  text = top.group("text_config", _NO_TEXT_CONFIG)
  text.choice("model_type", "llama", ("llama",), common.OTHER_MODEL)
  # transformers looks for the flag of these families at the top only.
  decoder = decoders.read(text, decoders.LLAMA, tied=common.tied(top))
  merge = top.whole("scale_factor", 2)
  image_token, dtype = common.image_token(top, 128_257), common.dtype(top)
  common.refuse(top, "SmolVLM or Idefics3")
  cfg = top.built(
    config_lib.VLMConfig,
    name=FAMILY,
    vision=vision,
    decoder=decoder,
    projector=0,
    prefix=(),
    projector_bias=False,
    merge=merge,
  )
  common.refuse(top, "SmolVLM or Idefics3")
  return common.described(FAMILY, cfg, table(), image_token, dtype)
