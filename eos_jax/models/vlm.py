"""The vision-language model as pure functions of its parameters."""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from eos_jax import ops
from eos_jax.array_typing import Array, Float, Int
from eos_jax.models import config as config_lib
from eos_jax.models import decoder, layers, vision
from eos_jax.models import reduction as reduction_lib


class Projector(nn.Module):
  """Two-layer MLP from the encoder's features to the decoder's."""

  hidden: int
  features: int

  @nn.compact
  def __call__(self, x: Float[Array, "B V D"]) -> Float[Array, "B V F"]:
    x = jax.nn.gelu(layers.Dense(self.hidden, name="fc1")(x))
    return layers.Dense(self.features, name="fc2")(x)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Output:
  """Result of a teacher-forced pass.

  Attributes:
    logits: `[B, T, vocab]` float32, next-token logits at the text positions.
    hidden: `[B, T, D]` normalised hidden states of the text.
    trace: the operator's result at each site, by site name.
    state: what travels with the visual tokens, after the last site.
  """

  logits: Float[Array, "B T vocab"]
  hidden: Float[Array, "B T D"]
  trace: dict[str, Any]
  state: reduction_lib.VisualState


def init(cfg: config_lib.VLMConfig, key: Array) -> Any:
  """Random parameters: a nested dict with vision, projector, decoder."""
  vision_key, projector_key, decoder_key = jax.random.split(key, 3)
  features = jnp.zeros((1, 1, cfg.vision.width))
  projector = Projector(cfg.projector, cfg.decoder.width)
  return {
    "vision": vision.init(cfg.vision, vision_key),
    "projector": projector.init(projector_key, features)["params"],
    "decoder": decoder.init(cfg.decoder, decoder_key),
  }


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Seen:
  """Pictures as the decoder gets them; computed once, read many times.

  Attributes:
    visual: `[B, V, D]` projected visual tokens in raster order.
    state: what travels with them.
    trace: the operator's result at each site so far: those of the encoder,
      and "decoder.0" once `reduce_input` has run.
  """

  visual: Float[Array, "B V D"]
  state: reduction_lib.VisualState
  trace: dict[str, ops.Reduced] = dataclasses.field(default_factory=dict)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Answer:
  """A generated answer.

  Attributes:
    ids: `[B, M]` greedy tokens; the stop token fills the rest of a row.
    trace: the operator's result at each site, by site name.
  """

  ids: Int[Array, "B M"]
  trace: dict[str, ops.Reduced]


def see(
  cfg: config_lib.VLMConfig,
  params: Any,
  image: Float[Array, "B height width 3"],
  reduction: reduction_lib.Reduction = None,
  *,
  key: Array | None = None,
) -> Seen:
  """Encodes and projects pictures, reducing at the `vision.*` sites.

  Args:
    cfg: shape of the model.
    params: tree from `init`.
    image: pictures with values in [-1, 1].
    reduction: None (dense), an `ops.ReductionPlan` or a `SoftReduction`.
    key: draws the noise of the score "random".
  """
  reduction_lib.check_sites(reduction, cfg.sites)
  out = vision.encode(cfg.vision, params["vision"], image, reduction, key=key)
  projector = Projector(cfg.projector, cfg.decoder.width)
  visual = projector.apply({"params": params["projector"]}, out.patches)
  return Seen(visual, out.state, out.trace)


def reduce_input(
  cfg: config_lib.VLMConfig,
  params: Any,
  seen: Seen,
  text: decoder.Text,
  reduction: reduction_lib.Reduction,
) -> Seen:
  """Applies the site "decoder.0" ahead of `read` or `answer`.

  Args:
    cfg: shape of the model.
    params: tree from `init`.
    seen: from `see`.
    text: tokens behind the picture; operators may read the prompt.
    reduction: has the site "decoder.0"; its other sites are left for later.
  """
  visual, state, reduced = decoder.reduce_input(
    cfg.decoder,
    params["decoder"],
    cfg.prefix,
    seen.visual,
    seen.state,
    text,
    reduction,
  )
  return Seen(visual, state, seen.trace | {"decoder.0": reduced})


