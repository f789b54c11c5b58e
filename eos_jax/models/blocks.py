"""Transformer blocks, and running a stack of them.

A block is split at the places that a reduction needs: `project` gives queries,
keys and values, `mix` adds the attention branch, `mlp` the other one. Blocks of
one stack share a parameter tree whose leaves have a leading layer axis.
"""

from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from eos_jax.array_typing import Array, Float, Int
from eos_jax.models import attention, layers, target
from eos_jax.models import config as config_lib

Params = Any
# Queries, keys and values `[B, H or G, N, d]` to contexts `[B, N, F]`.
Attend = Callable[[Array, Array, Array], Array]

# Segments of at most this many layers are unrolled, elsewhere of one. A loop
# halves the speed of XLA's CPU backend, and short segments compile quickly
# anyway; for others a program with loops compiles in a fraction of the time.
_UNROLL = {"cpu": 8}

# What the backward pass of a layer computes again, so that it need not be kept.
REMAT = {
  # All but the layer's input.
  "layers": jax.checkpoint_policies.nothing_saveable,
  # All but its products with weights.
  "products": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
}


class VisionBlock(nn.Module):
  """Pre-norm block of a vision transformer."""

  cfg: config_lib.VisionConfig

  def setup(self):
    cfg = self.cfg
    self.norm1 = layers.LayerNorm(cfg.norm_eps)
    self.q, self.k, self.v, self.out = (
      layers.Dense(cfg.width) for _ in range(4)
    )
    self.norm2 = layers.LayerNorm(cfg.norm_eps)
    self.fc1 = layers.Dense(cfg.mlp)
    self.fc2 = layers.Dense(cfg.width)

  def project(self, x, angles=None):
    """Returns q, k, v `[B, H, N, d]`, the first two rotated by `angles`."""
    y = self.norm1(x)
    q, k, v = (
      layers.split_heads(f(y), self.cfg.heads) for f in (self.q, self.k, self.v)
    )
    if angles is None:
      return q, k, v
    return layers.rotate(q, angles), layers.rotate(k, angles), v

  def mix(self, x, context):
    """Adds the attention branch to the residual stream."""
    return x + self.out(context)

  def mlp(self, x):
    """Adds the MLP branch to the residual stream."""
    activation = layers.ACTIVATIONS[self.cfg.activation]
    return x + self.fc2(activation(self.fc1(self.norm2(x))))

  def __call__(self, x, **masks):
    q, k, v = self.project(x)
    context = attention.attend(q, k, v, kernel="cpu", **masks)
    return self.mlp(self.mix(x, context))


class DecoderBlock(nn.Module):
  """Llama block: RMS norms, rotary grouped-query attention, gated MLP."""

  cfg: config_lib.DecoderConfig

  def setup(self):
    cfg = self.cfg
    # GPT-2's scaling: at the start a token's own embedding outweighs what the
    # untrained branches add to it.
    small = (2 * cfg.layers) ** -0.5
    self.norm1 = layers.RMSNorm(cfg.norm_eps)
    self.q, self.k, self.v = (
      layers.Dense(heads * cfg.head_dim, use_bias=cfg.qkv_bias)
      for heads in (cfg.heads, cfg.kv_heads, cfg.kv_heads)
    )
    self.out = layers.Dense(cfg.width, use_bias=False, init_scale=small)
    self.norm2 = layers.RMSNorm(cfg.norm_eps)
    self.gate = layers.Dense(cfg.mlp, use_bias=False)
    self.up = layers.Dense(cfg.mlp, use_bias=False)
    self.down = layers.Dense(cfg.width, use_bias=False, init_scale=small)

  def project(self, x, angles):
    """Returns q `[B, H, N, d]`, k and v `[B, G, N, d]`, rotated by `angles`."""
    cfg, y = self.cfg, self.norm1(x)
    q = layers.split_heads(self.q(y), cfg.heads)
    k = layers.split_heads(self.k(y), cfg.kv_heads)
    v = layers.split_heads(self.v(y), cfg.kv_heads)
    return layers.rotate(q, angles), layers.rotate(k, angles), v

  def keys(self, x):
    """Keys before rotation, mean over heads: `[B, N, d]`."""
    k = layers.split_heads(self.k(self.norm1(x)), self.cfg.kv_heads)
    return jnp.mean(k, axis=1)

  def finish(self, x, context):
    """Adds the attention and the MLP branch to the residual stream."""
    x = x + self.out(context)
    y = self.norm2(x)
    return x + self.down(jax.nn.silu(self.gate(y)) * self.up(y))

  def __call__(self, x, positions, **masks):
    q, k, v = self.project(x, rotary(self.cfg, positions))
    return self.finish(x, attention.attend(q, k, v, kernel="cpu", **masks))


