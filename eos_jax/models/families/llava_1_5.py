"""LLaVA-1.5: CLIP, a two-layer MLP and Vicuna, as Hugging Face stores them.

Liu et al., Improved Baselines with Visual Instruction Tuning,
https://arxiv.org/abs/2310.03744. Pictures of this family are normalised by
CLIP's mean and standard deviation, not to [-1, 1].
"""

from collections.abc import Mapping
from typing import Any

from eos_jax.models import config as config_lib
from eos_jax.models.families import fields as fields_lib
from eos_jax.models.families import table as table_lib

FAMILY = "llava_1_5"
MODEL_TYPE = "llava"

# Where config.json is silent, transformers fills in these (its version 5.23;
# older ones do the same). The public 7B model relies on that for most fields
# of its decoder.
_NO_VISION_CONFIG = {
  "hidden_size": 1024,
  "intermediate_size": 4096,
  "num_hidden_layers": 24,
  "num_attention_heads": 16,
  "image_size": 336,
  "patch_size": 14,
}
_ACTIVATIONS = {
  "gelu": "gelu_exact",
  "gelu_new": "gelu",
  "gelu_pytorch_tanh": "gelu",
  "quick_gelu": "quick_gelu",
}
_DTYPES = ("float32", "float16", "bfloat16", "float64")
# Plans carry the name of their model: width and layers of the decoder.
_NAMES = {(4096, 32): "llava_1_5_7b", (5120, 40): "llava_1_5_13b"}

_OTHER_MODEL = "only this one is implemented, use a LLaVA-1.5 checkpoint"

# The names that transformers saves (5.23). Checkpoints of older versions, which
# the hub has, call the tower `vision_tower.vision_model`; in memory, and in
# files saved from there by hand, everything but the head is below `model`.
RENAMES = (
  (r"^model\.(vision_tower|multi_modal_projector)\.", r"\1."),
  (r"^model\.language_model\.", "language_model.model."),
  (r"^lm_head\.", "language_model.lm_head."),
  (r"^vision_tower\.vision_model\.", "vision_tower."),
)

_TOWER, _BLOCK = "vision_tower", "vision_tower.encoder.layers.{}"
_DECODER, _LAYER = "language_model.model", "language_model.model.layers.{}"


def _affine(path, source, form="linear", kernel="kernel"):
  """Weight and bias of a linear layer, or of a norm."""
  return (
    table_lib.Weight(f"{path}.{kernel}", f"{source}.weight", form),
    table_lib.Weight(f"{path}.bias", f"{source}.bias"),
  )


def _norm(path, source):
  return _affine(path, source, form="same", kernel="scale")


def _linear(path, source):
  return table_lib.Weight(f"{path}.kernel", f"{source}.weight", "linear")


WEIGHTS = (
  table_lib.Weight(
    "vision.embed.class_token", f"{_TOWER}.embeddings.class_embedding"
  ),
  table_lib.Weight(
    "vision.embed.position", f"{_TOWER}.embeddings.position_embedding.weight"
  ),
  table_lib.Weight(
    "vision.embed.patch.kernel",
    f"{_TOWER}.embeddings.patch_embedding.weight",
    "patches",
  ),
  *_norm("vision.embed.norm", f"{_TOWER}.pre_layrnorm"),  # sic
  *_norm("vision.blocks.norm1", f"{_BLOCK}.layer_norm1"),
  *_affine("vision.blocks.q", f"{_BLOCK}.self_attn.q_proj"),
  *_affine("vision.blocks.k", f"{_BLOCK}.self_attn.k_proj"),
  *_affine("vision.blocks.v", f"{_BLOCK}.self_attn.v_proj"),
  *_affine("vision.blocks.out", f"{_BLOCK}.self_attn.out_proj"),
  *_norm("vision.blocks.norm2", f"{_BLOCK}.layer_norm2"),
  *_affine("vision.blocks.fc1", f"{_BLOCK}.mlp.fc1"),
  *_affine("vision.blocks.fc2", f"{_BLOCK}.mlp.fc2"),
  *_affine("projector.fc1", "multi_modal_projector.linear_1"),
  *_affine("projector.fc2", "multi_modal_projector.linear_2"),
  table_lib.Weight("decoder.embed", f"{_DECODER}.embed_tokens.weight"),
  table_lib.Weight(
    "decoder.blocks.norm1.scale", f"{_LAYER}.input_layernorm.weight"
  ),
  _linear("decoder.blocks.q", f"{_LAYER}.self_attn.q_proj"),
  _linear("decoder.blocks.k", f"{_LAYER}.self_attn.k_proj"),
  _linear("decoder.blocks.v", f"{_LAYER}.self_attn.v_proj"),
  _linear("decoder.blocks.out", f"{_LAYER}.self_attn.o_proj"),
  table_lib.Weight(
    "decoder.blocks.norm2.scale", f"{_LAYER}.post_attention_layernorm.weight"
  ),
  _linear("decoder.blocks.gate", f"{_LAYER}.mlp.gate_proj"),
  _linear("decoder.blocks.up", f"{_LAYER}.mlp.up_proj"),
  _linear("decoder.blocks.down", f"{_LAYER}.mlp.down_proj"),
  table_lib.Weight("decoder.norm.scale", f"{_DECODER}.norm.weight"),
)
_HEAD = _linear("decoder.head.out", "language_model.lm_head")