def read(
  cfg: config_lib.VLMConfig,
  params: Any,
  seen: Seen,
  text: decoder.Text,
  reduction: reduction_lib.Reduction = None,
) -> Output:
  """Teacher-forced pass of the decoder over `[prefix | picture | text]`.

  Args:
    cfg: shape of the model.
    params: tree from `init`.
    seen: from `see`, under the same reduction.
    text: tokens behind the picture.
    reduction: acts at its `decoder.*` sites.

  Returns:
    Logits and hidden states at the text positions. Gradients flow into
    `params`, `seen` and the arrays of a soft reduction.
  """
  out = _run(cfg, params, seen, text, reduction)
  return Output(
    logits=decoder.logits(cfg.decoder, params["decoder"], out.hidden),
    hidden=out.hidden,
    trace=seen.trace | out.trace,
    state=out.state,
  )


def apply(
  cfg: config_lib.VLMConfig,
  params: Any,
  image: Float[Array, "B height width 3"],
  text: decoder.Text,
  reduction: reduction_lib.Reduction = None,
  *,
  key: Array | None = None,
) -> Output:
  """`read` of what `see` makes of the pictures; arguments as there."""
  seen = see(cfg, params, image, reduction, key=key)
  return read(cfg, params, seen, text, reduction)


def answer(
  cfg: config_lib.VLMConfig,
  params: Any,
  seen: Seen,
  text: decoder.Text,
  reduction: reduction_lib.Reduction = None,
  *,
  steps: int,
  stop: int,
) -> Answer:
  """Greedy answer with a key-value cache; tokens are selected once, at prefill.

  Args:
    cfg: shape of the model.
    params: tree from `init`.
    seen: from `see`, under the same reduction.
    text: prompts, `mask` True on the prompt only.
    reduction: None, a plan or a soft reduction.
    steps: most tokens M to generate.
    stop: id that ends an answer; it fills the rest of its row.
  """
  out = _run(cfg, params, seen, text, reduction)
  last = jnp.sum(text.mask, axis=1) - 1
  hidden = jnp.take_along_axis(out.hidden, last[:, None, None], axis=1)[:, 0]
  first = _best(cfg, params, hidden)
  batch = first.shape[0]
  tokens = jnp.full((batch, steps), stop, jnp.int32).at[:, 0].set(first)
  shape = cfg.decoder
  fresh = jnp.zeros(
    (2, shape.layers, batch, shape.kv_heads, steps, shape.head_dim),
    hidden.dtype,
  )

  def unfinished(carry):
    index, _, _, done = carry
    return (index < steps) & ~jnp.all(done)

  def advance(carry):
    index, tokens, fresh, done = carry
    hidden, fresh = decoder.step(
      cfg.decoder,
      params["decoder"],
      jax.lax.dynamic_index_in_dim(tokens, index - 1, 1, keepdims=False),
      out.cache,
      fresh,
      index - 1,
    )
    token = jnp.where(done, stop, _best(cfg, params, hidden))
    tokens = jax.lax.dynamic_update_index_in_dim(tokens, token, index, 1)
    return index + 1, tokens, fresh, done | (token == stop)

  start = (jnp.int32(1), tokens, fresh, first == stop)
  ids = jax.lax.while_loop(unfinished, advance, start)[1]
  return Answer(ids, seen.trace | out.trace)


def generate(
  cfg: config_lib.VLMConfig,
  params: Any,
  image: Float[Array, "B height width 3"],
  text: decoder.Text,
  reduction: reduction_lib.Reduction = None,
  *,
  steps: int,
  stop: int,
  key: Array | None = None,
) -> Int[Array, "B M"]:
  """`answer` to what `see` makes of the pictures; arguments as there."""
  seen = see(cfg, params, image, reduction, key=key)
  out = answer(cfg, params, seen, text, reduction, steps=steps, stop=stop)
  return out.ids


def _best(cfg, params, hidden):
  logits = decoder.logits(cfg.decoder, params["decoder"], hidden)
  return jnp.argmax(logits, axis=-1).astype(jnp.int32)


def _run(cfg, params, seen, text, reduction):
  reduction_lib.check_sites(reduction, cfg.sites)
  return decoder.run(
    cfg.decoder,
    params["decoder"],
    cfg.prefix,
    seen.visual,
    seen.state,
    text,
    reduction,
  )
