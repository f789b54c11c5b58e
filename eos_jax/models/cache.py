"""Key-value cache of a reduced prefill, and passes that read and extend it.

Layers between two sites saw the same tokens: each such segment has a length of
its own. What prefill wrote is never copied again: later tokens go into one
tail, common to all layers, and attention reads both parts where they lie.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp

from eos_jax.array_typing import Array, Bool, Float, Int
from eos_jax.models import blocks, layers
from eos_jax.models import config as config_lib


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Segment:
  """Keys and values of consecutive layers that saw the same tokens.

  Attributes:
    keys: `[l, B, G, N, d]` of the segment's l layers, rotated.
    values: `[l, B, G, N, d]`.
    bias: `[B, N]` additive attention bias on the keys.
    next_position: `[B]` rotary position of the token after the prompt; it is
      another one after a site that renumbers.
    start: first layer of the segment.
  """

  keys: Float[Array, "l B G N d"]
  values: Float[Array, "l B G N d"]
  bias: Float[Array, "B N"]
  next_position: Int[Array, "B"]
  start: int = dataclasses.field(metadata={"static": True})

  @property
  def layers(self) -> range:
    """Numbers of its layers."""
    return range(self.start, self.start + self.keys.shape[0])


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Tail:
  """The tokens after a prefill.

  Attributes:
    stored: `[2, L, B, G, M, d]` their keys and values.
    there: `[B, M]` True on the slots that hold a token.
    used: `[]` slots that have been handed out, for all samples alike.
  """

  stored: Float[Array, "2 L B G M d"]
  there: Bool[Array, "B M"]
  used: Int[Array, ""]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Cache:
  """All that later tokens of a batch read.

  Attributes:
    segments: what prefill wrote; never changed.
    tail: what came later.
  """

  segments: tuple[Segment, ...]
  tail: Tail


def start(segments: tuple[Segment, ...], *, room: int) -> Cache:
  """The cache of a prefill, with `room` slots M for later tokens."""
  _, batch, groups, _, features = segments[0].keys.shape
  depth = sum(len(segment.layers) for segment in segments)
  shape = (2, depth, batch, groups, room, features)
  tail = Tail(
    stored=jnp.zeros(shape, segments[0].keys.dtype),
    there=jnp.zeros((batch, room), bool),
    used=jnp.int32(0),
  )
  return Cache(segments, tail)


def padded(segments: tuple[Segment, ...], extra: int) -> tuple[Segment, ...]:
  """Appends `extra` masked rows, so that prompts share one cache length."""
  if not extra:
    return segments

  def longer(rows):
    width = [(0, 0)] * rows.ndim
    width[-2] = (0, extra)
    return jnp.pad(rows, width)

  return tuple(
    dataclasses.replace(
      segment,
      keys=longer(segment.keys),
      values=longer(segment.values),
      bias=jnp.pad(
        segment.bias, ((0, 0), (0, extra)), constant_values=layers.MASKED
      ),
    )
    for segment in segments
  )


def extend(
  cfg: config_lib.DecoderConfig,
  params: Any,
  tokens: Int[Array, "B T"],
  mask: Bool[Array, "B T"],
  cache: Cache,
) -> tuple[Float[Array, "B T D"], Cache]:
  """Runs T further tokens of each sample: one generated token, or a turn.

  Nothing is selected again: the visual tokens stay those of the prefill.

  Args:
    cfg: shape of the decoder.
    params: its parameters.
    tokens: ids.
    mask: False on padding, which takes a slot of the tail but is seen by none.
    cache: of the tokens so far. The caller sees to it that its tail has room.

  Returns:
    Normalised hidden states and the cache with the tokens in it.
  """
  tail, width = cache.tail, tokens.shape[1]
  new = mask.astype(jnp.int32)
  rank = jnp.cumsum(new, axis=1) - new + jnp.sum(tail.there, axis=1)[:, None]
  there = jax.lax.dynamic_update_slice_in_dim(
    tail.there, mask, tail.used, axis=1
  )
  slots = jnp.arange(there.shape[1])
  causal = slots[None] <= tail.used + jnp.arange(width)[:, None]
  visible = causal[None] & there[:, None]
  tail_bias = jnp.where(visible, 0.0, layers.MASKED)
  block = blocks.DecoderBlock(cfg)

  def run(x, inputs, segment, angles):
    part, keys, values, later = inputs
    q, k, v = blocks.call(block, part, "project", x, angles)
    later = jax.lax.dynamic_update_slice_in_dim(
      later, jnp.stack([k, v]), tail.used, axis=-2
    )
    context = _attend(q, (keys, values), segment.bias, later, tail_bias)
    return blocks.call(block, part, "finish", x, context), later

  x, written = blocks.embed(params, tokens), []
  for segment in cache.segments:
    angles = blocks.rotary(cfg, segment.next_position[:, None] + rank)
    later = tail.stored[:, segment.start : segment.layers.stop].swapaxes(0, 1)
    x, later = blocks.scan_layers(
      functools.partial(run, segment=segment, angles=angles),
      x,
      params["blocks"],
      (segment.keys, segment.values, later),
      start=segment.start,
    )
    written.append(later.swapaxes(0, 1))
  tail = Tail(jnp.concatenate(written, axis=1), there, tail.used + width)
  hidden = blocks.final_norm(cfg, params, x)
  return hidden, dataclasses.replace(cache, tail=tail)


def _attend(
  q: Float[Array, "B H T d"],
  stored: tuple[Float[Array, "B G N d"], Float[Array, "B G N d"]],
  bias: Float[Array, "B N"],
  tail: Float[Array, "2 B G M d"],
  tail_bias: Float[Array, "B T M"],
) -> Float[Array, "B T F"]:
  """Attention over prefill and tail as one softmax, without joining them."""
  keys, values = stored
  batch, heads, rows, features = q.shape
  groups, length = keys.shape[1], keys.shape[2]
  grouped = q.reshape(batch, groups, heads // groups * rows, features)

  def scores(keys, bias):
    raw = jnp.einsum(
      "bgqd,bgnd->bgqn", grouped, keys, preferred_element_type=jnp.float32
    )
    raw = raw.reshape(batch, heads, rows, -1) * features**-0.5
    return raw + bias[:, None]

  logits = [scores(keys, bias[:, None]), scores(tail[0], tail_bias)]
  weights = jax.nn.softmax(jnp.concatenate(logits, axis=-1), axis=-1)
  weights = weights.astype(values.dtype)
  weights = weights.reshape(batch, groups, heads // groups * rows, -1)
  context = jnp.einsum("bgqn,bgnd->bgqd", weights[..., :length], values)
  context += jnp.einsum("bgqn,bgnd->bgqd", weights[..., length:], tail[1])
  return layers.merge_heads(context.reshape(batch, heads, rows, -1))
