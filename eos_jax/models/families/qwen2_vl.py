"""Qwen2-VL: any resolution, a patch merger, and Qwen2 with M-RoPE.

Wang et al., Qwen2-VL, https://arxiv.org/abs/2409.12191. Shapes are static here:
`image_size` is the room for a picture, which lies in its upper left corner, and
`valid` says which tokens it has. The user chooses the room:
`dataclasses.replace(cfg.vision, image_size=(height, width))`; no weight depends
on it. A still picture is the same in both frames that the encoder reads, so the
two kernels of its patches are one sum.
"""

from collections.abc import Mapping
from typing import Any

from eos_jax.models import config as config_lib
from eos_jax.models.families import common, decoders
from eos_jax.models.families import fields as fields_lib
from eos_jax.models.families import table as table_lib

FAMILY = "qwen2_vl"
MODEL_TYPE = "qwen2_vl"

# 16 x 16 visual tokens, if nobody chooses.
ROOM = (448, 448)
_TEXT_DEFAULTS = decoders.Defaults(
  "qwen2_vl_text",
  152_064,
  8192,
  80,
  64,
  29_568,
  8,
  qkv_bias=True,
  norm_eps=1e-5,
  rope_theta=1e6,
)
_SECTIONS = (16, 24, 24)

RENAMES = (
  (r"^model\.visual\.", "visual."),
  (r"^model\.language_model\.", "model."),
)
_BLOCK, _MERGER = "visual.blocks.{}", "visual.merger"


def _projections():
  """Queries, keys and values, which are one tensor."""
  for number, name in enumerate("qkv"):
    for kind, form in (("weight", "linear"), ("bias", "same")):
      path = "kernel" if kind == "weight" else "bias"
      yield table_lib.Weight(
        f"vision.blocks.{name}.{path}",
        f"{_BLOCK}.attn.qkv.{kind}",
        form,
        (number, 3),
      )


def table() -> table_lib.Table:
  """The weights of a model but the output head."""
  return table_lib.Table(
    (
      table_lib.Weight(
        "vision.embed.patch.kernel", "visual.patch_embed.proj.weight", "frames"
      ),
      *table_lib.norm("vision.blocks.norm1", f"{_BLOCK}.norm1"),
      *_projections(),
      *table_lib.affine("vision.blocks.out", f"{_BLOCK}.attn.proj"),
      *table_lib.norm("vision.blocks.norm2", f"{_BLOCK}.norm2"),
      *table_lib.affine("vision.blocks.fc1", f"{_BLOCK}.mlp.fc1"),
      *table_lib.affine("vision.blocks.fc2", f"{_BLOCK}.mlp.fc2"),
      *table_lib.norm("projector.norm", f"{_MERGER}.ln_q"),
      *table_lib.affine("projector.fc1", f"{_MERGER}.mlp.0"),
      *table_lib.affine("projector.fc2", f"{_MERGER}.mlp.2"),
      *decoders.weights("model", qkv_bias=True),
    ),
    RENAMES,
    (
      decoders.frequencies("model"),
      table_lib.Surplus(
        r"visual\.rotary_pos_emb\.inv_freq",
        "the rotary frequencies follow from the config",
      ),
    ),
    "lm_head.weight",
  )


def describe(config: Mapping[str, Any]) -> table_lib.Description:
  """The model that a config.json describes; as `llava_1_5.describe`."""
  top = fields_lib.Fields(config)
  top.choice("model_type", None, (MODEL_TYPE,), common.OTHER_MODEL)
  common.refuse_quantised(top)
  # Versions before 4.52 have the decoder's fields at the top.
  text = top.group("text_config", {}) if top.has("text_config") else top
  decoder = decoders.read(
    text,
    _TEXT_DEFAULTS,
    tied=common.tied(top, text),
    rope_axes=_axes(text),
    rope_types=("default", "mrope"),
  )
  vision, merge = _vision(top)
  image_token, dtype = common.image_token(top, 151_655), common.dtype(top)
  common.refuse(top, "Qwen2-VL")
  cfg = config_lib.VLMConfig(
    name=FAMILY,
    vision=vision,
    decoder=decoder,
    projector=vision.width * merge**2,
    prefix=(),
    projector_activation="gelu_exact",
    projector_norm=True,
    merge=merge,
  )
  return common.described(FAMILY, cfg, table(), image_token, dtype)


def _vision(top):
  """The encoder, and the side of the squares that are merged."""
  own = top.group("vision_config", {})
  for name in ("in_channels", "in_chans"):
    own.choice(name, 3, (3,), common.OTHER_MODEL)
  own.choice("temporal_patch_size", 2, (2,), common.OTHER_MODEL)
  merge, patch = own.whole("spatial_merge_size", 2), own.whole("patch_size", 14)
  block, width = merge * patch, own.whole("embed_dim", 1280)
  cfg = own.built(
    config_lib.VisionConfig,
    image_size=tuple(-(-side // block) * block for side in ROOM),
    patch_size=patch,
    layers=own.whole("depth", 32, most=decoders.MOST_LAYERS),
    width=width,
    heads=own.whole("num_heads", 16),
    mlp=int(width * own.positive("mlp_ratio", 4, most=1000)),
    activation=common.activation(own, "hidden_act", "quick_gelu"),
    norm_eps=1e-6,
    class_token=False,
    rotary=True,
    pre_norm=False,
    post_norm=False,
  )
  return cfg, merge


def _axes(text):
  """Axis that turns each rotary pair: time, row or column (M-RoPE)."""
  sections = _SECTIONS
  for name in ("rope_parameters", "rope_scaling"):
    sections = text.group(name, {}).wholes("mrope_section", sections)
  return tuple(
    axis for axis, pairs in enumerate(sections) for _ in range(pairs)
  )
