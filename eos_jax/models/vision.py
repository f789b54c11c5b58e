"""Vision encoder: a transformer over patches, with or without a class token."""

import dataclasses
import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from eos_jax import ops
from eos_jax.array_typing import Array, Bool, Float
from eos_jax.models import attention, blocks, layers, target
from eos_jax.models import config as config_lib
from eos_jax.models import reduction as reduction_lib


class PatchEmbed(nn.Module):
  """Cuts a picture into patches and embeds them, after any class token.

  What is left over after whole patches is not read.
  """

  cfg: config_lib.VisionConfig

  @nn.compact
  def __call__(
    self, image: Float[Array, "B height width 3"]
  ) -> Float[Array, "B N D"]:
    cfg = self.cfg
    batch, (rows, cols), side = image.shape[0], cfg.grid, cfg.patch_size
    image = image[:, : rows * side, : cols * side]
    patches = image.reshape(batch, rows, side, cols, side, 3).swapaxes(2, 3)
    x = layers.Dense(cfg.width, use_bias=cfg.patch_bias, name="patch")(
      patches.reshape(batch, rows * cols, side * side * 3)
    )
    normal = nn.initializers.normal(0.02)
    if cfg.class_token:
      token = self.param("class_token", normal, (cfg.width,))
      token = jnp.broadcast_to(token, (batch, 1, cfg.width)).astype(x.dtype)
      x = jnp.concatenate([token, x], axis=1)
    if not cfg.rotary:
      position = self.param("position", normal, (x.shape[1], cfg.width))
      x = x + position[None].astype(x.dtype)
    if cfg.pre_norm:
      x = layers.LayerNorm(cfg.norm_eps, name="norm")(x)
    return x


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class VisionOutput:
  """What the encoder hands on.

  Attributes:
    patches: `[B, V, D]` patch features in raster order.
    class_token: `[B, D]`, None where the encoder has none.
    state: masses, sizes, positions and class attention of the patches.
    trace: the operator's result at each `vision.*` site, by site name; row 0
      is the class token, where there is one.
  """

  patches: Float[Array, "B V D"]
  class_token: Float[Array, "B D"] | None
  state: reduction_lib.VisualState
  trace: dict[str, ops.Reduced]


def init(cfg: config_lib.VisionConfig, key: Array) -> Any:
  """Random parameters of the encoder."""
  embed_key, block_key = jax.random.split(key)
  image = jnp.zeros((1, *cfg.size, 3))
  x = jnp.zeros((1, 2, cfg.width))
  params = {
    "embed": PatchEmbed(cfg).init(embed_key, image)["params"],
    "blocks": blocks.init_stack(
      blocks.VisionBlock(cfg), block_key, cfg.layers, x
    ),
  }
  if cfg.post_norm:
    norm = layers.LayerNorm(cfg.norm_eps)
    params["post_norm"] = norm.init(embed_key, x)["params"]
  return params


