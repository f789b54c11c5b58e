"""The decoder's sequence: how text and pictures lie in it, and who sees whom.

Rows are stored as `[prefix | visual | text]`, so that the visual part is one
block whose size a plan knows, wherever the pictures stand in the text. Two
numbers say where a row belongs: its *order* (a row sees those of equal or lower
order) and its rotary *position*. Padding may be anywhere in the text.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from eos_jax.array_typing import Array, Bool, Float, Int
from eos_jax.models import blocks, layers
from eos_jax.models import config as config_lib
from eos_jax.models import reduction as reduction_lib
from eos_jax.ops import types


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Text:
  """The text of a batch, and where the pictures stand in it.

  Attributes:
    tokens: `[B, T]` ids; padded on either side.
    mask: `[B, T]` True on real tokens.
    prompt_length: `[B]` number of real tokens that are the prompt (the rest is
      the answer, or later turns), or None where no reduction reads the prompt.
    segments: `[B, T]` number of the question a token belongs to (0 = padding),
      or None. Questions of one sequence do not see one another.
    offsets: `[B, T]` positions counted from the end of the picture, or None:
      0, 1, 2, ... over real tokens.
    slots: `[B, I]` column in front of which picture i stands, not decreasing
      along a row, T = after the text; None = all after the prefix.
  """

  tokens: Int[Array, "B T"]
  mask: Bool[Array, "B T"]
  prompt_length: Int[Array, "B"] | None = None
  segments: Int[Array, "B T"] | None = None
  offsets: Int[Array, "B T"] | None = None
  slots: Int[Array, "B I"] | None = None

  def __post_init__(self):
    if self.slots is not None and self.segments is not None:
      raise ValueError(
        "text has slots and segments: questions that share a sequence need"
        " their picture in front of all of them, leave slots out."
      )


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Sequence:
  """Hidden states between two segments, and where its parts lie.

  Attributes:
    hidden: `[B, N, D]` rows `[prefix | visual | text]`.
    state: what travels with the visual tokens.
    text: the text.
    prefix: number of ids in front.
  """

  hidden: Float[Array, "B N D"]
  state: reduction_lib.VisualState
  text: Text
  prefix: int = dataclasses.field(metadata={"static": True})

  @property
  def text_start(self) -> int:
    """Storage row of the first text column."""
    return self.prefix + self.state.rank.shape[1]

  @property
  def visual(self) -> Float[Array, "B V D"]:
    """The visual rows."""
    return self.hidden[:, self.prefix : self.text_start]

  def with_visual(
    self, visual: Float[Array, "B K D"], state: reduction_lib.VisualState
  ) -> "Sequence":
    """The same sequence with other visual rows."""
    parts = [
      self.hidden[:, : self.prefix],
      visual,
      self.hidden[:, self.text_start :],
    ]
    hidden = jnp.concatenate(parts, axis=1)
    return dataclasses.replace(self, hidden=hidden, state=state)


def begin(
  params: Any,
  prefix: tuple[int, ...],
  visual: Float[Array, "B V D"],
  state: reduction_lib.VisualState,
  text: Text,
) -> Sequence:
  """The sequence in front of the first layer; `params` are the decoder's."""
  pictures = state.pictures
  if text.slots is not None and text.slots.shape[1] != pictures:
    raise ValueError(
      f"text.slots has {text.slots.shape[1]} columns for {pictures} pictures a"
      " sample; give each picture its column."
    )
  batch = visual.shape[0]
  before = blocks.embed(params, jnp.asarray(prefix, jnp.int32))
  before = jnp.broadcast_to(before[None], (batch, *before.shape))
  parts = [before, visual, blocks.embed(params, text.tokens)]
  hidden = jnp.concatenate([p.astype(visual.dtype) for p in parts], axis=1)
  return Sequence(hidden, state, text, len(prefix))


def text_rank(text: Text) -> Int[Array, "B T"]:
  """Number of real tokens in front of each token, `[B, T]`."""
  mask = text.mask.astype(jnp.int32)
  return jnp.cumsum(mask, axis=1) - mask


def prompt_mask(text: Text) -> Bool[Array, "B T"]:
  """True on the real tokens of the prompt."""
  return text.mask & (text_rank(text) < prompt_length(text)[:, None])


def prompt_length(text: Text) -> Int[Array, "B"]:
  """The prompt's length; ValueError where the caller has not said it."""
  if text.prompt_length is None:
    raise ValueError(
      "text.prompt_length is None, but an operator reads the prompt's"
      " attention; give the number of prompt tokens of each sample."
    )
  return text.prompt_length


def positions(
  cfg: config_lib.DecoderConfig, seq: Sequence
) -> Int[Array, "B N *axes"]:
  """Rotary positions of all rows.

  Those of the unreduced sequence, unless an operator renumbers what is left.
  `[B, N]`; `[B, N, 3]`, time, row and column, where the decoder turns by them.
  """
  state, extent = seq.state, _extent(cfg, seq)
  start = _start(seq, extent)
  rank = _rank_now(state) if state.renumbered else state.rank
  if cfg.rope_axes and not state.renumbered:
    rows, columns = jnp.divmod(state.tokens.position, state.grid[1])
    inside = [jnp.zeros_like(rows), rows, columns]
  else:
    inside = [rank] * (3 if cfg.rope_axes else 1)
  offsets = seq.text.offsets
  offsets = text_rank(seq.text) if offsets is None else offsets
  after = seq.prefix + offsets + _pictures_before(seq, extent)
  before = jnp.arange(seq.prefix)[None]
  before = jnp.broadcast_to(before, (after.shape[0], seq.prefix))
  axes = [
    jnp.concatenate([before, start + place, after], axis=1) for place in inside
  ]
  return jnp.stack(axes, axis=-1) if cfg.rope_axes else axes[0]