_SURPLUS = (
  table_lib.Surplus(
    rf"{_DECODER}\.(layers\.\d+\.self_attn\.)?rotary_emb\.inv_freq",
    "the rotary frequencies follow from the config",
  ),
  table_lib.Surplus(
    rf"{_TOWER}\.embeddings\.position_ids", "the numbers 0, 1, 2, ..."
  ),
  table_lib.Surplus(
    rf"{_TOWER}\.post_layernorm\.(weight|bias)",
    "features are taken in front of this norm",
  ),
)


def table(*, tied: bool, run: int, stored: int) -> table_lib.Table:
  """The weights of a model.

  Args:
    tied: whether the output head is the embedding table.
    run: vision layers in front of the features that are read.
    stored: vision layers that the checkpoint has.
  """
  surplus = _SURPLUS
  if run < stored:
    behind = "|".join(str(layer) for layer in range(run, stored))
    surplus += (
      table_lib.Surplus(
        rf"{_TOWER}\.encoder\.layers\.({behind})\..*",
        "this layer is behind the features that are read",
      ),
    )
  if tied:
    surplus += (
      table_lib.Surplus(
        r"language_model\.lm_head\.weight", "the head is the embedding table"
      ),
    )
  weights = WEIGHTS if tied else (*WEIGHTS, _HEAD)
  return table_lib.Table(weights, RENAMES, surplus)


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
  top.choice("model_type", None, (MODEL_TYPE,), _OTHER_MODEL)
  _refuse_quantised(top)
  vision, stored = _vision(top)
  decoder, bos = _decoder(top)
  activation = top.choice(
    "projector_hidden_act", "gelu", tuple(_ACTIVATIONS), _OTHER_MODEL
  )
  top.choice("multimodal_projector_bias", True, (True,), _OTHER_MODEL)
  image_token, dtype = _image_token(top), _dtype(top)
  if vision is None or decoder is None or top.faults:
    raise ValueError(
      "this is no LLaVA-1.5 that can be computed here:\n  "
      + "\n  ".join(top.faults)
    )
  name = FAMILY
  if vision.tokens == 576:
    name = _NAMES.get((decoder.width, decoder.layers), name)
  cfg = config_lib.VLMConfig(
    name=name,
    vision=vision,
    decoder=decoder,
    projector=decoder.width,
    prefix=(bos,),
    projector_activation=_ACTIVATIONS[activation],
  )
  weights = table(tied=decoder.tied, run=vision.layers, stored=stored)
  return table_lib.Description(FAMILY, cfg, weights, image_token, dtype)


def _refuse_quantised(top):
  if top.has("quantization_config"):
    top.fault(
      "quantization_config",
      "no such field",
      "use the checkpoint before its quantisation",
    )