def rotary(
  cfg: config_lib.DecoderConfig, positions: Int[Array, "B N *axes"]
) -> layers.Rotary:
  """Rotary angles of a decoder's rows."""
  return layers.rotary(positions, cfg.head_dim, cfg.rope_theta, cfg.rope_axes)


def embed(params: Params, tokens: Int[Array, "*B"]) -> Float[Array, "*B D"]:
  """Rows of a decoder's embedding table; NaN for ids that have none.

  Indexing alone would return the last row for such an id. Where ids are known
  before they are on a device, `check_ids` refuses them with a message.
  """
  # Weights that were just read are NumPy's, which no tracer can index.
  table = jnp.asarray(params["embed"])
  inside = (tokens >= 0) & (tokens < table.shape[0])
  return jnp.where(inside[..., None], table[tokens], jnp.nan)


def check_ids(ids: Sequence[int], rows: int, where: str) -> None:
  """Refuses ids of tokens without a row in the embedding table.

  Args:
    ids: of tokens.
    rows: of the table.
    where: whose ids they are, for the message.

  Raises:
    ValueError: some are below 0, or not below `rows`.
  """
  outside = sorted({int(i) for i in ids if not 0 <= i < rows})
  if outside:
    raise ValueError(
      f"{where} has the token ids {outside[:10]}, expected ids from 0 to"
      f" {rows - 1}: the embedding has {rows} rows; use the tokenizer that"
      " belongs to the model"
    )


def init_stack(
  block: nn.Module, key: Array, depth: int, *inputs: Any
) -> Params:
  """Initialises `depth` blocks as one tree with a leading layer axis."""
  keys = jax.random.split(key, depth)
  return jax.vmap(lambda k: block.init(k, *inputs)["params"])(keys)


def layer(stack: Params, index: int) -> Params:
  """Parameters of one layer of a stack, or of a tuple of layers."""
  if isinstance(stack, tuple):
    return stack[index]
  return jax.tree.map(lambda leaf: leaf[index], stack)


def unstacked(stack: Params) -> tuple[Params, ...]:
  """A stack as a tuple of layers, each with arrays of its own.

  A program that reads a layer of a stack copies its weights first. That is
  nothing compared with a training step, but as much as decoding a token.
  """
  if isinstance(stack, tuple):
    return stack
  depth = jax.tree.leaves(stack)[0].shape[0]
  return tuple(layer(stack, index) for index in range(depth))


def call(block: nn.Module, params: Params, method: str, *inputs: Any) -> Any:
  """Calls a method of a block as a pure function of its parameters."""
  return block.apply({"params": params}, *inputs, method=method)


