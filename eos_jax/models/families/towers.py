"""Vision encoders of published families: CLIP and SigLIP."""

import dataclasses

from eos_jax.models import config as config_lib
from eos_jax.models.families import common, decoders
from eos_jax.models.families import fields as fields_lib
from eos_jax.models.families import table as table_lib


@dataclasses.dataclass(frozen=True)
class Defaults:
  """What transformers fills in where a vision config is silent (5.24).

  Attributes:
    model_types: of the vision config; the first one is the default.
    activation: their name.
    norm_eps: epsilon of the layer norms.
    clip: whether it has CLIP's class token and first norm, else SigLIP's bias
      of patches.
    image_size, patch_size, layers, width, heads, mlp: sizes.
  """

  model_types: tuple[str, ...]
  activation: str
  norm_eps: float
  clip: bool
  image_size: int = 224
  patch_size: int = 32
  layers: int = 12
  width: int = 768
  heads: int = 12
  mlp: int = 3072


CLIP = Defaults(("clip_vision_model",), "quick_gelu", 1e-5, clip=True)
SIGLIP = Defaults(
  ("siglip_vision_model",), "gelu_pytorch_tanh", 1e-6, False, patch_size=16
)


def weights(
  source: str, defaults: Defaults, *, post_norm: bool = False
) -> tuple[table_lib.Weight, ...]:
  """All weights of a tower.

  Args:
    source: what all their names begin with.
    defaults: of its kind.
    post_norm: whether the norm after the last block is used.
  """
  embed, block = f"{source}.embeddings", f"{source}.encoder.layers.{{}}"
  if defaults.clip:
    first = (
      table_lib.Weight("vision.embed.class_token", f"{embed}.class_embedding"),
      *table_lib.norm("vision.embed.norm", f"{source}.pre_layrnorm"),  # sic
    )
  else:
    first = (
      table_lib.Weight(
        "vision.embed.patch.bias", f"{embed}.patch_embedding.bias"
      ),
    )
  last = table_lib.norm("vision.post_norm", f"{source}.post_layernorm")
  return (
    *first,
    table_lib.Weight(
      "vision.embed.position", f"{embed}.position_embedding.weight"
    ),
    table_lib.Weight(
      "vision.embed.patch.kernel", f"{embed}.patch_embedding.weight", "patches"
    ),
    *table_lib.norm("vision.blocks.norm1", f"{block}.layer_norm1"),
    *table_lib.affine("vision.blocks.q", f"{block}.self_attn.q_proj"),
    *table_lib.affine("vision.blocks.k", f"{block}.self_attn.k_proj"),
    *table_lib.affine("vision.blocks.v", f"{block}.self_attn.v_proj"),
    *table_lib.affine("vision.blocks.out", f"{block}.self_attn.out_proj"),
    *table_lib.norm("vision.blocks.norm2", f"{block}.layer_norm2"),
    *table_lib.affine("vision.blocks.fc1", f"{block}.mlp.fc1"),
    *table_lib.affine("vision.blocks.fc2", f"{block}.mlp.fc2"),
    *(last if post_norm else ()),
  )


def surplus(
  source: str, *, run: int, stored: int, post_norm: bool = False
) -> tuple[table_lib.Surplus, ...]:
  """What a tower's checkpoint may have that is not read.

  Args:
    source: what all its names begin with.
    run: blocks in front of the features that are read.
    stored: blocks that the checkpoint has.
    post_norm: whether the norm after the last block is used.
  """
  found = [
    table_lib.Surplus(
      rf"{source}\.embeddings\.position_ids", "the numbers 0, 1, 2, ..."
    ),
    table_lib.Surplus(
      rf"{source}\.head\..*", "the pooling head sees no patch's features"
    ),
  ]
  if not post_norm:
    found.append(
      table_lib.Surplus(
        rf"{source}\.post_layernorm\.(weight|bias)",
        "features are taken in front of this norm",
      )
    )
  if run < stored:
    behind = "|".join(str(layer) for layer in range(run, stored))
    found.append(
      table_lib.Surplus(
        rf"{source}\.encoder\.layers\.({behind})\..*",
        "this layer comes after the features that are read",
      )
    )
  return tuple(found)


def read(
  own: fields_lib.Fields,
  defaults: Defaults,
  *,
  layers: int | None = None,
  post_norm: bool = False,
) -> config_lib.VisionConfig | None:
  """The encoder that a vision config describes; None where it has faults.

  Args:
    own: the vision config.
    defaults: of its kind.
    layers: blocks to run; None = all.
    post_norm: whether the norm after the last block is used.
  """
  known = defaults.model_types
  own.choice("model_type", known[0], known, common.OTHER_MODEL)
  own.choice("num_channels", 3, (3,), common.OTHER_MODEL)
  stored = stored_layers(own, defaults)
  return own.built(
    config_lib.VisionConfig,
    image_size=own.whole("image_size", defaults.image_size),
    patch_size=own.whole("patch_size", defaults.patch_size),
    layers=stored if layers is None else layers,
    width=own.whole("hidden_size", defaults.width),
    heads=own.whole("num_attention_heads", defaults.heads),
    mlp=own.whole("intermediate_size", defaults.mlp),
    activation=common.activation(own, "hidden_act", defaults.activation),
    norm_eps=own.positive("layer_norm_eps", defaults.norm_eps),
    class_token=defaults.clip,
    patch_bias=not defaults.clip,
    pre_norm=defaults.clip,
    post_norm=post_norm,
  )


def stored_layers(own: fields_lib.Fields, defaults: Defaults) -> int:
  """Blocks that the checkpoint has."""
  most = decoders.MOST_LAYERS
  return own.whole("num_hidden_layers", defaults.layers, most=most)


def layers_run(top: fields_lib.Fields, stored: int, default: int) -> int:
  """Blocks in front of the features that are read.

  Hidden state 0 is the embedding, state i the output of i layers.

  Args:
    top: the whole config.
    stored: blocks that the checkpoint has.
    default: hidden state that is read where the config is silent.
  """
  layer, run = top.get("vision_feature_layer", default), 0
  if isinstance(layer, list) and len(layer) == 1:
    layer = layer[0]  # the same features
  if isinstance(layer, int) and not isinstance(layer, bool):
    run = stored + 1 + layer if layer < 0 else layer
  if not 1 <= run <= stored:
    top.fault(
      "vision_feature_layer",
      f"one layer, -1 to {-stored} or 1 to {stored}",
      "features of several layers side by side, which checkpoints such as"
      " ibm-granite/granite-vision-3.2-2b and llava-hf/vip-llava-7b-hf read,"
      " and those of the embedding are not implemented: use a checkpoint of"
      " this family with one layer, such as llava-hf/llava-1.5-7b-hf",
    )
    return stored
  return run
