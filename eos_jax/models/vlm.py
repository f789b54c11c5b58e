"""The vision-language model as pure functions of its parameters."""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from eos_jax import ops
from eos_jax.array_typing import Array, Bool, Float
from eos_jax.models import (
  blocks,
  decoder,
  layers,
  projector,
  sequence,
  tiles,
  vision,
)
from eos_jax.models import config as config_lib
from eos_jax.models import reduction as reduction_lib
from eos_jax.ops import types


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


class Selector(nn.Module):
  """A trained scorer of projected tokens, `[B, V, D]` -> `[B, V]`.

  The mean over keys of `(W_q x) (W_k x)^T / sqrt(D)`: VisionSelector
  (`JulietChoo/VisionSelector`, selector_scorer.py).
  """

  @nn.compact
  def __call__(
    self, x: Float[Array, "B V D"], valid: Bool[Array, "B V"]
  ) -> Float[Array, "B V"]:
    width = x.shape[-1]
    query = layers.Dense(width, use_bias=False, name="q")(x)
    keys = layers.Dense(width, use_bias=False, name="k")(x)
    there = valid.astype(jnp.float32)
    total = jnp.maximum(jnp.sum(there, axis=1), 1.0)
    mean = jnp.einsum("bvd,bv->bd", keys.astype(jnp.float32), there)
    mean = mean / total[:, None]
    return jnp.einsum("bvd,bd->bv", query, mean) * width**-0.5


def init(cfg: config_lib.VLMConfig, key: Array) -> Any:
  """Random parameters: a nested dict with vision, projector, decoder.

  A tree that has `init_selector`'s as "selector" too gives operators the
  signal "learned".
  """
  vision_key, projector_key, decoder_key = jax.random.split(key, 3)
  features = jnp.zeros((1, cfg.vision.tokens, cfg.vision.width))
  params = {
    "vision": vision.init(cfg.vision, vision_key),
    "projector": projector.Projector(cfg).init(projector_key, features)[
      "params"
    ],
    "decoder": decoder.init(cfg.decoder, decoder_key),
  }
  if cfg.tiles is not None:
    newline = nn.initializers.normal(cfg.decoder.width**-0.5)
    params["newline"] = newline(vision_key, (cfg.decoder.width,))
  return params


def init_selector(cfg: config_lib.VLMConfig, key: Array) -> Any:
  """Random parameters of a scorer for the signal "learned"."""
  x = jnp.zeros((1, 1, cfg.decoder.width))
  return Selector().init(key, x, jnp.ones((1, 1), bool))["params"]


def for_inference(params: Any) -> Any:
  """The parameters with every layer's weights in arrays of their own.

  All functions of a model take both forms; this one answers faster, compiles
  longer where there are many layers, and cannot be saved as weights. Layers of
  the given tree are copied: keep only one of the two where memory is scarce.
  """
  return {
    name: part | {"blocks": blocks.unstacked(part["blocks"])}
    if isinstance(part, dict) and "blocks" in part
    else part
    for name, part in params.items()
  }


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Seen:
  """Pictures as the decoder gets them; computed once, read many times.

  Attributes:
    visual: `[B, V, D]` projected visual tokens, each picture in raster order
      and then its padding, the pictures of a sample one after the other.
    state: what travels with them.
    trace: the operator's result at each site so far: those of the encoder,
      and "decoder.0" once `reduce_input` has run.
  """

  visual: Float[Array, "B V D"]
  state: reduction_lib.VisualState
  trace: dict[str, ops.Reduced] = dataclasses.field(default_factory=dict)


def see(
  cfg: config_lib.VLMConfig,
  params: Any,
  image: Float[Array, "B *I height width 3"],
  reduction: reduction_lib.Reduction = None,
  *,
  valid: Bool[Array, "B I V"] | None = None,
  layout: tiles.Layout | None = None,
  key: Array | None = None,
  kernel: str | None = None,
) -> Seen:
  """Encodes and projects pictures, reducing at the `vision.*` sites.

  Args:
    cfg: shape of the model.
    params: tree from `init`.
    image: pictures, normalised as for `vision.encode`, one or I a sample. Each
      picture has the budget of the plan. Where the model reads tiles,
      `[B, I, tiles, height, width, 3]`, the whole picture first. Everything is
      computed in the dtype of the parameters.
    reduction: None (dense), an `ops.ReductionPlan` or a `SoftReduction`.
    valid: False on tokens that are padding, of all tokens where a sample has
      fewer pictures or none; None = all are real.
    layout: which features of the tiles make which tokens, in place of `valid`;
      models that read tiles need it, others have none.
    key: draws the noise of the score "random"; `[B]`: one for each sample, so
      that its noise does not depend on its batch.
    kernel: of attention (`attention.KERNELS`); None = the best of the backend.

  Raises:
    ValueError: the reduction or the layout is not one of this model.
  """
  reduction_lib.check(reduction, cfg)
  if (layout is None) != (cfg.tiles is None):
    given, reads = layout is not None, cfg.tiles is not None
    raise ValueError(
      f"model {cfg.name!r} {'reads' if reads else 'does not read'} tiles, and a"
      f" layout is {'given' if given else 'missing'}; give one to models with"
      " tiles, and `valid` to others."
    )
  pictures = image.shape[1] if image.ndim >= 5 else 1
  image = image.astype(params["decoder"]["embed"].dtype)
  if key is not None and key.ndim:
    key = _by_picture(key, pictures)
  if layout is None:
    visual, state, trace = _see_whole(
      cfg, params, image, reduction, valid, key, kernel
    )
  else:
    layout.check(cfg)
    visual, state = _see_tiles(cfg, params, image, layout, key, kernel)
    trace = {}
  if "selector" in params:
    there = types.present(state.tokens.log_mass)
    learned = Selector().apply({"params": params["selector"]}, visual, there)
    state = state.with_signals(learned=learned)
  if pictures > 1:
    visual = reduction_lib.join(visual, pictures)
    state = reduction_lib.side_by_side(state, pictures)
  return Seen(visual, state, trace)


