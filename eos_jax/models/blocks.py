"""Transformer blocks, and running a stack of them.

A block is split at the places that a reduction needs: `project` gives queries,
keys and values, `mix` adds the attention branch, `mlp` the other one. Blocks of
one stack share a parameter tree whose leaves have a leading layer axis.
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from eos_jax.array_typing import Array, Float, Int
from eos_jax.models import config as config_lib
from eos_jax.models import layers

Params = Any

# Segments of at most this many layers are unrolled: a loop halves the speed of
# XLA's CPU backend, and short segments compile quickly anyway.
UNROLL = 8


class VisionBlock(nn.Module):
  """Pre-norm block of a CLIP-shaped vision transformer."""

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

  def project(self, x):
    """Returns q, k, v `[B, H, N, d]`."""
    y = self.norm1(x)
    return tuple(
      layers.split_heads(f(y), self.cfg.heads) for f in (self.q, self.k, self.v)
    )

  def mix(self, x, context):
    """Adds the attention branch to the residual stream."""
    return x + self.out(context)

  def mlp(self, x):
    """Adds the MLP branch to the residual stream."""
    y = self.fc1(self.norm2(x))
    if self.cfg.activation == "quick_gelu":
      y = y * jax.nn.sigmoid(1.702 * y)
    else:
      y = jax.nn.gelu(y)
    return x + self.fc2(y)

  def __call__(self, x, bias):
    q, k, v = self.project(x)
    return self.mlp(self.mix(x, layers.attend(q, k, v, bias)))


class DecoderBlock(nn.Module):
  """Llama block: RMS norms, rotary grouped-query attention, gated MLP."""

  cfg: config_lib.DecoderConfig

  def setup(self):
    cfg = self.cfg
    # GPT-2's scaling: at the start a token's own embedding outweighs what the
    # untrained branches add to it.
    small = (2 * cfg.layers) ** -0.5
    self.norm1 = layers.RMSNorm(cfg.norm_eps)
    self.q = layers.Dense(cfg.heads * cfg.head_dim, use_bias=False)
    self.k = layers.Dense(cfg.kv_heads * cfg.head_dim, use_bias=False)
    self.v = layers.Dense(cfg.kv_heads * cfg.head_dim, use_bias=False)
    self.out = layers.Dense(cfg.width, use_bias=False, init_scale=small)
    self.norm2 = layers.RMSNorm(cfg.norm_eps)
    self.gate = layers.Dense(cfg.mlp, use_bias=False)
    self.up = layers.Dense(cfg.mlp, use_bias=False)
    self.down = layers.Dense(cfg.width, use_bias=False, init_scale=small)

  def project(self, x, positions):
    """Returns q `[B, H, N, d]`, k and v `[B, G, N, d]`, rotated."""
    cfg, y = self.cfg, self.norm1(x)
    q = layers.split_heads(self.q(y), cfg.heads)
    k = layers.split_heads(self.k(y), cfg.kv_heads)
    v = layers.split_heads(self.v(y), cfg.kv_heads)
    return (
      layers.rotate(q, positions, cfg.rope_theta, cfg.rope_axes),
      layers.rotate(k, positions, cfg.rope_theta, cfg.rope_axes),
      v,
    )

  def keys(self, x):
    """Keys before rotation, mean over heads: `[B, N, d]`."""
    k = layers.split_heads(self.k(self.norm1(x)), self.cfg.kv_heads)
    return jnp.mean(k, axis=1)

  def finish(self, x, context):
    """Adds the attention and the MLP branch to the residual stream."""
    x = x + self.out(context)
    y = self.norm2(x)
    return x + self.down(jax.nn.silu(self.gate(y)) * self.up(y))

  def __call__(self, x, positions, bias):
    q, k, v = self.project(x, positions)
    return self.finish(x, layers.attend(q, k, v, bias))


def init_stack(
  block: nn.Module, key: Array, depth: int, *inputs: Any
) -> Params:
  """Initialises `depth` blocks as one tree with a leading layer axis."""
  keys = jax.random.split(key, depth)
  return jax.vmap(lambda k: block.init(k, *inputs)["params"])(keys)


def layer(stack: Params, index: int) -> Params:
  """Parameters of one layer of a stack."""
  return jax.tree.map(lambda leaf: leaf[index], stack)


def call(block: nn.Module, params: Params, method: str, *inputs: Any) -> Any:
  """Calls a method of a block as a pure function of its parameters."""
  return block.apply({"params": params}, *inputs, method=method)


def scan(body: Callable, carry: Any, layers_: Params) -> tuple[Any, Any]:
  """`lax.scan` over layers, unrolled where there are few."""
  depth = jax.tree.leaves(layers_)[0].shape[0]
  unroll = depth if depth <= UNROLL else 1
  return jax.lax.scan(body, carry, layers_, unroll=max(unroll, 1))


def run_vision(
  block: VisionBlock,
  stack: Params,
  x: Float[Array, "B N D"],
  bias: Float[Array, "B #N N"],
  *,
  start: int,
  stop: int,
) -> Float[Array, "B N D"]:
  """Runs blocks `start` to `stop - 1` by `lax.scan`."""

  def body(carry, params):
    return block.apply({"params": params}, carry, bias), None

  return scan(body, x, _segment(stack, start, stop))[0]


def run_decoder(
  block: DecoderBlock,
  stack: Params,
  x: Float[Array, "B N D"],
  positions: Int[Array, "B N"],
  bias: Float[Array, "B #N N"],
  *,
  start: int,
  stop: int,
) -> tuple[Float[Array, "B N D"], tuple[Array, Array]]:
  """Runs blocks `start` to `stop - 1` by `lax.scan`.

  Returns the hidden states and the keys and values `[stop - start, B, G, N, d]`
  for a cache; XLA drops those where nobody reads them.
  """

  def body(carry, params):
    q, k, v = call(block, params, "project", carry, positions)
    context = layers.attend(q, k, v, bias)
    return call(block, params, "finish", carry, context), (k, v)

  return scan(body, x, _segment(stack, start, stop))


def _segment(stack, start, stop):
  return jax.tree.map(lambda leaf: leaf[start:stop], stack)
