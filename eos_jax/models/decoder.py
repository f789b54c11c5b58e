"""Causal decoder over `[prefix | visual tokens | text]`, reducing on the way.

The layers run in segments between the sites of a reduction; each segment is
one `lax.scan` over stacked parameters. With a plan the sequence gets really
shorter at a site; with a soft reduction its length stays and masses enter the
attention logits.
"""

import dataclasses
import functools
import itertools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from eos_jax import ops
from eos_jax.array_typing import Array, Bool, Float, Int
from eos_jax.models import blocks, layers
from eos_jax.models import config as config_lib
from eos_jax.models import reduction as reduction_lib
from eos_jax.ops import needs


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Text:
  """The text behind the picture.

  Attributes:
    tokens: `[B, T]` ids, padded on the right.
    mask: `[B, T]` True on real tokens.
    prompt_length: `[B]` number of leading tokens that are the prompt (the rest
      is the answer), or None where no reduction reads the prompt.
    segments: `[B, T]` number of the question a token belongs to (0 = padding),
      or None. Questions of one sequence do not see one another.
    offsets: `[B, T]` positions counted from the end of the picture, or None:
      0, 1, 2, ...
  """

  tokens: Int[Array, "B T"]
  mask: Bool[Array, "B T"]
  prompt_length: Int[Array, "B"] | None = None
  segments: Int[Array, "B T"] | None = None
  offsets: Int[Array, "B T"] | None = None


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Segment:
  """Keys and values of consecutive layers that saw the same tokens.

  Attributes:
    keys: `[l, B, G, N, d]` of the segment's l layers.
    values: `[l, B, G, N, d]`.
    bias: `[B, N]` additive attention bias on the keys.
    next_position: `[B]` rotary position of the token behind the text; it is
      another one behind a site that renumbers.
    start: first layer of the segment.
  """

  keys: Float[Array, "l B G N d"]
  values: Float[Array, "l B G N d"]
  bias: Float[Array, "B N"]
  next_position: Int[Array, "B"]
  start: int = dataclasses.field(metadata={"static": True})


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class DecoderOutput:
  """Result of a pass over prefix, picture and text.

  Attributes:
    hidden: `[B, T, D]` normalised hidden states of the text.
    cache: keys and values by segment.
    state: what travels with the visual tokens, after the last site.
    trace: the operator's result at each site, by site name.
  """

  hidden: Float[Array, "B T D"]
  cache: tuple[Segment, ...]
  state: reduction_lib.VisualState
  trace: dict[str, ops.Reduced]


@dataclasses.dataclass(frozen=True)
class _Sequence:
  """Hidden states between two segments, and where its parts lie."""

  hidden: Array
  state: reduction_lib.VisualState
  text: Text
  prefix: int

  @property
  def visual(self) -> int:
    return self.state.size.shape[1]

  @property
  def text_start(self) -> int:
    return self.prefix + self.visual


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
      jnp.zeros((1, 1, 2)),
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


def final_norm(
  cfg: config_lib.DecoderConfig, params: Any, hidden: Float[Array, "*B D"]
) -> Float[Array, "*B D"]:
  """The norm before the output head."""
  return layers.RMSNorm(cfg.norm_eps).apply({"params": params["norm"]}, hidden)


def run(
  cfg: config_lib.DecoderConfig,
  params: Any,
  prefix: tuple[int, ...],
  visual: Float[Array, "B V D"],
  state: reduction_lib.VisualState,
  text: Text,
  reduction: reduction_lib.Reduction = None,
) -> DecoderOutput:
  """Runs the decoder over `[prefix | visual | text]`.

  Args:
    cfg: shape of the decoder.
    params: its parameters.
    prefix: token ids before the picture.
    visual: projected visual tokens.
    state: what travels with them.
    text: tokens behind the picture.
    reduction: acts at its `decoder.*` sites.

  Returns:
    Hidden states of the text, the cache, and what the sites did.
  """
  first = seq = _begin(cfg, params, prefix, visual, state, text)
  block, stack = blocks.DecoderBlock(cfg), params["blocks"]
  trace, cache, previous = {}, [], None
  bounds = _bounds(reduction, cfg.layers)
  for start, stop in itertools.pairwise((*bounds, cfg.layers)):
    site = f"decoder.{start}"
    spec = reduction_lib.spec_at(reduction, site)
    if spec is not None:
      signals = _signals(cfg, params, seq, start, spec, previous, first)
      seq, trace[site] = _reduce(seq, reduction, site, signals)
    previous = seq
    key_bias = _key_bias(seq)
    hidden, (keys, values) = blocks.run_decoder(
      block,
      stack,
      seq.hidden,
      _positions(cfg, seq),
      _bias(seq, key_bias),
      start=start,
      stop=stop,
    )
    following = _text_offset(cfg, seq) + jnp.sum(text.mask, axis=1)
    cache.append(Segment(keys, values, key_bias, following, start))
    seq = dataclasses.replace(seq, hidden=hidden)
  hidden = final_norm(cfg, params, seq.hidden[:, seq.text_start :])
  return DecoderOutput(hidden, tuple(cache), seq.state, trace)


