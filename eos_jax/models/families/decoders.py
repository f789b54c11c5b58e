"""Decoders of published families: Llama and Qwen2."""

import dataclasses

from eos_jax.models import config as config_lib
from eos_jax.models.families import common
from eos_jax.models.families import fields as fields_lib
from eos_jax.models.families import table as table_lib

# No published decoder has a tenth of it.
MOST_LAYERS = 10_000


@dataclasses.dataclass(frozen=True)
class Defaults:
  """What transformers fills in where a text config is silent (version 5.24).

  Attributes:
    model_type: of the text config.
    vocab, width, layers, heads, mlp: sizes.
    kv_heads: key and value heads; None = as many as heads.
    qkv_bias: whether queries, keys and values have biases.
    norm_eps: epsilon of the RMS norms.
    rope_theta: base of the rotary frequencies.
  """

  model_type: str
  vocab: int
  width: int
  layers: int
  heads: int
  mlp: int
  kv_heads: int | None = None
  qkv_bias: bool = False
  norm_eps: float = 1e-6
  rope_theta: float = 10_000.0


LLAMA = Defaults("llama", 32_000, 4096, 32, 32, 11_008)
QWEN2 = Defaults("qwen2", 151_936, 4096, 32, 32, 22_016, 32, qkv_bias=True)


def weights(
  source: str, *, qkv_bias: bool = False
) -> tuple[table_lib.Weight, ...]:
  """Embedding, blocks and last norm; not the output head.

  Args:
    source: what all their names begin with.
    qkv_bias: whether queries, keys and values have biases.
  """
  layer = f"{source}.layers.{{}}"
  project = table_lib.affine if qkv_bias else _alone
  return (
    table_lib.Weight("decoder.embed", f"{source}.embed_tokens.weight"),
    table_lib.Weight(
      "decoder.blocks.norm1.scale", f"{layer}.input_layernorm.weight"
    ),
    *project("decoder.blocks.q", f"{layer}.self_attn.q_proj"),
    *project("decoder.blocks.k", f"{layer}.self_attn.k_proj"),
    *project("decoder.blocks.v", f"{layer}.self_attn.v_proj"),
    table_lib.linear("decoder.blocks.out", f"{layer}.self_attn.o_proj"),
    table_lib.Weight(
      "decoder.blocks.norm2.scale", f"{layer}.post_attention_layernorm.weight"
    ),
    table_lib.linear("decoder.blocks.gate", f"{layer}.mlp.gate_proj"),
    table_lib.linear("decoder.blocks.up", f"{layer}.mlp.up_proj"),
    table_lib.linear("decoder.blocks.down", f"{layer}.mlp.down_proj"),
    table_lib.Weight("decoder.norm.scale", f"{source}.norm.weight"),
  )


def _alone(path, source):
  return (table_lib.linear(path, source),)


def frequencies(source: str) -> table_lib.Surplus:
  """Tables of old versions that follow from the config."""
  return table_lib.Surplus(
    rf"{source}\.(layers\.\d+\.self_attn\.)?rotary_emb\.inv_freq",
    "the rotary frequencies follow from the config",
  )


def read(
  own: fields_lib.Fields,
  defaults: Defaults,
  *,
  tied: bool,
  rope_axes: tuple[int, ...] = (),
  rope_types: tuple[str, ...] = ("default",),
) -> config_lib.DecoderConfig | None:
  """The decoder that a text config describes; None where it has faults.

  Args:
    own: the text config.
    defaults: of its family.
    tied: whether the head is the embedding table.
    rope_axes: as of `DecoderConfig`.
    rope_types: names of rotary positions that `rope_axes` covers.
  """
  own.choice("hidden_act", "silu", ("silu", "swish"), common.OTHER_MODEL)
  for name in ("attention_bias", "mlp_bias", "use_sliding_window"):
    own.choice(name, False, (False,), common.OTHER_MODEL)
  width = own.whole("hidden_size", defaults.width)
  heads = own.whole("num_attention_heads", defaults.heads)
  # Null stands for as many as heads, which absence need not.
  kv_heads = None if own.null("num_key_value_heads") else defaults.kv_heads
  return own.built(
    config_lib.DecoderConfig,
    vocab=own.whole("vocab_size", defaults.vocab),
    layers=own.whole("num_hidden_layers", defaults.layers, most=MOST_LAYERS),
    width=width,
    heads=heads,
    kv_heads=own.whole("num_key_value_heads", kv_heads or heads),
    head_dim=own.whole("head_dim", width // heads),
    mlp=own.whole("intermediate_size", defaults.mlp),
    rope_theta=_rope_theta(own, defaults.rope_theta, rope_types),
    rope_axes=rope_axes,
    norm_eps=own.positive("rms_norm_eps", defaults.norm_eps),
    tied=tied,
    qkv_bias=defaults.qkv_bias,
  )


def _rope_theta(own, default, rope_types):
  """Base of the rotary frequencies, from any version's fields."""
  theta = own.positive("rope_theta", default)
  for name in ("rope_parameters", "rope_scaling"):
    rope = own.group(name, {})
    theta = rope.positive("rope_theta", theta)
    for kind in ("rope_type", "type"):
      rope.choice(
        kind, "default", rope_types, "scaled rotary positions are not read"
      )
    if rope.positive("partial_rotary_factor", 1.0) != 1:
      rope.fault("partial_rotary_factor", "1", common.OTHER_MODEL)
  return theta
