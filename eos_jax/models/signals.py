"""What a decoder site lets its operator read, and nothing more than it reads.

Attention rows are recomputed for the query rows that an operator needs, so that
no layer keeps an attention map. Rows of the coming layer need its keys, which
are projected here; rows of the layer before use the keys that it has cached.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from eos_jax import ops
from eos_jax.array_typing import Array, Bool, Float, Int
from eos_jax.models import attention, blocks, sequence
from eos_jax.models import config as config_lib
from eos_jax.ops import types


@dataclasses.dataclass(frozen=True)
class Before:
  """The layer before a site.

  Attributes:
    seq: the sequence that it ran on.
    keys: `[B, G, N, d]` its rotated keys.
    index: its number.
  """

  seq: sequence.Sequence
  keys: Float[Array, "B G N d"]
  index: int


def compute(
  cfg: config_lib.DecoderConfig,
  params: Any,
  seq: sequence.Sequence,
  index: int,
  spec: ops.OperatorSpec,
  *,
  before: Before | None,
  first: sequence.Sequence,
) -> ops.Signals:
  """The signals that `spec` reads at a site.

  Args:
    cfg: shape of the decoder.
    params: its parameters.
    seq: the sequence at the site.
    index: number of the coming layer.
    spec: the operator.
    before: the layer before; None at the decoder's input.
    first: the sequence in front of the first layer.
  """
  wanted, found = set(ops.required_signals(spec)), {}
  coming = _Coming(cfg, params, seq, index)
  if {"last_row", "text_rows"} & wanted:
    found |= coming.prompt_rows(wanted)
  if "received" in wanted:
    found["received"] = coming.received()
  if "keys" in wanted:
    found["keys"] = blocks.call(*coming.layer, "keys", seq.visual)
  if {"self_sums", "cross_sums"} & wanted:
    found["self_sums"], found["cross_sums"] = coming.modality_sums()
  if "guide" in wanted:
    guide = seq.state.signals.guide
    # Without tiles every image is a thumbnail, which has no guide.
    zeros = jnp.zeros_like(seq.state.tokens.size)
    found["guide"] = zeros if guide is None else guide
  if "last_row_previous" in wanted:
    row = sequence.last_prompt_row(before.seq)[:, None]
    rows = _cached_rows(cfg, params, before, row)
    found["last_row_previous"] = rows[:, 0]
  if "rater_rows" in wanted:
    found["rater_rows"] = _rater_rows(cfg, params, before, first)
  if "text" in wanted:
    found["text"] = blocks.embed(params, seq.text.tokens)
    found["text_mask"] = sequence.prompt_mask(seq.text)
  if "states" in wanted:
    found["states"] = blocks.final_norm(cfg, params, seq.visual)
  if "pivots" in wanted:
    found["pivots"] = _pivots(cfg, params, seq, before)
  return ops.Signals(**found)


class _Coming:
  """Attention of the layer after a site, for chosen query rows."""

  def __init__(self, cfg, params, seq, index):
    self._cfg, self._seq = cfg, seq
    part = blocks.layer(params["blocks"], index)
    self.layer = blocks.DecoderBlock(cfg), part
    self._keys = None

  def keys(self):
    """Rotated keys of all rows; queries are dead code where unused."""
    if self._keys is None:
      self._keys = self._project()[1]
    return self._keys

  def _project(self):
    places = sequence.positions(self._cfg, self._seq)
    angles = blocks.rotary(self._cfg, places)
    return blocks.call(*self.layer, "project", self._seq.hidden, angles)

  def rows(self, rows):
    """Head-mean attention `[B, R, V]` of rows `[B, R]` to visual keys."""
    return _to_visual(
      self._seq, _attention(self.layer, self._cfg, self._seq, self.keys(), rows)
    )

  def prompt_rows(self, wanted):
    """Attention of the last prompt row, and of its text on average."""
    rows = []
    if "last_row" in wanted:
      rows.append(sequence.last_prompt_row(self._seq)[:, None])
    if "text_rows" in wanted:
      rows.append(_text_columns(self._seq))
    weights, found = self.rows(jnp.concatenate(rows, axis=1)), {}
    if "last_row" in wanted:
      found["last_row"], weights = weights[:, 0], weights[:, 1:]
    if "text_rows" in wanted:
      mask = sequence.prompt_mask(self._seq.text).astype(jnp.float32)
      count = jnp.maximum(jnp.sum(mask, axis=1), 1.0)
      highest = jax.lax.Precision.HIGHEST
      total = jnp.einsum("brv,br->bv", weights, mask, precision=highest)
      mean = total / count[:, None]
      found["text_rows"] = mean
    return found

  def received(self):
    """Attention that visual tokens receive on average over prompt rows."""
    live = _live(self._seq)
    total = jnp.maximum(jnp.sum(live, axis=1), 1.0)
    return self._sums(live) / total[:, None]

  def modality_sums(self):
    """What visual tokens receive from visual and from text rows (CSP).

    The published code sums the last rows, for each head; here these are the
    rows of the prompt, mean over heads.
    """
    live, seq = _live(self._seq), self._seq
    column = jnp.arange(live.shape[1])[None]
    visual = (column >= seq.prefix) & (column < seq.text_start)
    return (
      self._sums(jnp.where(visual, live, 0)),
      self._sums(jnp.where(visual, 0, live)),
    )

  def _sums(self, weights):
    """Attention `[B, V]` that visual keys receive from weighted rows."""
    seq = self._seq
    queries, keys, _ = self._project()
    sums = attention.received(
      queries,
      keys,
      weights=weights,
      order=sequence.order(seq),
      key_bias=sequence.key_bias(seq),
    )
    return sums[:, seq.prefix : seq.text_start]


def _text_columns(seq):
  """Storage rows of the text, `[B, T]`."""
  columns = jnp.arange(seq.text_start, seq.hidden.shape[1])[None]
  return jnp.broadcast_to(columns, seq.text.mask.shape)


def _live(seq):
  """Share of each row that is a row of the prompt, `[B, N]`."""
  live = sequence.in_prompt(seq).astype(jnp.float32)
  mass = jnp.exp(seq.state.tokens.log_mass)
  visual = live[:, seq.prefix : seq.text_start] * mass
  return live.at[:, seq.prefix : seq.text_start].set(visual)


def _to_visual(seq, weights):
  return weights[:, :, seq.prefix : seq.text_start]


def _attention(
  layer: tuple[Any, Any],
  cfg: config_lib.DecoderConfig,
  seq: sequence.Sequence,
  keys: Float[Array, "B G N d"],
  rows: Int[Array, "B R"],
) -> Float[Array, "B R N"]:
  """Head-mean attention of chosen rows in a layer with known keys."""
  places = sequence.positions(cfg, seq)
  chosen = jnp.take_along_axis(seq.hidden, rows[..., None], axis=1)
  places = jax.vmap(lambda one, at: one[at])(places, rows)
  angles = blocks.rotary(cfg, places)
  queries, _, _ = blocks.call(*layer, "project", chosen, angles)
  order = sequence.order(seq)
  own = jnp.take_along_axis(order, rows, axis=1)
  visible: Bool[Array, "B R N"] = order[:, None] <= own[..., None]
  return attention.row_attention(
    queries, keys, allowed=visible, key_bias=sequence.key_bias(seq)
  )


def _cached_rows(cfg, params, before, rows):
  """Attention `[B, R, V]` of rows of the layer before, by its cached keys."""
  part = blocks.layer(params["blocks"], before.index)
  layer = blocks.DecoderBlock(cfg), part
  weights = _attention(layer, cfg, before.seq, before.keys, rows)
  return _to_visual(before.seq, weights)


def _rater_rows(cfg, params, before, first):
  """Attention of the text raters towards the visual tokens, mean."""
  mask, pictures = sequence.prompt_mask(first.text), first.state.pictures
  weights = _cached_rows(cfg, params, before, _text_columns(before.seq))

  def rate(visual, there, weights, text, mask):
    raters, _ = ops.signals.text_raters(visual, text, mask, valid=there)
    return ops.signals.rater_rows(weights[None], raters)  # one head

  text = first.hidden[:, first.text_start :]
  if not text.shape[1]:
    return jnp.zeros_like(before.seq.state.tokens.log_mass)
  # Each picture has raters of its own: those that speak of it.
  visual = first.visual.reshape(len(mask), pictures, -1, text.shape[-1])
  there = types.present(first.state.tokens.log_mass).reshape(visual.shape[:3])
  weights = weights.reshape(*weights.shape[:2], pictures, -1)
  each = jax.vmap(rate, in_axes=(0, 0, 1, None, None))
  rated = jax.vmap(each)(visual, there, weights, text, mask)
  return rated.reshape(len(mask), -1)


def _pivots(cfg, params, seq, before):
  """DART's pivots after the final norm, `[B, I P, D]`.

  Each picture has visual pivots of its own, and all have the text's.
  """
  state, batch = seq.state, seq.text.mask.shape[0]
  there = sequence.present(seq)[:, seq.prefix : seq.text_start]
  own = jnp.repeat(jnp.eye(state.pictures, dtype=bool), state.block, axis=1)
  visual = there[:, None] & own[None]  # [B, I, V]
  width = [(0, 0), (0, 0), (seq.prefix, seq.text.mask.shape[1])]
  visual = jnp.pad(visual, width)
  text = sequence.prompt_mask(seq.text)
  text = jnp.pad(text, [(0, 0), (seq.text_start, 0)])
  keys = before.keys.swapaxes(1, 2).reshape(*seq.hidden.shape[:2], -1)
  each = jax.vmap(ops.signals.dart_pivots, in_axes=(None, 0, None))
  rows = jax.vmap(each)(keys, visual, text).reshape(batch, -1)
  chosen = jnp.take_along_axis(seq.hidden, rows[..., None], axis=1)
  return blocks.final_norm(cfg, params, chosen)