def reduce_input(
  cfg: config_lib.DecoderConfig,
  params: Any,
  prefix: tuple[int, ...],
  visual: Float[Array, "B V D"],
  state: reduction_lib.VisualState,
  text: Text,
  reduction: reduction_lib.Reduction,
) -> tuple[Float[Array, "B K D"], reduction_lib.VisualState, ops.Reduced]:
  """Applies the site "decoder.0" alone; arguments as of `run`.

  Afterwards `run` under the remaining sites gives what it gives under all of
  them; plans that differ only here then share one compiled decoder.
  """
  seq = _begin(cfg, params, prefix, visual, state, text)
  spec = reduction_lib.spec_at(reduction, "decoder.0")
  signals = _signals(cfg, params, seq, 0, spec, None, seq)
  seq, reduced = _reduce(seq, reduction, "decoder.0", signals)
  visual = seq.hidden[:, seq.prefix : seq.text_start]
  return visual, seq.state, reduced


def step(
  cfg: config_lib.DecoderConfig,
  params: Any,
  token: Int[Array, "B"],
  cache: tuple[Segment, ...],
  new: Array,
  index: Int[Array, ""],
) -> tuple[Float[Array, "B D"], Array]:
  """Decodes one token against the cache of a prefill.

  Args:
    cfg: shape of the decoder.
    params: its parameters.
    token: ids of the tokens to feed.
    cache: segments of the prefill, never written to.
    new: `[2, L, B, G, M, d]` keys and values of the tokens decoded so far.
    index: number of tokens decoded so far; slot of `new` to write.

  Returns:
    The normalised hidden state and the updated `new`.
  """
  block, x = blocks.DecoderBlock(cfg), params["embed"][token][:, None]
  slots = jnp.arange(new.shape[-2])
  tail = jnp.where(slots <= index, 0.0, layers.MASKED)
  tail = jnp.broadcast_to(tail, (x.shape[0], slots.size))

  def body(carry, inputs, position):
    layer_params, keys, values, fresh, bias = inputs
    q, k, v = blocks.call(block, layer_params, "project", carry, position)
    fresh = jax.lax.dynamic_update_slice_in_dim(
      fresh, jnp.stack([k, v]), index, axis=-2
    )
    keys = jnp.concatenate([keys, fresh[0]], axis=-2)
    values = jnp.concatenate([values, fresh[1]], axis=-2)
    context = layers.attend(q, keys, values, bias)
    return blocks.call(block, layer_params, "finish", carry, context), fresh

  written = []
  for segment in cache:
    depth = segment.keys.shape[0]
    window = slice(segment.start, segment.start + depth)
    bias = jnp.concatenate([segment.bias, tail], axis=-1)[:, None]
    inputs = (
      jax.tree.map(lambda leaf, w=window: leaf[w], params["blocks"]),
      segment.keys,
      segment.values,
      new[:, window].swapaxes(0, 1),
      jnp.broadcast_to(bias, (depth, *bias.shape)),
    )
    position = (segment.next_position + index)[:, None]
    layer = functools.partial(body, position=position)
    x, fresh = jax.lax.scan(layer, x, inputs)
    written.append(fresh.swapaxes(0, 1))
  hidden = final_norm(cfg, params, x[:, 0])
  return hidden, jnp.concatenate(written, axis=1)