def scan_layers(
  body: Callable,
  carry: Any,
  stack: Params,
  given: Any = (),
  *,
  start: int = 0,
  count: int | None = None,
  remat: str = "none",
) -> tuple[Any, Any]:
  """`lax.scan` of `body(carry, (params, *given))` over consecutive layers.

  Few layers, and those of a tuple, are unrolled. Else layers are read from the
  whole stack one at a time: slicing it at the sites would copy a segment.

  Args:
    body: returns the carry and what to collect.
    carry: goes through the layers.
    stack: parameters of all layers, with a leading layer axis; or a tuple.
    given: further arrays with a leading axis, one entry a layer that is run.
    start: first layer.
    count: number of layers; None = as many as `given` has.
    remat: what the backward pass computes again, "none" or of `REMAT`.
  """
  if count is None:
    count = jax.tree.leaves(given)[0].shape[0]
  # Unrolled, XLA's CPU backend keeps as much as without.
  few = 1 if remat != "none" else _UNROLL.get(target.platform(), 1)
  if count > few and not isinstance(stack, tuple):

    def step(carry, inputs):
      index, given = inputs
      part = jax.tree.map(
        lambda leaf: jax.lax.dynamic_index_in_dim(leaf, index, keepdims=False),
        stack,
      )
      return body(carry, (part, *given))

    # Inside a scan nothing is merged with what the backward pass computes.
    step = rematerialized(step, remat, prevent_cse=False)
    return jax.lax.scan(step, carry, (start + jnp.arange(count), given))
  body = rematerialized(body, remat)
  found = []
  for offset in range(count):
    entry = jax.tree.map(lambda leaf, i=offset: leaf[i], given)
    carry, out = body(carry, (layer(stack, start + offset), *entry))
    found.append(out)
  if not found:
    return carry, None
  return carry, jax.tree.map(lambda *leaves: jnp.stack(leaves), *found)


def rematerialized(
  function: Callable, remat: str, *, prevent_cse: bool = True
) -> Callable:
  """Returns a function whose backward pass keeps less.

  Args:
    function: pure.
    remat: what it computes again: "none" or one of `REMAT`.
    prevent_cse: as of `jax.checkpoint`.
  """
  if remat == "none":
    return function
  return jax.checkpoint(function, policy=REMAT[remat], prevent_cse=prevent_cse)


def run_vision(
  block: VisionBlock,
  stack: Params,
  x: Float[Array, "B N D"],
  angles: layers.Rotary | None,
  attend: Attend,
  *,
  start: int,
  stop: int,
) -> Float[Array, "B N D"]:
  """Runs blocks `start` to `stop - 1`; arguments as for decoders."""

  def body(x, inputs):
    (params,) = inputs
    x = target.spread(x)
    q, k, v = call(block, params, "project", x, angles)
    x = call(block, params, "mix", x, attend(q, k, v))
    return call(block, params, "mlp", x), None

  return scan_layers(body, x, stack, start=start, count=stop - start)[0]


def run_decoder(
  block: DecoderBlock,
  stack: Params,
  x: Float[Array, "B N D"],
  positions: Int[Array, "B N *axes"],
  attend: Attend,
  *,
  start: int,
  stop: int,
  remat: str = "none",
) -> tuple[Float[Array, "B N D"], tuple[Array, Array]]:
  """Runs blocks `start` to `stop - 1`.

  Args:
    block: the block.
    stack: parameters of all blocks.
    x: hidden states.
    positions: rotary positions.
    attend: `(q, k, v) -> context` `[B, N, F]`, heads merged.
    start: first block.
    stop: the block after the last.
    remat: see `scan_layers`.

  Returns:
    The hidden states and the keys and values `[stop - start, B, G, N, d]` for
    a cache; XLA drops those where nobody reads them.
  """
  angles = rotary(block.cfg, positions)

  def body(x, inputs):
    (params,) = inputs
    x = target.spread(x)
    q, k, v = call(block, params, "project", x, angles)
    return call(block, params, "finish", x, attend(q, k, v)), (k, v)

  return scan_layers(
    body, x, stack, start=start, count=stop - start, remat=remat
  )


def final_norm(
  cfg: config_lib.DecoderConfig, params: Params, hidden: Float[Array, "*B D"]
) -> Float[Array, "*B D"]:
  """The decoder's norm before the output head."""
  return layers.RMSNorm(cfg.norm_eps).apply({"params": params["norm"]}, hidden)
