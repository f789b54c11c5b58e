"""Applying token-reduction operators to a batch inside the model.

A reduction is `None` (dense), an `ops.ReductionPlan` (tokens are really
dropped; shapes are static and taken from the plan) or a `SoftReduction` (every
shape stays V; masses say how much of a token is left).
"""

from collections.abc import Callable
import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from eos_jax import ops
from eos_jax.array_typing import Array, Bool, Float, Int, Shaped
from eos_jax.models import config as config_lib
from eos_jax.ops import needs, types

# How a soft reduction stands for the hard one -> whether it draws noise.
RELAXATIONS = {
  "annealed": False,  # the soft top-k alone, sharper as T falls
  "straight_through": False,  # the hard decision, with the soft one's gradients
  "concrete": True,  # logistic noise on the scores
  "noise_gate": True,  # what is removed turns to noise, but stays visible
}


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class SoftReduction:
  """Relaxed operators at a fixed list of sites, all arrays of static shape.

  Attributes:
    params: operator numbers, each leaf with a leading site axis `[S, ...]`.
    temperature: temperature of the soft top-k, a scalar; unused if `hard`.
    keep: `[S]` tokens to keep at each site, or None: follows from `params`.
    sites: names of the sites, in the order of the model.
    spec: the discrete choices, shared by all sites.
    hard: decide exactly (T -> 0) while shapes stay static.
    relaxation: how the soft form stands for the hard one, of `RELAXATIONS`.
    key: draws the noise of the relaxations that have some.
  """

  params: ops.OperatorParams
  temperature: Float[Array, ""]
  keep: Float[Array, "S"] | None
  sites: tuple[str, ...] = dataclasses.field(metadata={"static": True})
  spec: ops.OperatorSpec = dataclasses.field(metadata={"static": True})
  hard: bool = dataclasses.field(default=False, metadata={"static": True})
  relaxation: str = dataclasses.field(
    default="annealed", metadata={"static": True}
  )
  key: Array | None = None


# What sites can let an operator read; see `ops.Signals`.
_EVERYWHERE = frozenset({"class_row", "grid", "keys", "noise"})
_DECODER = frozenset(
  {
    "cross_sums",
    "guide",
    "last_row",
    "received",
    "self_sums",
    "states",
    "text",
    "text_rows",
    "vision_keys",
  }
)


def site_signals(site: str) -> frozenset[str]:
  """Names of the signals that a site of these models can compute."""
  kind, layer = ops.site_index(site)
  if kind == "vision":
    return _EVERYWHERE
  behind = layer > 0  # there is a layer before it
  return _EVERYWHERE | _DECODER | (needs.PREVIOUS if behind else frozenset())


Reduction = ops.ReductionPlan | SoftReduction | None


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class VisualState:
  """What travels with the visual tokens of a batch, except their features.

  The V rows are I blocks of equal size, one an image.

  Attributes:
    tokens: `[B, V]` masses, sizes, biases and positions of the tokens; `x` is
      None. The class token has position -1.
    signals: `[B, V, ...]` those of the encoder and of its output, and the
      noise of the score "random", each where the model has it.
    rank: `[B, V]` number of real tokens in front of it in its image, before
      any reduction.
    count: `[B, I]` real tokens of each image, before any reduction.
    extent: `[B, I]` the longer side of each image, in tokens.
    sides: `[B, I, 2]` rows and columns of each image, which lies in the
      upper left corner of the raster; None = all images fill it.
    grid: rows and columns of the original raster.
    pictures: I, images of a sample.
    protected: rows in front that are the class token: always kept, never
      counted.
    renumbered: whether rotary positions count what is left, 0, 1, 2, ...,
      instead of being those of the raster.
    weighted: whether masses or biases other than those of padding are there.
    gated: whether masses act on features instead of on attention.
  """

  tokens: ops.TokenSet
  signals: ops.Signals
  rank: Int[Array, "B V"]
  count: Int[Array, "B I"]
  extent: Int[Array, "B I"]
  sides: Int[Array, "B I 2"] | None
  grid: tuple[int, int] = dataclasses.field(metadata={"static": True})
  pictures: int = dataclasses.field(default=1, metadata={"static": True})
  protected: int = dataclasses.field(default=0, metadata={"static": True})
  renumbered: bool = dataclasses.field(default=False, metadata={"static": True})
  weighted: bool = dataclasses.field(default=False, metadata={"static": True})
  gated: bool = dataclasses.field(default=False, metadata={"static": True})

  @property
  def key_bias(self) -> Float[Array, "B V"]:
    """What attention adds to the logits of each token as a key."""
    mass = self.tokens.log_mass
    if self.gated:
      mass = jnp.where(types.present(mass), 0.0, mass)
    return mass + self.tokens.bias

  @property
  def block(self) -> int:
    """Rows of an image."""
    return self.rank.shape[1] // self.pictures

  def with_signals(self, **found: Array) -> "VisualState":
    """Returns the state with some of its signals replaced."""
    signals = dataclasses.replace(self.signals, **found)
    return dataclasses.replace(self, signals=signals)