def _begin(cfg, params, prefix, visual, state, text):
  """The sequence in front of the first layer."""
  embed, batch = params["embed"], visual.shape[0]
  ids = jnp.asarray(prefix, jnp.int32)
  before = jnp.broadcast_to(embed[ids], (batch, len(prefix), cfg.width))
  hidden = jnp.concatenate(
    [before.astype(visual.dtype), visual, embed[text.tokens]], axis=1
  )
  return _Sequence(hidden, state, text, len(prefix))


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


def _reduce(seq, reduction, site, signals):
  """Applies the operator of a site to the visual part of the sequence."""
  first, last = seq.prefix, seq.text_start
  visual, state, reduced = reduction_lib.reduce_at(
    reduction, site, seq.hidden[:, first:last], seq.state, signals
  )
  hidden = jnp.concatenate(
    [seq.hidden[:, :first], visual, seq.hidden[:, last:]], axis=1
  )
  return dataclasses.replace(seq, hidden=hidden, state=state), reduced


def _signals(cfg, params, seq, index, spec, previous, first):
  """Computes what `spec` reads, and nothing else.

  Attention rows are those of the coming layer, recomputed for the few query
  rows that are needed; no attention map of the whole sequence is kept. Some
  are those of the layer before, which ran on the sequence `previous`; `first`
  is the sequence in front of the first layer.
  """
  wanted, signals = set(ops.required_signals(spec)), {}
  if "last_row" in wanted:
    signals["last_row"] = _last_row(cfg, params, seq, index)
  if "last_row_previous" in wanted:
    signals["last_row_previous"] = _last_row(cfg, params, previous, index - 1)
  if "rater_rows" in wanted:
    signals["rater_rows"] = _rater_rows(cfg, params, previous, index - 1, first)
  if "text_rows" in wanted:
    signals["text_rows"] = _text_rows(cfg, params, seq, index)
  if "received" in wanted:
    signals["received"] = _received(cfg, params, seq, index)
  if "text" in wanted:
    signals["text"] = params["embed"][seq.text.tokens]
    signals["text_mask"] = _prompt_mask(seq)
  if "keys" in wanted:
    part = blocks.layer(params["blocks"], index)
    visual = seq.hidden[:, seq.prefix : seq.text_start]
    signals["keys"] = blocks.call(
      blocks.DecoderBlock(cfg), part, "keys", visual
    )
  return ops.Signals(**signals)


def _rows(cfg, params, seq, index, rows):
  """Head-mean attention `[B, R, N]` of chosen rows `[B, R]` in a layer."""
  block, part = blocks.DecoderBlock(cfg), blocks.layer(params["blocks"], index)
  positions = _positions(cfg, seq)
  _, keys, _ = blocks.call(block, part, "project", seq.hidden, positions)
  chosen = jnp.take_along_axis(seq.hidden, rows[..., None], axis=1)
  places = jax.vmap(lambda one, at: one[at])(positions, rows)
  queries, _, _ = blocks.call(block, part, "project", chosen, places)
  causal = jnp.arange(positions.shape[1])[None, None] <= rows[..., None]
  bias = jnp.where(causal, _key_bias(seq)[:, None], layers.MASKED)
  return jnp.mean(layers.attention_weights(queries, keys, bias), axis=1)


def _last_row(cfg, params, seq, index):
  """Attention of the last prompt token towards the visual tokens."""
  row = seq.text_start + _prompt_length(seq) - 1
  weights = _rows(cfg, params, seq, index, row[:, None])
  return weights[:, 0, seq.prefix : seq.text_start]


def _text_rows(cfg, params, seq, index):
  """Attention of the prompt's tokens towards the visual tokens, mean."""
  mask = _prompt_mask(seq).astype(jnp.float32)
  rows = seq.text_start + jnp.arange(mask.shape[1])
  rows = jnp.broadcast_to(rows, mask.shape)
  weights = _rows(cfg, params, seq, index, rows)
  weights = weights[:, :, seq.prefix : seq.text_start]
  count = jnp.maximum(jnp.sum(mask, axis=1), 1.0)
  return jnp.einsum("brv,br->bv", weights, mask) / count[:, None]


