"""Layers shared by the vision encoder and the decoder."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from eos_jax.array_typing import Array, Float, Int

# By the names of `config.ACTIVATIONS`.
ACTIVATIONS = {
  "gelu": jax.nn.gelu,
  "gelu_exact": functools.partial(jax.nn.gelu, approximate=False),
  "quick_gelu": lambda x: x * jax.nn.sigmoid(1.702 * x),
}
# Finite, so that a row without any allowed key still has a finite softmax.
MASKED = -1e9


def along_last(x: Float[Array, "D"], rank: int) -> Array:
  """A vector with leading axes of size 1, up to `rank` axes."""
  return x.reshape((1,) * (rank - 1) + x.shape)


class Dense(nn.Module):
  """Affine map over the last axis, computed on tokens flattened to rows.

  XLA on CPU fuses an activation's backward pass into the weight gradient of a
  3-D dot, which doubles its time; two dimensions avoid that.
  """

  features: int
  use_bias: bool = True
  init_scale: float = 1.0  # of the kernel, times 1 / sqrt(inputs)

  @nn.compact
  def __call__(self, x: Float[Array, "*B D"]) -> Float[Array, "*B F"]:
    width = x.shape[-1]
    init = nn.initializers.variance_scaling(
      self.init_scale**2, "fan_in", "truncated_normal"
    )
    kernel = self.param("kernel", init, (width, self.features))
    y = x.reshape(-1, width) @ kernel.astype(x.dtype)
    if self.use_bias:
      bias = self.param("bias", nn.initializers.zeros, (self.features,))
      y = y + bias.astype(x.dtype)[None]
    return y.reshape(*x.shape[:-1], self.features)


class RMSNorm(nn.Module):
  """Root-mean-square norm, statistics in float32."""

  eps: float

  @nn.compact
  def __call__(self, x: Float[Array, "*B D"]) -> Float[Array, "*B D"]:
    scale = self.param("scale", nn.initializers.ones, (x.shape[-1],))
    wide = x.astype(jnp.float32)
    wide *= jax.lax.rsqrt(
      jnp.mean(jnp.square(wide), axis=-1, keepdims=True) + self.eps
    )
    return (wide * along_last(scale, x.ndim)).astype(x.dtype)


class LayerNorm(nn.Module):
  """Layer norm with scale and bias, statistics in float32."""

  eps: float

  @nn.compact
  def __call__(self, x: Float[Array, "*B D"]) -> Float[Array, "*B D"]:
    scale = self.param("scale", nn.initializers.ones, (x.shape[-1],))
    bias = self.param("bias", nn.initializers.zeros, (x.shape[-1],))
    wide = x.astype(jnp.float32)
    wide -= jnp.mean(wide, axis=-1, keepdims=True)
    wide *= jax.lax.rsqrt(
      jnp.mean(jnp.square(wide), axis=-1, keepdims=True) + self.eps
    )
    scale, bias = along_last(scale, x.ndim), along_last(bias, x.ndim)
    return (wide * scale + bias).astype(x.dtype)


def split_heads(
  x: Float[Array, "B N F"], heads: int
) -> Float[Array, "B H N d"]:
  """Splits features into heads and brings the head axis before the tokens."""
  batch, length, features = x.shape
  return x.reshape(batch, length, heads, features // heads).swapaxes(1, 2)


def merge_heads(x: Float[Array, "B H N d"]) -> Float[Array, "B N F"]:
  """Inverse of `split_heads`."""
  batch, heads, length, features = x.shape
  return x.swapaxes(1, 2).reshape(batch, length, heads * features)


# Cosines and sines of rotary angles, each `[B, 1, N, d / 2]`.
Rotary = tuple[Float[Array, "B 1 N half"], Float[Array, "B 1 N half"]]


def rotary(
  positions: Int[Array, "B N *axes"],
  features: int,
  theta: float,
  axes: tuple[int, ...] = (),
) -> Rotary:
  """Rotary angles of rows, for all layers that see them at these places.

  Su et al., RoFormer, https://arxiv.org/abs/2104.09864; on several axes
  Qwen2-VL's M-RoPE, https://arxiv.org/abs/2409.12191.

  Args:
    positions: `[B, N]`, or `[B, N, 3]`: time, row and column.
    features: d of a head.
    theta: base of the frequencies.
    axes: for each of the d / 2 pairs, the axis whose position turns it.
  """
  half = features // 2
  frequency = theta ** (-jnp.arange(half, dtype=jnp.float32) / half)
  # Without axes of its own a token is at the same place on all of them.
  if axes and positions.ndim == 3:
    place = positions[..., jnp.array(axes)]
  else:
    place = positions[..., None]
  angle = place.astype(jnp.float32) * along_last(frequency, 3)
  return jnp.cos(angle)[:, None], jnp.sin(angle)[:, None]


def rotary_2d(
  rows: Int[Array, "B N"],
  columns: Int[Array, "B N"],
  features: int,
  theta: float = 10_000.0,
) -> Rotary:
  """Rotary angles of patches: one half of the pairs by row, one by column.

  Both halves have the same frequencies (Qwen2-VL,
  https://arxiv.org/abs/2409.12191).

  Args:
    rows: of the patches.
    columns: of the patches.
    features: d of a head.
    theta: base of the frequencies.
  """
  halves = [rotary(place, features // 2, theta) for place in (rows, columns)]
  cos, sin = zip(*halves, strict=True)
  return jnp.concatenate(cos, axis=-1), jnp.concatenate(sin, axis=-1)


def rotate(
  x: Float[Array, "B H N d"], angles: Rotary
) -> Float[Array, "B H N d"]:
  """Rotary position embedding, halves convention (Llama as in Hugging Face).

  Args:
    x: queries or keys.
    angles: from `rotary`.
  """
  cos, sin = (part[..., None, :] for part in angles)
  halves = x.astype(jnp.float32).reshape(*x.shape[:-1], 2, -1)
  sign = jnp.array([-1.0, 1.0]).reshape(1, 1, 1, 2, 1)
  # Exchanged and not put together anew: XLA makes vector code of it on CPU.
  turned = halves * cos + halves[..., ::-1, :] * (sign * sin)
  return turned.reshape(x.shape).astype(x.dtype)


def attention_weights(
  q: Float[Array, "B H Q d"],
  k: Float[Array, "B G N d"],
  bias: Float[Array, "B #Q N"],
) -> Float[Array, "B H Q N"]:
  """Softmax attention in float32; each of G key heads serves H / G queries."""
  batch, heads, rows, features = q.shape
  groups = k.shape[1]
  grouped = q.reshape(batch, groups, heads // groups * rows, features)
  # The scores feed an exponential, and operators rank tokens by the weights:
  # float32 whatever the model's dtype, on accelerators too.
  scores = jnp.einsum(
    "bgqd,bgnd->bgqn",
    grouped,
    k,
    precision=jax.lax.Precision.HIGHEST,
    preferred_element_type=jnp.float32,
  )
  scores = scores.reshape(batch, heads, rows, -1) * features**-0.5
  return jax.nn.softmax(scores + bias[:, None], axis=-1)