def initial_state(
  valid: Bool[Array, "B V"],
  grid: tuple[int, int],
  key: Array | None,
  position: Int[Array, "B V"] | None = None,
  *,
  full: bool = False,
) -> VisualState:
  """State of untouched tokens, one picture a sample.

  Args:
    valid: False where a picture has no token.
    grid: rows and columns of its raster.
    key: draws the noise of the score "random"; `[B]`: one for each picture.
    position: where they lie in the raster; None = they fill it.
    full: whether it is known that all pictures fill the raster.
  """
  shape = valid.shape
  if position is None:
    position = jnp.broadcast_to(jnp.arange(shape[1])[None], shape)
  there = valid.astype(jnp.int32)
  rows, columns = jnp.divmod(position, grid[1])
  ends = jnp.where(valid[..., None], jnp.stack([rows, columns], -1) + 1, 0)
  sides = jnp.max(ends, axis=1, keepdims=True)
  tokens = ops.TokenSet(
    x=None,
    log_mass=jnp.where(valid, 0.0, ops.LOG_ZERO),
    size=jnp.ones(shape, jnp.float32),
    bias=jnp.zeros(shape, jnp.float32),
    position=position,
    image=jnp.zeros(shape, jnp.int32),
  )
  return VisualState(
    tokens=tokens,
    signals=ops.Signals(noise=None if key is None else _noise(key, shape)),
    rank=jnp.cumsum(there, axis=1) - there,
    count=jnp.sum(there, axis=1, keepdims=True),
    extent=jnp.max(sides, axis=-1),
    sides=None if full else sides,
    grid=grid,
  )


def _noise(key, shape):
  """Uniform numbers `[B, V]`, for each row by a key of its own."""
  rows, tokens = shape
  if key.ndim == 0:
    key = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, jnp.arange(rows))
  return jax.vmap(lambda one: jax.random.uniform(one, (tokens,)))(key)


def map_tokens(state: VisualState, change: Callable) -> VisualState:
  """Applies `change(field)` to every field with a row for each token."""
  rows = state.tokens, state.signals, state.rank
  tokens, signals, rank = jax.tree.map(change, rows)
  return dataclasses.replace(state, tokens=tokens, signals=signals, rank=rank)


def side_by_side(state: VisualState, pictures: int) -> VisualState:
  """Joins the states of B x I single pictures to those of B samples."""
  together = map_tokens(state, lambda field: join(field, pictures))
  return dataclasses.replace(
    together,
    count=state.count.reshape(-1, pictures),
    extent=state.extent.reshape(-1, pictures),
    sides=None if state.sides is None else state.sides.reshape(-1, pictures, 2),
    pictures=pictures,
  )