def _see_whole(cfg, params, image, reduction, valid, key, kernel):
  """Tokens [B I, V, D], their state and trace; a picture is one tile."""
  image = image.reshape(-1, *image.shape[-3:])
  if valid is not None:
    valid = valid.reshape(len(image), cfg.tokens)
  out = vision.encode(
    cfg.vision,
    params["vision"],
    image,
    reduction,
    valid=valid if valid is None else projector.spread(valid, cfg),
    key=key if cfg.merge == 1 else None,
    kernel=kernel,
  )
  visual = projector.Projector(cfg).apply(
    {"params": params["projector"]}, out.patches
  )
  if cfg.merge == 1:
    return visual, out.state, out.trace
  full = valid is None
  if full:
    valid = jnp.ones(visual.shape[:2], bool)
  merged = lambda rows: jnp.mean(projector.squares(rows, cfg), axis=2)
  state = reduction_lib.initial_state(valid, cfg.grid, key, full=full)
  state = state.with_signals(
    class_row=merged(out.state.signals.class_row),
    vision_keys=merged(out.state.signals.vision_keys),
  )
  if not full:
    visual, state = reduction_lib.real_first(visual, state)
  return visual, state, {}


def _see_tiles(cfg, params, image, layout, key, kernel):
  """Tokens [B I, V, D] and their state; a picture is several tiles."""
  pictures = layout.index.shape[0] * layout.index.shape[1]
  out = vision.encode(
    cfg.vision,
    params["vision"],
    image.reshape(-1, *image.shape[-3:]),
    kernel=kernel,
  )
  features = projector.Projector(cfg).apply(
    {"params": params["projector"]}, out.patches
  )

  def lay_out(rows, newline=None):
    rows = rows.reshape(pictures, -1, *rows.shape[2:])
    return tiles.lay_out(rows, layout, newline)

  state = reduction_lib.initial_state(
    layout.valid.reshape(pictures, -1),
    cfg.grid,
    key,
    tiles.raster_positions(cfg, layout),
  )
  row = out.state.signals.class_row
  state = state.with_signals(
    class_row=lay_out(row),
    vision_keys=lay_out(out.state.signals.vision_keys),
    guide=tiles.guide(cfg, layout, row.reshape(pictures, -1)),
  )
  return lay_out(features, params["newline"]), state


def _by_picture(keys, pictures):
  """Keys [B I] of all pictures from those [B] of the samples."""
  fold = jax.vmap(jax.random.fold_in, in_axes=(None, 0))
  return jax.vmap(fold, in_axes=(0, None))(keys, jnp.arange(pictures)).ravel()


def reduce_input(
  cfg: config_lib.VLMConfig,
  params: Any,
  seen: Seen,
  text: sequence.Text,
  reduction: reduction_lib.Reduction,
) -> Seen:
  """Applies the site "decoder.0" ahead of `read` or `prefill`.

  Args:
    cfg: shape of the model.
    params: tree from `init`.
    seen: from `see`.
    text: the text; operators may read the prompt.
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
  text: sequence.Text,
  reduction: reduction_lib.Reduction = None,
  *,
  kernel: str | None = None,
  remat: str = "none",
) -> Output:
  """Teacher-forced pass of the decoder over prefix, pictures and text.

  Args:
    cfg: shape of the model.
    params: tree from `init`.
    seen: from `see`, under the same reduction.
    text: the text, and where the pictures stand in it.
    reduction: acts at its `decoder.*` sites.
    kernel: of attention (`attention.KERNELS`); None = the best of the backend.
    remat: what the backward pass computes again, "none" or of
      `blocks.REMAT`.

  Returns:
    Logits and hidden states at the text positions. Gradients flow into
    `params`, `seen` and the arrays of a soft reduction.
  """
  out = run(cfg, params, seen, text, reduction, kernel=kernel, remat=remat)
  return Output(
    logits=decoder.logits(cfg.decoder, params["decoder"], out.hidden),
    hidden=out.hidden,
    trace=seen.trace | out.trace,
    state=out.state,
  )


def apply(
  cfg: config_lib.VLMConfig,
  params: Any,
  image: Float[Array, "B *I height width 3"],
  text: sequence.Text,
  reduction: reduction_lib.Reduction = None,
  *,
  valid: Bool[Array, "B I V"] | None = None,
  layout: tiles.Layout | None = None,
  key: Array | None = None,
  kernel: str | None = None,
) -> Output:
  """`read` of what `see` makes of the pictures; arguments as there."""
  seen = see(
    cfg,
    params,
    image,
    reduction,
    valid=valid,
    layout=layout,
    key=key,
    kernel=kernel,
  )
  return read(cfg, params, seen, text, reduction, kernel=kernel)


def run(
  cfg: config_lib.VLMConfig,
  params: Any,
  seen: Seen,
  text: sequence.Text,
  reduction: reduction_lib.Reduction = None,
  *,
  kernel: str | None = None,
  remat: str = "none",
) -> decoder.DecoderOutput:
  """Hidden states and cache of a pass; arguments as of `read`."""
  reduction_lib.check(reduction, cfg)
  return decoder.run(
    cfg.decoder,
    params["decoder"],
    cfg.prefix,
    seen.visual,
    seen.state,
    text,
    reduction,
    kernel=kernel,
    remat=remat,
  )