def next_position(
  cfg: config_lib.DecoderConfig, seq: Sequence
) -> Int[Array, "B"]:
  """Rotary position of the token after the sequence, on all axes."""
  length = jnp.sum(seq.text.mask, axis=1)
  return seq.prefix + length + jnp.sum(_extent(cfg, seq), axis=1)


def order(seq: Sequence) -> Int[Array, "B N"]:
  """Place of each real row in the causal order; padding's means nothing."""
  state, text = seq.state, seq.text
  count = jnp.broadcast_to(state.count, (text.mask.shape[0], state.pictures))
  visual = _start(seq, count) + _rank_now(state)
  after = seq.prefix + text_rank(text) + _pictures_before(seq, count)
  before = jnp.arange(seq.prefix)[None]
  before = jnp.broadcast_to(before, (after.shape[0], seq.prefix))
  return jnp.concatenate([before, visual, after], axis=1)


def in_storage_order(seq: Sequence) -> bool:
  """Whether real rows are stored in their causal order, whatever the batch."""
  return seq.text.slots is None


def key_bias(seq: Sequence) -> Float[Array, "B N"]:
  """Additive bias on every key: masses, sizes, padding."""
  text = jnp.where(seq.text.mask, 0.0, layers.MASKED)
  before = jnp.zeros((text.shape[0], seq.prefix))
  visual = seq.state.key_bias
  return jnp.concatenate([before, visual, text], axis=1)


def present(seq: Sequence) -> Bool[Array, "B N"]:
  """True on the rows that are no padding."""
  before = jnp.ones((seq.text.mask.shape[0], seq.prefix), bool)
  visual = types.present(seq.state.tokens.log_mass)
  return jnp.concatenate([before, visual, seq.text.mask], axis=1)


def groups(seq: Sequence) -> Int[Array, "B N"] | None:
  """Number of each row's question, 0 = seen by all; None = one question."""
  if seq.text.segments is None:
    return None
  shared = (seq.text.mask.shape[0], seq.text_start)
  return jnp.concatenate(
    [jnp.zeros(shared, jnp.int32), seq.text.segments], axis=1
  )


def in_prompt(seq: Sequence) -> Bool[Array, "B N"]:
  """True on the rows of the prompt: its text and the pictures inside it."""
  state, batch = seq.state, seq.text.mask.shape[0]
  length = prompt_length(seq.text)
  inside = _text_before(seq) <= length[:, None]
  visual = types.present(state.tokens.log_mass) & _of_picture(inside, state)
  before = jnp.ones((batch, seq.prefix), bool)
  return jnp.concatenate([before, visual, prompt_mask(seq.text)], axis=1)


def last_prompt_row(seq: Sequence) -> Int[Array, "B"]:
  """Storage row of the last row of the prompt.

  The last prompt token, or the last visual one where no text follows it.
  """
  return jnp.argmax(jnp.where(in_prompt(seq), order(seq), -1), axis=1)


def _extent(cfg, seq):
  """Rotary positions that each picture takes, [B, I]."""
  state = seq.state
  if state.renumbered:
    there = types.present(state.tokens.log_mass).astype(jnp.int32)
    return jnp.sum(there.reshape(-1, state.pictures, state.block), axis=-1)
  # On axes of its own a picture is as long as its longer side (M-RoPE).
  return state.extent if cfg.rope_axes else state.count


def _text_before(seq):
  """Real text tokens in front of each picture, [B, I]."""
  text = seq.text
  if text.slots is None:
    return jnp.zeros((text.mask.shape[0], seq.state.pictures), jnp.int32)
  columns = jnp.arange(text.mask.shape[1])[None, None]
  earlier = text.mask[:, None] & (columns < text.slots[..., None])
  return jnp.sum(earlier, axis=-1)


def _start(seq, extent):
  """Place of the first token of each visual row's picture, [B, V].

  `extent` [B, I] says how many places each picture takes.
  """
  ahead = jnp.cumsum(extent, axis=1) - extent
  start = seq.prefix + _text_before(seq) + ahead
  return _of_picture(start, seq.state)


def _of_picture(values, state):
  """Spreads values [B, I] of pictures over their visual rows, [B, V]."""
  return jnp.repeat(values, state.block, axis=1)


def _pictures_before(seq, extent):
  """Places taken by the pictures in front of each text column, [B, T]."""
  text = seq.text
  if text.slots is None:
    total = jnp.sum(extent, axis=1, keepdims=True)
    return jnp.broadcast_to(total, text.mask.shape)
  columns = jnp.arange(text.mask.shape[1])[None, :, None]
  ahead = text.slots[:, None] <= columns
  return jnp.sum(jnp.where(ahead, extent[:, None], 0), axis=-1)


def _rank_now(state):
  """Number of present rows of the same picture in front of each row, [B, V]."""
  there = types.present(state.tokens.log_mass).astype(jnp.int32)
  there = there.reshape(-1, state.pictures, state.block)
  rank = jnp.cumsum(there, axis=-1) - there
  return rank.reshape(state.rank.shape)
