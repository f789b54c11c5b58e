"""Causal decoder over prefix, pictures and text, reducing on the way.

The layers run in segments between the sites of a reduction. With a plan the
sequence gets really shorter at a site; with a soft reduction its length stays
and masses enter the attention logits.
"""

import dataclasses
import functools
import itertools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from eos_jax import ops
from eos_jax.array_typing import Array, Float
from eos_jax.models import (
  attention,
  blocks,
  cache,
  layers,
  sequence,
  signals,
  target,
)
from eos_jax.models import config as config_lib
from eos_jax.models import reduction as reduction_lib
from eos_jax.ops import needs


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class DecoderOutput:
  """Result of a pass over prefix, pictures and text.

  Attributes:
    hidden: `[B, T, D]` normalised hidden states of the text.
    last: `[B, D]` the normalised hidden state of each sample's last row.
    segments: keys and values by segment.
    state: what travels with the visual tokens, after the last site.
    trace: the operator's result at each site, by site name.
  """

  hidden: Float[Array, "B T D"]
  last: Float[Array, "B D"]
  segments: tuple[cache.Segment, ...]
  state: reduction_lib.VisualState
  trace: dict[str, ops.Reduced]


class _Head(nn.Module):
  cfg: config_lib.DecoderConfig

  @nn.compact
  def __call__(self, x):
    return layers.Dense(self.cfg.vocab, use_bias=False, name="out")(x)


def init(cfg: config_lib.DecoderConfig, key: Array) -> Any:
  """Random parameters of the decoder."""
  embed_key, block_key, head_key = jax.random.split(key, 3)
  x = jnp.zeros((1, 2, cfg.width))
  positions = jnp.zeros((1, 2), jnp.int32)
  params = {
    "embed": jax.random.normal(embed_key, (cfg.vocab, cfg.width)),
    "blocks": blocks.init_stack(
      blocks.DecoderBlock(cfg),
      block_key,
      cfg.layers,
      x,
      positions,
    ),
    "norm": layers.RMSNorm(cfg.norm_eps).init(head_key, x)["params"],
  }
  if not cfg.tied:
    params["head"] = _Head(cfg).init(head_key, x)["params"]
  return params


def logits(
  cfg: config_lib.DecoderConfig, params: Any, hidden: Float[Array, "*B D"]
) -> Float[Array, "*B vocab"]:
  """Next-token logits in float32 from normalised hidden states."""
  if cfg.tied:
    return (hidden @ params["embed"].T.astype(hidden.dtype)).astype(jnp.float32)
  return (
    _Head(cfg).apply({"params": params["head"]}, hidden).astype(jnp.float32)
  )


def run(
  cfg: config_lib.DecoderConfig,
  params: Any,
  prefix: tuple[int, ...],
  visual: Float[Array, "B V D"],
  state: reduction_lib.VisualState,
  text: sequence.Text,
  reduction: reduction_lib.Reduction = None,
  *,
  kernel: str | None = None,
  remat: str = "none",
) -> DecoderOutput:
  """Runs the decoder over prefix, pictures and text.

  Args:
    cfg: shape of the decoder.
    params: its parameters.
    prefix: token ids in front of everything.
    visual: projected visual tokens.
    state: what travels with them.
    text: the text, and where the pictures stand in it.
    reduction: acts at its `decoder.*` sites.
    kernel: of attention (`attention.KERNELS`); None = the best of the backend.
    remat: what the backward pass computes again, "none" or of
      `blocks.REMAT`.

  Returns:
    Hidden states of the text, the cache, and what the sites did.
  """
  first = seq = sequence.begin(params, prefix, visual, state, text)
  block, stack = blocks.DecoderBlock(cfg), params["blocks"]
  trace, segments, before = {}, [], None
  bounds = _bounds(reduction, cfg.layers)
  for start, stop in itertools.pairwise((*bounds, cfg.layers)):
    site = f"decoder.{start}"
    spec = reduction_lib.spec_at(reduction, site)
    if spec is not None:
      found = signals.compute(
        cfg, params, seq, start, spec, before=before, first=first
      )
      seq, trace[site] = _reduce(seq, reduction, site, found)
    stored = _attention(cfg, seq, kernel)
    hidden, (keys, values) = blocks.run_decoder(
      block,
      stack,
      stored.sort(seq.hidden),
      stored.sort(sequence.positions(cfg, seq)),
      stored.attend,
      start=start,
      stop=stop,
      remat=remat,
    )
    following = sequence.next_position(cfg, seq)
    segments.append(
      cache.Segment(keys, values, stored.key_bias, following, start)
    )
    ran = stored.store(keys[-1].swapaxes(1, 2)).swapaxes(1, 2)
    before = signals.Before(seq, ran, stop - 1)
    seq = dataclasses.replace(seq, hidden=stored.store(hidden))
  text_rows = seq.hidden[:, seq.text_start :]
  last = jnp.argmax(
    jnp.where(sequence.present(seq), sequence.order(seq), -1), axis=1
  )
  last = jnp.take_along_axis(seq.hidden, last[:, None, None], axis=1)[:, 0]
  return DecoderOutput(
    hidden=blocks.final_norm(cfg, params, text_rows),
    last=blocks.final_norm(cfg, params, last),
    segments=tuple(segments),
    state=seq.state,
    trace=trace,
  )