def join(
  rows: Shaped[Array, "BI K *D"], pictures: int
) -> Shaped[Array, "B IK *D"]:
  """Puts the rows of the I pictures of a sample one after the other."""
  samples, block, *rest = rows.shape
  return rows.reshape(samples // pictures, pictures * block, *rest)


def part(
  rows: Shaped[Array, "B IK *D"], pictures: int
) -> Shaped[Array, "B I K *D"]:
  """Separates the rows of the pictures of a sample."""
  batch, total, *rest = rows.shape
  return rows.reshape(batch, pictures, total // pictures, *rest)


def real_first(
  rows: Float[Array, "B V D"], state: VisualState
) -> tuple[Float[Array, "B V D"], VisualState]:
  """Puts the padding of single images after their real tokens.

  The rows of a picture, and the noise of its score "random", then do not depend
  on the static shape that it was padded to.
  """
  padding = ~types.present(state.tokens.log_mass)
  order = jnp.argsort(padding, axis=1, stable=True).astype(jnp.int32)
  rows = jnp.take_along_axis(rows, order[..., None], axis=1)
  state, noise = select_tokens(state, order), state.signals.noise
  return rows, state.with_signals(noise=noise)


def select_tokens(state: VisualState, index: Int[Array, "B K"]) -> VisualState:
  """Gathers rows of every field that has them."""

  def take(field):
    wide = index.reshape(index.shape + (1,) * (field.ndim - 2))
    return jnp.take_along_axis(field, wide, axis=1)

  return map_tokens(state, take)


def spec_at(reduction: Reduction, site: str) -> ops.OperatorSpec | None:
  """The operator that acts at a site, or None."""
  if isinstance(reduction, SoftReduction):
    return reduction.spec if site in reduction.sites else None
  planned = None if reduction is None else reduction.at(site)
  return None if planned is None else planned.spec


def differences(
  plan: ops.ReductionPlan, cfg: config_lib.VLMConfig
) -> list[tuple[str, Any, Any]]:
  """Returns field, value of the plan and of the model, where they differ."""
  both = (
    ("model", plan.model, cfg.name),
    ("tokens", plan.tokens, cfg.tokens),
    ("layers", plan.layers, cfg.decoder.layers),
  )
  return [each for each in both if each[1] != each[2]]


def check(reduction: Reduction, cfg: config_lib.VLMConfig) -> None:
  """Refuses a reduction that is not one of this model; all faults at once."""
  if reduction is None:
    return
  faults = []
  if isinstance(reduction, SoftReduction):
    names = reduction.sites
  else:
    names = tuple(planned.site for planned in reduction.sites)
    faults += [
      f"{what} is {theirs!r}, this model's is {ours!r}"
      for what, theirs, ours in differences(reduction, cfg)
    ]
  unknown = [name for name in names if name not in cfg.sites]
  if unknown:
    faults.append(f"unknown sites {unknown}; this model has {list(cfg.sites)}")
  if faults:
    name = getattr(reduction, "name", "soft")
    raise ValueError(
      f"reduction {name!r} is not one of model {cfg.name!r}: "
      + "; ".join(faults)
    )


def reduce_at(
  reduction: Reduction,
  site: str,
  x: Float[Array, "B V D"],
  state: VisualState,
  signals: ops.Signals,
) -> tuple[Float[Array, "B K D"], VisualState, ops.Reduced]:
  """Applies the operator of a site to each picture of a batch.

  Args:
    reduction: a plan or a soft reduction that names `site`.
    site: name of the site.
    x: features of the visual tokens.
    state: what travels with them.
    signals: batched signals, `[B, V, ...]` where they have a row for each
      visual token; what the state carries is filled in here.

  Returns:
    The features, the state, and the operator's full result (batched): rows
    point into the sample, `assignment` `[B, V, K / I]` to the rows of the
    token's own picture.
  """
  missing = {
    field.name: getattr(state.signals, field.name)
    for field in dataclasses.fields(signals)
    if getattr(signals, field.name) is None
  }
  signals = dataclasses.replace(
    signals, **missing | _raster(reduction, site, state)
  )
  tokens = dataclasses.replace(state.tokens, x=x)
  operator = _operator(reduction, site, state.protected)
  spec = spec_at(reduction, site)
  jitter, gate_key = _draws(reduction, site, state)
  if state.pictures == 1:
    reduced = jax.vmap(operator)(tokens, signals, jitter)
  else:
    reduced = _by_picture(operator, tokens, signals, jitter, state.pictures)
  if isinstance(reduction, ops.ReductionPlan) or needs.moves_rows(spec):
    state = select_tokens(state, reduced.index)
  if gate_key is not None:
    reduced = _gated(reduced, state, gate_key)
  state = dataclasses.replace(
    state,
    tokens=dataclasses.replace(
      reduced.tokens, x=None, image=state.tokens.image
    ),
    renumbered=state.renumbered or spec.positions == "renumbered",
    weighted=(
      state.weighted
      or not isinstance(reduction, ops.ReductionPlan)
      or spec.delta != 0
      or spec.rho_attn != 0
    ),
    gated=state.gated or gate_key is not None,
  )
  return reduced.tokens.x, state, reduced


def _raster(reduction, site, state):
  """Grid and extent, where places count; a plan may give them no weight."""
  spec = spec_at(reduction, site)
  known = isinstance(reduction, ops.ReductionPlan) and not spec.omega[1]
  if known and "grid" not in ops.required_signals(spec):
    return {"grid": None}
  if state.sides is None:
    return {"grid": state.grid}
  # A picture that is not there has no side; the least one stands for it.
  sides = jnp.maximum(state.sides, 1)
  return {"grid": state.grid, "extent": sides.reshape(len(sides), -1)}


def _draws(reduction, site, state):
  """Noise on the scores [B, V], and a key for noise on features, if any."""
  relaxation = getattr(reduction, "relaxation", "annealed")
  if relaxation not in RELAXATIONS:
    raise ValueError(
      f"relaxation is {relaxation!r}, use one of {', '.join(RELAXATIONS)}"
    )
  if not RELAXATIONS[relaxation] or reduction.hard:
    return None, None
  if reduction.key is None:
    raise ValueError(f"relaxation {relaxation!r} draws noise; give it a key")
  key = jax.random.fold_in(reduction.key, reduction.sites.index(site))
  if relaxation == "noise_gate":
    return None, key
  return ops.logistic_jitter(
    key, state.rank.shape, temperature=reduction.temperature
  ), None


def _gated(reduced, state, key):
  """A result whose features fade to noise where its masses fade."""
  tokens = reduced.tokens
  share = jnp.minimum(tokens.log_mass - state.tokens.log_mass, 0.0)
  x = ops.noise_gate(key, tokens.x, share)
  return dataclasses.replace(reduced, tokens=dataclasses.replace(tokens, x=x))


# Signals that all pictures of a sample share.
_SHARED = ("text", "text_mask")


def _by_picture(operator, tokens, signals, jitter, pictures):
  """Runs an operator on each picture; rows then point into the sample."""
  fields = {f.name for f in dataclasses.fields(signals)} - {"grid", "images"}
  apart = {
    name: value if name in _SHARED else part(value, pictures)
    for name in fields
    if (value := getattr(signals, name)) is not None
  }
  axes = {name: None if name in _SHARED else 0 for name in apart}
  grid = signals.grid

  def one(tokens, given, jitter):
    return operator(tokens, ops.Signals(**given, grid=grid), jitter)

  tokens, jitter = jax.tree.map(
    lambda rows: part(rows, pictures), (tokens, jitter)
  )
  each = jax.vmap(jax.vmap(one, in_axes=(0, axes, 0)))
  reduced = each(tokens, apart, jitter)
  block = tokens.x.shape[2]
  first = block * jnp.arange(pictures)[None, :, None]
  image = jnp.zeros_like(reduced.index) + first // block
  reduced = dataclasses.replace(
    reduced,
    index=jnp.where(reduced.index < 0, -1, reduced.index + first),
    tokens=dataclasses.replace(reduced.tokens, image=image),
  )
  return jax.tree.map(
    lambda rows: rows.reshape(rows.shape[0], -1, *rows.shape[3:]), reduced
  )


def _operator(reduction, site, protect):
  """Returns `f(tokens, signals, jitter) -> Reduced` for one sample."""
  if isinstance(reduction, SoftReduction):
    index = reduction.sites.index(site)
    params = jax.tree.map(lambda leaf: leaf[index], reduction.params)
    spec = reduction.spec.replace(protect=protect)
    return lambda tokens, signals, jitter: _soft(
      reduction, spec, params, index, tokens, signals, jitter
    )
  planned = reduction.at(site)
  spec = planned.spec.replace(protect=protect)
  return lambda tokens, signals, _: ops.reduce_hard(
    tokens, signals, spec.params(), spec=spec, keep=planned.keep + protect
  )


def _soft(reduction, spec, params, index, tokens, signals, jitter):
  if reduction.keep is None:
    total = jnp.sum(jnp.exp(tokens.log_mass)) - spec.protect
    keep = ops.keep_count(total, params.activation, params.retention)
  else:
    keep = reduction.keep[index]
  keep = keep + spec.protect
  if reduction.hard:
    return ops.reduce_masked(tokens, signals, params, spec=spec, keep=keep)
  soft = ops.reduce_soft(
    tokens,
    signals,
    params,
    spec=spec,
    keep=keep,
    temperature=reduction.temperature,
    jitter=jitter,
  )
  if reduction.relaxation != "straight_through":
    return soft
  whole = jnp.maximum(jnp.round(keep), spec.protect + 1.0)
  hard = ops.reduce_masked(tokens, signals, params, spec=spec, keep=whole)
  return ops.straight_through(soft, hard)