def _vision(top):
  """The encoder up to the features that are read, and the stored layers."""
  own = top.group("vision_config", _NO_VISION_CONFIG)
  own.choice(
    "model_type", "clip_vision_model", ("clip_vision_model",), _OTHER_MODEL
  )
  own.choice("num_channels", 3, (3,), _OTHER_MODEL)
  activation = own.choice(
    "hidden_act", "quick_gelu", tuple(_ACTIVATIONS), _OTHER_MODEL
  )
  stored = own.whole("num_hidden_layers", 12)
  cfg = own.built(
    config_lib.VisionConfig,
    image_size=own.whole("image_size", 224),
    patch_size=own.whole("patch_size", 32),
    layers=_layers_run(top, stored),
    width=own.whole("hidden_size", 768),
    heads=own.whole("num_attention_heads", 12),
    mlp=own.whole("intermediate_size", 3072),
    activation=_ACTIVATIONS[activation],
    norm_eps=own.positive("layer_norm_eps", 1e-5),
    post_norm=False,
  )
  top.choice(
    "vision_feature_select_strategy",
    "default",
    ("default",),
    "only patches are projected here, without the class token",
  )
  return cfg, stored


def _layers_run(top, stored):
  """Number of layers in front of the features.

  Hidden state 0 is the embedding, state i the output of i layers.
  """
  layer, run = top.get("vision_feature_layer", -2), 0
  if isinstance(layer, int) and not isinstance(layer, bool):
    run = stored + 1 + layer if layer < 0 else layer
  if not 1 <= run <= stored:
    top.fault(
      "vision_feature_layer",
      f"one layer, -1 to {-stored} or 1 to {stored}",
      "features of several layers, or of the embedding, are not read",
    )
    return stored
  return run


def _decoder(top):
  """The decoder, and the id that opens a prompt."""
  own = top.group("text_config", {})
  own.choice("model_type", "llama", ("llama",), _OTHER_MODEL)
  own.choice("hidden_act", "silu", ("silu", "swish"), _OTHER_MODEL)
  for name in ("attention_bias", "mlp_bias"):
    own.choice(name, False, (False,), _OTHER_MODEL)
  width = own.whole("hidden_size", 4096)
  heads = own.whole("num_attention_heads", 32)
  # Versions differ in which of the two they write.
  tied = [
    group.choice("tie_word_embeddings", False, (False, True), "use a boolean")
    for group in (top, own)
  ]
  cfg = own.built(
    config_lib.DecoderConfig,
    vocab=own.whole("vocab_size", 32_000),
    layers=own.whole("num_hidden_layers", 32),
    width=width,
    heads=heads,
    kv_heads=own.whole("num_key_value_heads", heads),
    head_dim=own.whole("head_dim", width // heads),
    mlp=own.whole("intermediate_size", 11_008),
    rope_theta=_rope_theta(own),
    norm_eps=own.positive("rms_norm_eps", 1e-6),
    tied=any(tied),
  )
  return cfg, own.whole("bos_token_id", 1, least=0)


def _rope_theta(own):
  """Base of the rotary frequencies, from any version's fields."""
  theta = own.positive("rope_theta", 10_000.0)
  for name in ("rope_parameters", "rope_scaling"):
    rope = own.group(name, {})
    theta = rope.positive("rope_theta", theta)
    for kind in ("rope_type", "type"):
      rope.choice(
        kind, "default", ("default",), "scaled rotary positions are not read"
      )
    if rope.positive("partial_rotary_factor", 1.0) != 1:
      rope.fault("partial_rotary_factor", "1", _OTHER_MODEL)
  return theta


def _image_token(top):
  old = top.whole("image_token_index", 32_000, least=0)
  new = top.whole("image_token_id", old, least=0)
  if top.has("image_token_index") and new != old:
    top.fault(
      "image_token_id",
      f"{old}, the value of image_token_index",
      "delete the wrong one",
    )
  return new


def _dtype(top):
  """Storage dtype; the newer name goes before the older one."""
  name = "dtype" if top.has("dtype") else "torch_dtype"
  return top.choice(
    name, "float32", _DTYPES, "use a checkpoint in floating point"
  )
