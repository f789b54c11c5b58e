"""Applying token-reduction operators to a batch inside the model.

A reduction is `None` (dense), an `ops.ReductionPlan` (tokens are really
dropped; shapes are static and taken from the plan) or a `SoftReduction` (every
shape stays V; masses say how much of a token is left).
"""

import dataclasses

import jax
import jax.numpy as jnp

from eos_jax import ops
from eos_jax.array_typing import Array, Float, Int
from eos_jax.ops import needs


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
  """

  params: ops.OperatorParams
  temperature: Float[Array, ""]
  keep: Float[Array, "S"] | None
  sites: tuple[str, ...] = dataclasses.field(metadata={"static": True})
  spec: ops.OperatorSpec = dataclasses.field(metadata={"static": True})
  hard: bool = dataclasses.field(default=False, metadata={"static": True})


# What sites can let an operator read; see `ops.Signals`.
_EVERYWHERE = frozenset({"class_row", "grid", "keys", "noise"})
_DECODER = frozenset(
  {"last_row", "received", "text", "text_rows", "vision_keys"}
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
  """What travels with the visual tokens of a batch, apart from their features.

  Attributes:
    log_mass: `[B, V]` log of the share of a token that is left.
    size: `[B, V]` number of original tokens that a token stands for.
    bias: `[B, V]` additive attention bias on the token as a key.
    position: `[B, V]` index in the original raster; -1 for the class token.
    image: `[B, V]` which picture of the sample the token belongs to.
    class_row: `[B, V]` attention of the class token in the last vision layer.
    vision_keys: `[B, V, d]` keys of that layer, mean over heads.
    noise: `[B, V]` uniform numbers for the score "random".
    grid: rows and columns of the original raster.
    renumbered: whether rotary positions count what is left, 0, 1, 2, ...,
      instead of being those of the raster.
  """

  log_mass: Float[Array, "B V"]
  size: Float[Array, "B V"]
  bias: Float[Array, "B V"]
  position: Int[Array, "B V"]
  image: Int[Array, "B V"]
  class_row: Float[Array, "B V"] | None
  vision_keys: Float[Array, "B V d"] | None
  noise: Float[Array, "B V"] | None
  grid: tuple[int, int] = dataclasses.field(metadata={"static": True})
  renumbered: bool = dataclasses.field(default=False, metadata={"static": True})


def initial_state(
  batch: int, tokens: int, grid: tuple[int, int], key: Array | None
) -> VisualState:
  """State of untouched tokens; `key` draws the noise of the score "random"."""
  shape = (batch, tokens)
  return VisualState(
    log_mass=jnp.zeros(shape, jnp.float32),
    size=jnp.ones(shape, jnp.float32),
    bias=jnp.zeros(shape, jnp.float32),
    position=jnp.broadcast_to(jnp.arange(tokens), shape),
    image=jnp.zeros(shape, jnp.int32),
    class_row=None,
    vision_keys=None,
    noise=None if key is None else jax.random.uniform(key, shape),
    grid=grid,
  )


def select_tokens(state: VisualState, index: Int[Array, "B K"]) -> VisualState:
  """Gathers rows of every field."""

  def take(field):
    wide = index.reshape(index.shape + (1,) * (field.ndim - 2))
    return jnp.take_along_axis(field, wide, axis=1)

  return jax.tree.map(take, state)


def spec_at(reduction: Reduction, site: str) -> ops.OperatorSpec | None:
  """The operator that acts at a site, or None."""
  if isinstance(reduction, SoftReduction):
    return reduction.spec if site in reduction.sites else None
  planned = None if reduction is None else reduction.at(site)
  return None if planned is None else planned.spec


def check_sites(reduction: Reduction, known: tuple[str, ...]) -> None:
  """Refuses a reduction with sites that the model does not have."""
  if reduction is None:
    return
  if isinstance(reduction, SoftReduction):
    names = reduction.sites
  else:
    names = tuple(planned.site for planned in reduction.sites)
  unknown = [name for name in names if name not in known]
  if unknown:
    raise ValueError(
      f"reduction has unknown sites {unknown}; this model has {list(known)}."
    )


def reduce_at(
  reduction: Reduction,
  site: str,
  x: Float[Array, "B V D"],
  state: VisualState,
  signals: ops.Signals,
) -> tuple[Float[Array, "B K D"], VisualState, ops.Reduced]:
  """Applies the operator of a site to a batch.

  Args:
    reduction: a plan or a soft reduction that names `site`.
    site: name of the site.
    x: features of the visual tokens.
    state: what travels with them.
    signals: batched signals; what the state carries is filled in here.

  Returns:
    The features, the state, and the operator's full result (batched).
  """
  class_row = signals.class_row
  signals = dataclasses.replace(
    signals,
    class_row=state.class_row if class_row is None else class_row,
    vision_keys=state.vision_keys,
    noise=state.noise,
    grid=state.grid,
  )
  tokens = ops.TokenSet(
    x=x,
    log_mass=state.log_mass,
    size=state.size,
    bias=state.bias,
    position=state.position,
    image=state.image,
  )
  operator = _operator(reduction, site)
  reduced = jax.vmap(operator)(tokens, signals)
  if isinstance(reduction, ops.ReductionPlan):
    state = select_tokens(state, reduced.index)
  state = dataclasses.replace(
    state,
    log_mass=reduced.tokens.log_mass,
    size=reduced.tokens.size,
    bias=reduced.tokens.bias,
    position=reduced.tokens.position,
    image=reduced.tokens.image,
    renumbered=(
      state.renumbered or spec_at(reduction, site).positions == "renumbered"
    ),
  )
  return reduced.tokens.x, state, reduced


def _operator(reduction, site):
  """Returns `f(tokens, signals) -> Reduced` for one sample at a site."""
  # Row 0 of the encoder is the class token: always kept, never counted.
  protect = 1 if site.startswith("vision.") else 0
  if isinstance(reduction, SoftReduction):
    index = reduction.sites.index(site)
    params = jax.tree.map(lambda leaf: leaf[index], reduction.params)
    spec = reduction.spec.replace(protect=protect)
    return lambda tokens, signals: _soft(
      reduction, spec, params, index, tokens, signals
    )
  planned = reduction.at(site)
  spec = planned.spec.replace(protect=protect)
  return lambda tokens, signals: ops.reduce_hard(
    tokens, signals, spec.params(), spec=spec, keep=planned.keep + protect
  )


def _soft(reduction, spec, params, index, tokens, signals):
  if reduction.keep is None:
    total = jnp.sum(jnp.exp(tokens.log_mass)) - spec.protect
    keep = ops.keep_count(total, params.activation, params.retention)
  else:
    keep = reduction.keep[index]
  keep = keep + spec.protect
  if reduction.hard:
    return ops.reduce_masked(tokens, signals, params, spec=spec, keep=keep)
  return ops.reduce_soft(
    tokens,
    signals,
    params,
    spec=spec,
    keep=keep,
    temperature=reduction.temperature,
  )