def _rater_rows(cfg, params, seq, index, first):
  """Attention of the text raters towards the visual tokens, mean."""
  mask = _prompt_mask(seq)
  visual = first.hidden[:, first.prefix : first.text_start]
  text = first.hidden[:, first.text_start :]
  raters, _ = jax.vmap(ops.signals.text_raters)(visual, text, mask)
  rows = seq.text_start + jnp.arange(mask.shape[1])
  weights = _rows(cfg, params, seq, index, jnp.broadcast_to(rows, mask.shape))
  weights = weights[:, None, :, seq.prefix : seq.text_start]  # one head
  return jax.vmap(ops.signals.rater_rows)(weights, raters)


def _received(cfg, params, seq, index):
  """Attention that visual tokens receive on average over the prompt's rows."""
  end = seq.text_start
  length = seq.hidden.shape[1]
  rows = jnp.broadcast_to(jnp.arange(length), seq.hidden.shape[:2])
  weights = _rows(cfg, params, seq, index, rows)[:, :, seq.prefix : end]
  live = jnp.concatenate(
    [
      jnp.ones((rows.shape[0], seq.prefix)),
      jnp.exp(seq.state.log_mass),
      _prompt_mask(seq).astype(jnp.float32),
    ],
    axis=1,
  )
  total = jnp.maximum(jnp.sum(live, axis=1), 1.0)
  return jnp.einsum("brv,br->bv", weights, live) / total[:, None]


def _prompt_length(seq):
  if seq.text.prompt_length is None:
    raise ValueError(
      "text.prompt_length is None, but an operator reads the prompt's"
      " attention; give the number of prompt tokens of each sample."
    )
  return seq.text.prompt_length


def _prompt_mask(seq):
  slots = jnp.arange(seq.text.tokens.shape[1])[None]
  return slots < _prompt_length(seq)[:, None]


def _text_offset(cfg, seq):
  """Rotary position of the first text token."""
  if seq.state.renumbered:
    return seq.prefix + seq.visual
  rows, cols = seq.state.grid
  # On axes of its own a picture is as long as its longer side (M-RoPE).
  return seq.prefix + (max(rows, cols) if cfg.rope_axes else rows * cols)


def _positions(cfg, seq):
  """Rotary positions, original ones unless an operator renumbers.

  `[B, N]`; `[B, N, 3]`, time, row and column, where the decoder turns by them.
  """
  batch = seq.hidden.shape[0]
  slots = jnp.arange(seq.text.tokens.shape[1])[None]
  offsets = slots if seq.text.offsets is None else seq.text.offsets
  visual = seq.state.position
  if seq.state.renumbered:
    visual = jnp.broadcast_to(jnp.arange(seq.visual), visual.shape)
  before = jnp.broadcast_to(jnp.arange(seq.prefix), (batch, seq.prefix))
  after = jnp.broadcast_to(
    _text_offset(cfg, seq) + offsets, (batch, offsets.shape[1])
  )
  if not cfg.rope_axes:
    return jnp.concatenate([before, seq.prefix + visual, after], axis=1)
  if seq.state.renumbered:
    places = (visual,) * 3
  else:
    places = jnp.zeros_like(visual), *jnp.divmod(visual, seq.state.grid[1])
  return jnp.stack(
    [
      jnp.concatenate([before, seq.prefix + place, after], axis=1)
      for place in places
    ],
    axis=-1,
  )


def _key_bias(seq):
  """Additive bias `[B, N]` on every key: masses, sizes, padding."""
  text = jnp.where(seq.text.mask, 0.0, layers.MASKED)
  before = jnp.zeros((text.shape[0], seq.prefix))
  visual = seq.state.log_mass + seq.state.bias
  return jnp.concatenate([before, visual, text], axis=1)


def _bias(seq, key_bias):
  """Causal bias `[B, N, N]`, block-diagonal over questions if there are any."""
  length = key_bias.shape[1]
  allowed = jnp.tri(length, dtype=bool)[None]
  if seq.text.segments is not None:
    # Prefix and picture are seen by every question: they get segment 0.
    shared = jnp.zeros((key_bias.shape[0], seq.text_start), jnp.int32)
    segment = jnp.concatenate([shared, seq.text.segments], axis=1)
    same = segment[:, :, None] == segment[:, None, :]
    allowed = allowed & (same | (segment == 0)[:, None, :])
  return jnp.where(allowed, key_bias[:, None], layers.MASKED)