def reduce_input(
  cfg: config_lib.DecoderConfig,
  params: Any,
  prefix: tuple[int, ...],
  visual: Float[Array, "B V D"],
  state: reduction_lib.VisualState,
  text: sequence.Text,
  reduction: reduction_lib.Reduction,
) -> tuple[Float[Array, "B K D"], reduction_lib.VisualState, ops.Reduced]:
  """Applies the site "decoder.0" alone; arguments as of `run`.

  Afterwards `run` under the remaining sites gives what it gives under all of
  them; plans that differ only here then share one compiled decoder.
  """
  seq = sequence.begin(params, prefix, visual, state, text)
  spec = reduction_lib.spec_at(reduction, "decoder.0")
  found = signals.compute(cfg, params, seq, 0, spec, before=None, first=seq)
  seq, reduced = _reduce(seq, reduction, "decoder.0", found)
  return seq.visual, seq.state, reduced


def _bounds(reduction, depth):
  """First layers of the segments: 0, the sites, and what they look back to."""
  bounds = {0}
  for index in range(depth):
    spec = reduction_lib.spec_at(reduction, f"decoder.{index}")
    if spec is None:
      continue
    bounds.add(index)
    if needs.reads_previous(spec):
      if index == 0:
        raise ValueError(
          f"operator {spec.name!r} at decoder.0 reads the previous layer's"
          " attention, and there is none; use a later site, or the score"
          " 'last_row', which is recomputed by the next layer."
        )
      bounds.add(index - 1)
  return sorted(bounds)


def _reduce(seq, reduction, site, found):
  """Applies the operator of a site to the visual part of the sequence."""
  visual, state, reduced = reduction_lib.reduce_at(
    reduction, site, seq.visual, seq.state, found
  )
  return seq.with_visual(visual, state), reduced


@dataclasses.dataclass(frozen=True)
class _Stored:
  """How the layers of a segment see its rows.

  Attributes:
    attend: the attention of its layers.
    key_bias: `[B, N]` bias on its keys, in the order of the layers.
    index: `[B, N]` storage row of each of their rows; None = as stored.
  """

  attend: blocks.Attend
  key_bias: Array
  index: Array | None = None

  def sort(self, rows: Array) -> Array:
    """Rows `[B, N, ...]` from storage into the layers' order."""
    return rows if self.index is None else _take(rows, self.index)

  def store(self, rows: Array) -> Array:
    """The inverse of `sort`."""
    if self.index is None:
      return rows
    return _take(rows, jnp.argsort(self.index, axis=1))


def _take(rows, index):
  wide = index.reshape(index.shape + (1,) * (rows.ndim - 2))
  return jnp.take_along_axis(rows, wide, axis=1)


def _attention(cfg, seq, kernel):
  """Chooses the attention of a segment.

  Fused kernels want rows in causal order with the padding after them; the
  others take them as they are stored.
  """
  groups, bias = sequence.groups(seq), sequence.key_bias(seq)
  if kernel is None:
    kernel = attention.choose(
      None, cfg.head_dim, seq.hidden.dtype, devices=target.devices()
    )
  if kernel in attention.FUSED and groups is not None:
    kernel = "xla"  # no fused kernel packs several questions
  attend = functools.partial(attention.attend, kernel=kernel)
  if kernel not in attention.FUSED:
    attend = functools.partial(attend, key_bias=bias, groups=groups)
    if sequence.in_storage_order(seq):
      return _Stored(functools.partial(attend, causal=True), bias)
    order = sequence.order(seq)
    return _Stored(
      functools.partial(attend, order=order, query_order=order), bias
    )
  present = sequence.present(seq)
  order = jnp.where(present, sequence.order(seq), jnp.iinfo(jnp.int32).max)
  index = jnp.argsort(order, axis=1)
  bias = _take(bias, index)
  attend = functools.partial(
    attend,
    causal=True,
    lengths=jnp.sum(present, axis=1),
    key_bias=bias if seq.state.weighted else None,
  )
  return _Stored(attend, bias, index)
