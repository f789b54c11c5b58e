"""The kernels that `attention.attend` chooses from, one function for each.

They share their arguments: q `[B, H, Q, d]`, k and v `[B, G, N, d]` and what
the rows see, and return `[B, Q, H * d]`. Checks are in `attention`.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp

from eos_jax.array_typing import Array, Float, Int
from eos_jax.models import layers

# JAX lets 256 pass from Hopper on, but not every cuDNN has a backward pass for
# it on every newer card.
CUDNN_HEAD_DIM = 128
# Query rows of a causal block of the CPU kernel, and the most blocks: smaller
# and more ones gain little and are long to compile.
_ROWS = 256
_BLOCKS = 4
# Largest tile of the TPU kernel along queries and along keys.
_TILE = 512
_LANES = 128
# A float32 is the sum of three bfloat16; cuDNN wants multiples of eight.
_PARTS = 3
_FOLDED = 8
# Hides a key in float16, too: exp(-2**15 * d**-0.5) is zero up to d = 10**4.
_LOWEST = -(2.0**15)


@dataclasses.dataclass(frozen=True)
class Sight:
  """Which keys a query row sees, and with what bias.

  Attributes:
    causal: query row i is sequence row N - Q + i and sees keys up to itself.
    lengths: `[B]`; keys from there on are hidden.
    key_bias: `[B, N]` added to the logits.
    order: `[B, N]` logical places of the keys; replaces `causal`.
    query_order: `[B, Q]` logical places of the query rows.
    groups: `[B, N]`; a row sees its own group and group 0.
  """

  causal: bool = False
  lengths: Int[Array, "B"] | None = None
  key_bias: Float[Array, "B N"] | None = None
  order: Int[Array, "B N"] | None = None
  query_order: Int[Array, "B Q"] | None = None
  groups: Int[Array, "B N"] | None = None

  def bias(
    self, rows: slice, keys: int, first: int
  ) -> Float[Array, "#B #R K"] | None:
    """Additive float32 bias of some query rows on the first keys.

    Args:
      rows: start and stop of the query rows.
      keys: number of keys.
      first: sequence row of query row 0.

    Returns:
      The bias; None where every row sees every key as it is.
    """
    bias, allowed = None, []
    places = jnp.arange(keys)
    if self.key_bias is not None:
      bias = self.key_bias[:, None, :keys].astype(jnp.float32)
    if self.order is not None:
      own = self.query_order[:, rows, None]
      allowed.append(self.order[:, None, :keys] <= own)
    elif self.causal:
      own = first + jnp.arange(rows.start, rows.stop)
      allowed.append(places[None, None] <= own[None, :, None])
    if self.lengths is not None:
      allowed.append(places[None, None] < self.lengths[:, None, None])
    if self.groups is not None:
      own = self.groups[:, first + rows.start : first + rows.stop, None]
      other = self.groups[:, None, :keys]
      allowed.append((own == other) | (other == 0))
    if not allowed:
      return bias
    allowed = functools.reduce(jnp.logical_and, allowed)
    return jnp.where(allowed, 0.0 if bias is None else bias, layers.MASKED)


def cpu(q: Array, k: Array, v: Array, sight: Sight) -> Array:
  """Hand-written form for XLA's CPU backend.

  With `causal` the rows run in a few unrolled blocks, each of which leaves out
  the keys after its last row.
  """
  queries, keys = q.shape[2], k.shape[2]
  if not sight.causal or sight.order is not None:
    bias = sight.bias(slice(0, queries), keys, keys - queries)
    return layers.merge_heads(_block(q, k, v, bias))
  size = max(_ROWS, -(-queries // _BLOCKS))
  out = []
  for start in range(0, queries, size):
    rows = slice(start, min(start + size, queries))
    seen = keys - queries + rows.stop
    bias = sight.bias(rows, seen, keys - queries)
    out.append(_block(q[:, :, rows], k[:, :, :seen], v[:, :, :seen], bias))
  return layers.merge_heads(jnp.concatenate(out, axis=2))


def _block(q, k, v, bias):
  """Attention of some rows `[B, H, R, d]`; divides by the sum at the end."""
  batch, heads, rows, width = q.shape
  shape = batch, k.shape[1], heads // k.shape[1] * rows
  # The scores feed an exponential: float32 whatever the model's dtype.
  scores = jnp.einsum(
    "bgqd,bgnd->bgqn",
    q.reshape(*shape, width),
    k,
    preferred_element_type=jnp.float32,
  )
  scores = scores.reshape(batch, heads, rows, -1) * width**-0.5
  if bias is not None:
    scores = scores + bias[:, None]
  highest = jax.lax.stop_gradient(jnp.max(scores, axis=-1, keepdims=True))
  weights = jnp.exp(scores - highest)
  total = jnp.sum(weights, axis=-1, keepdims=True)
  context = jnp.einsum(
    "bgqn,bgnd->bgqd",
    weights.astype(v.dtype).reshape(*shape, -1),
    v,
    preferred_element_type=jnp.float32,
  )
  return (context.reshape(q.shape) / total).astype(v.dtype)


def xla(q: Array, k: Array, v: Array, sight: Sight) -> Array:
  """`jax.nn.dot_product_attention` on any backend; O(H Q N) memory."""
  queries, keys = q.shape[2], k.shape[2]
  bias = sight.bias(slice(0, queries), keys, keys - queries)
  if bias is not None:
    bias = bias[:, None]
  return _merge(
    jax.nn.dot_product_attention(
      *map(_sequence_first, (q, k, v)), bias=bias, implementation="xla"
    )
  )


def cudnn(q: Array, k: Array, v: Array, sight: Sight) -> Array:
  """Flash attention of cuDNN; O(Q N) memory only for a bias with d > 120.

  JAX wants a bias of cuDNN to have all rows, `[B, 1, Q, N]`, in the dtype of
  the queries. Where the head leaves room the bias on keys is folded into eight
  more features instead, which is exact in float32 and costs no memory; beyond
  120 features the full bias is made (2 B Q N bytes, again for its gradient) and
  is as exact as the dtype. cuDNN aligns causal rows with the first keys, so
  fewer queries than keys are padded in front, unless it is one row.
  """
  queries, keys, width = q.shape[2], k.shape[2], q.shape[3]
  causal, bias, lengths = sight.causal and queries > 1, None, sight.lengths
  front, scale = (keys - queries if causal else 0), width**-0.5
  if lengths is None and keys % 2 and not causal:
    lengths = jnp.full(q.shape[0], keys)
  if sight.key_bias is not None and width + _FOLDED <= CUDNN_HEAD_DIM:
    q, k = _fold(q, k, sight.key_bias, scale)
    v = _pad(v, 3, 0, _FOLDED)
  elif sight.key_bias is not None:
    bias = jnp.maximum(sight.key_bias.astype(jnp.float32), _LOWEST)
  # JAX has the backward pass for even lengths only. A key that is put after
  # the others is hidden by its place or by `lengths`.
  q = _pad(q, 2, front, (front + queries) % 2)
  k, v = (_pad(x, 2, 0, keys % 2) for x in (k, v))
  if bias is not None:
    bias = _pad(bias, 1, 0, keys % 2)[:, None, None]
    shape = q.shape[0], 1, q.shape[2], k.shape[2]
    # Spread before the cast: its gradient is summed over rows in float32.
    bias = jnp.broadcast_to(bias, shape).astype(q.dtype)
  if lengths is not None:
    # A row always has a key, so that no softmax is empty.
    lengths = jnp.maximum(lengths, 1).astype(jnp.int32)
  out = jax.nn.dot_product_attention(
    *map(_sequence_first, (q, k, v)),
    bias=bias,
    scale=scale,
    is_causal=causal,
    key_value_seq_lengths=lengths,
    implementation="cudnn",
  )
  return _merge(out[:, front : front + queries, :, :width])


def tpu(
  q: Array, k: Array, v: Array, sight: Sight, interpret: bool = False
) -> Array:
  """JAX's Pallas splash attention: grouped heads, causal tiles skipped.

  The bias on keys is folded into more features of q and k. Queries and keys
  are padded to whole tiles. Mosaic kernels are not partitioned automatically:
  on several devices the caller maps this over its shards (`jax.shard_map`).
  With `interpret` it runs on any backend, slowly.
  """
  # Pallas takes longer to import than the rest of this package.
  from jax.experimental.pallas.ops.tpu.splash_attention import (
    splash_attention_kernel as splash,
  )
  from jax.experimental.pallas.ops.tpu.splash_attention import (
    splash_attention_mask as masks,
  )

  heads, queries, width = q.shape[1:]
  keys = k.shape[2]
  q = (q.astype(jnp.float32) * width**-0.5).astype(q.dtype)
  if sight.key_bias is not None:
    q, k = _fold(q, k, sight.key_bias, 1.0)
  rows, tile = _tiles(queries)
  columns, key_tile = _tiles(keys)
  q = _pad(q, 2, 0, rows - queries)
  k, v = (_pad(x, 2, 0, columns - keys) for x in (k, v))
  if sight.causal:
    mask = masks.CausalMask((rows, columns), offset=keys - queries)
  else:
    mask = masks.FullMask((rows, columns))
  attend = splash.make_splash_mha_single_device(
    masks.MultiHeadMask([mask] * heads),
    block_sizes=splash.BlockSizes(
      block_q=tile,
      block_kv=key_tile,
      block_q_dkv=tile,
      block_kv_dkv=key_tile,
      block_q_dq=tile,
      block_kv_dq=key_tile,
    ),
    interpret=interpret,
  )
  # Causal rows never see the padding, which lies after them.
  if sight.lengths is None and (sight.causal or columns == keys):
    out = jax.vmap(attend)(q, k, v)
  else:
    lengths = sight.lengths
    if lengths is None:
      lengths = jnp.full(q.shape[0], keys)
    hidden = jnp.arange(columns)[None] >= lengths[:, None]
    ids = splash.SegmentIds(
      jnp.zeros((q.shape[0], rows), jnp.int32), hidden.astype(jnp.int32)
    )
    out = jax.vmap(attend)(q, k, v, ids)
  return layers.merge_heads(out[:, :, :queries])


def _tiles(length):
  """Padded length and its tile: few equal tiles of at most `_TILE`."""
  count = -(-length // _TILE)
  tile = -(-length // (count * _LANES)) * _LANES
  return count * tile, tile


def _fold(q, k, key_bias, scale):
  """Moves a bias on keys into `_FOLDED` more features of q and k.

  Three features of k hold the bias over `scale` as a sum of bfloat16, those of
  q are ones: exact in any dtype, with products summed in float32.
  """
  rest = jnp.maximum(key_bias.astype(jnp.float32) / scale, _LOWEST)
  parts = []
  for _ in range(_PARTS):
    value = jax.lax.stop_gradient(rest)
    # A cast there and back may be optimised away; this is not.
    part = jax.lax.reduce_precision(value, 8, 7)
    # The whole gradient goes through the first part, unrounded.
    parts.append(rest + (part - value))
    rest = value - part
  parts = _pad(jnp.stack(parts, axis=-1), 2, 0, _FOLDED - _PARTS)
  # Spread before the cast: its gradient is summed over heads in float32.
  parts = jnp.broadcast_to(parts[:, None], (*k.shape[:3], _FOLDED))
  ones = jnp.ones((*q.shape[:3], _FOLDED), q.dtype)
  return (
    jnp.concatenate([q, ones], axis=-1),
    jnp.concatenate([k, parts.astype(k.dtype)], axis=-1),
  )


def _pad(x, axis, before, after):
  """Pads one axis with zeros; x itself where there is nothing to pad."""
  if not before and not after:
    return x
  widths = [(0, 0)] * x.ndim
  widths[axis] = (before, after)
  return jnp.pad(x, widths)


def _sequence_first(x):
  """`[B, H, N, d]` as `[B, N, H, d]`, and back."""
  return x.swapaxes(1, 2)


def _merge(x):
  """`[B, Q, H, d]` as `[B, Q, H * d]`."""
  return x.reshape(*x.shape[:2], -1)