def encode(
  cfg: config_lib.VisionConfig,
  params: Any,
  image: Float[Array, "B height width 3"],
  reduction: reduction_lib.Reduction = None,
  *,
  valid: Bool[Array, "B V"] | None = None,
  key: Array | None = None,
  kernel: str | None = None,
) -> VisionOutput:
  """Encodes pictures, reducing at `vision.*` sites.

  The last block runs apart from the others because the class token's attention
  in it is a signal that most operators read; only that one row is computed.
  Without a class token, what patches receive on average stands for it, which
  is how VisionZip scores encoders that have none
  (https://arxiv.org/abs/2412.04467).

  Args:
    cfg: shape of the encoder.
    params: its parameters.
    image: pictures, normalised as the model knows them: the shipped one has
      values in [-1, 1], LLaVA-1.5 CLIP's mean and standard deviation.
    reduction: acts at its `vision.*` sites.
    valid: False on patches that are padding; None = all are real.
    key: draws the noise of the score "random".
    kernel: of attention (`attention.KERNELS`); None = the best of the backend.
  """
  block, stack = blocks.VisionBlock(cfg), params["blocks"]
  x = PatchEmbed(cfg).apply({"params": params["embed"]}, image)
  padded = valid is not None
  if valid is None:
    valid = jnp.ones((x.shape[0], cfg.tokens), bool)
  state = reduction_lib.initial_state(valid, cfg.grid, key, full=not padded)
  if cfg.class_token:
    state = _with_class_token(state)
  trace, last, done = {}, cfg.layers - 1, 0
  for index in range(cfg.layers):
    site = f"vision.{index}"
    spec = reduction_lib.spec_at(reduction, site)
    if spec is None and index != last:
      continue
    attend = _attention(cfg, x, state, padded or bool(trace), kernel)
    angles = _angles(cfg, state)
    x = blocks.run_vision(
      block, stack, x, angles, attend, start=done, stop=index
    )
    part = blocks.layer(stack, index)
    q, k, v = blocks.call(block, part, "project", x, angles)
    row, keys = _class_row(cfg, q, k, state), jnp.mean(k, axis=1)
    x = blocks.call(block, part, "mix", x, attend(q, k, v))
    if index == last:
      state = state.with_signals(class_row=row, vision_keys=keys)
    if spec is not None:
      signals = ops.Signals(keys=keys, class_row=row)
      x, state, trace[site] = reduction_lib.reduce_at(
        reduction, site, x, state, signals
      )
    x = blocks.call(block, part, "mlp", x)
    done = index + 1
  if cfg.post_norm:
    norm = layers.LayerNorm(cfg.norm_eps)
    x = norm.apply({"params": params["post_norm"]}, x)
  return VisionOutput(*_finish(x, state), trace)


def _angles(cfg, state):
  """What turns queries and keys of each row; None = nothing does."""
  if not cfg.rotary:
    return None
  rows, columns = jnp.divmod(state.tokens.position, cfg.grid[1])
  return layers.rotary_2d(rows, columns, cfg.width // cfg.heads)


def _class_row(cfg, q, k, state):
  """Attention `[B, N]` of the class token, or of all patches on average."""
  if cfg.class_token:
    row = attention.row_attention(q[:, :, :1], k, key_bias=state.key_bias)
    return row[:, 0]
  mass = jnp.exp(state.tokens.log_mass)
  total = jnp.maximum(jnp.sum(mass, axis=1, keepdims=True), 1.0)
  return attention.received(
    q,
    k,
    weights=mass / total,
    order=jnp.zeros(mass.shape, jnp.int32),
    key_bias=state.key_bias,
  )


def _attention(cfg, x, state, biased, kernel):
  """Attention among all rows; `biased` where some are padding or weighted."""
  if kernel is None:
    kernel = attention.choose(
      None, cfg.width // cfg.heads, x.dtype, devices=target.devices()
    )
  bias = state.key_bias if biased else None
  return functools.partial(attention.attend, key_bias=bias, kernel=kernel)


def _with_class_token(state):
  """Puts a row for the class token in front."""

  def front(field, value=0):
    column = jnp.full((field.shape[0], 1), value, field.dtype)
    return jnp.concatenate([column, field], axis=1)

  tokens = jax.tree.map(front, state.tokens)
  return dataclasses.replace(
    state,
    tokens=dataclasses.replace(
      tokens,
      size=front(state.tokens.size, 1),
      position=front(state.tokens.position, -1),
    ),
    signals=jax.tree.map(front, state.signals),
    rank=front(state.rank, -1),
    protected=1,
  )


def _finish(x, state):
  """Takes the class token off and brings the patches into raster order.

  ToMe leaves [unmerged A, B]; the decoder is causal, so that it must see the
  patches in an order that does not depend on the operator.
  """
  class_token, patches = None, x
  if state.protected:
    state = reduction_lib.map_tokens(state, lambda field: field[:, 1:])
    state = dataclasses.replace(state, protected=0)
    class_token, patches = x[:, 0], x[:, 1:]
  if patches.shape[1] != state.grid[0] * state.grid[1]:
    order = jnp.argsort(state.tokens.position, axis=1)
    patches = jnp.take_along_axis(patches, order[..., None], axis=1)
    state = reduction_lib.select_tokens(state, order)
  return patches, class_token, state
