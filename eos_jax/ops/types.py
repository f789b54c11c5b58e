"""The records that pass between the stages of a reduction.

`TokenSet`, `Signals`, `OperatorParams` and `Reduced` are pytrees of arrays;
`OperatorSpec` is static (frozen and hashable). Shapes are those of one example
at one site; callers `jax.vmap` over the batch.
"""

from collections.abc import Callable
import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from eos_jax.array_typing import Array, Bool, Float, Int, Num

# Log-mass of a token that is not there (padding, or removed by a hard
# decision). Finite, so that differences and products stay finite too.
LOG_ZERO = -1e9
# Smallest temperature of the assignment: below it the gradient, which grows
# as 1 / tau, only carries rounding noise.
TAU_FLOOR = 1e-3
# A threshold that every affinity passes, also through the soft gate.
THETA_OFF = -100.0

_WEIGHTS = ("one", "size", "score", "raw")
# Fields of `OperatorSpec` that are neither names of kernels nor numbers.
CHOICES = {
  "affinity": ("x", "keys", "states", "vision_keys"),
  "sources": ("removed", "all"),
  "alpha": _WEIGHTS,
  "beta": _WEIGHTS,
  "chi": (0, 1),
  "zeta": (0, 1),
  "receivers": ("kept", "second"),
  "sizes": ("add", "similarity", "keep"),
  "fused": (0, 1),
  "order": ("raster", "score"),
  "order_second": ("merged", "raster", "score"),
  "positions": ("original", "renumbered"),
}
# The numbers of `OperatorParams` that are scalars, each with its lowest and its
# highest value; tau is above its lowest. `pi` and `omega` are mixtures.
NUMBERS = {
  "activation": (0.0, 1.0),
  "retention": (0.0, 1.0),
  "kappa": (0.0, 1.0),
  "gamma": (0.0, 1.0),
  "tau": (0.0, math.inf),
  "theta": (-math.inf, math.inf),
  "rho": (0.0, math.inf),
  "rho_attn": (0.0, math.inf),
  "eta": (0.0, math.inf),
  "delta": (0.0, 1.0),
}


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TokenSet:
  """The visual tokens of one example at one site.

  Attributes:
    x: [V, D] features, any float dtype; None where a model keeps them in its
      hidden states.
    log_mass: [V] float32, log of the share in [0, 1] to which a token is still
      there; 0 for a present token, `LOG_ZERO` for padding.
    size: [V] float32, how many original tokens a token stands for (>= 1).
    bias: [V] float32, added to the attention logits of a token's key.
    position: [V] int32, index in the original raster of the token's image.
      It says where a token comes from and survives every reduction; whether
      a model renumbers its rotary positions is `OperatorSpec.positions`.
    image: [V] int32, which image of the example a token belongs to.
  """

  x: Array | None
  log_mass: Array
  size: Array
  bias: Array
  position: Array
  image: Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Signals:
  """What an operator can read at a site, other than tokens; `None` is absent.

  Attributes:
    keys: [V, d] keys of the tokens in the layer of the site, averaged over
      heads.
    vision_keys: [V, d] keys in the encoder layer that the tokens come from.
    last_row: [V] attention of the last prompt row to the visual keys, with the
      projections of the layer that follows the site, averaged over heads.
    last_row_previous: [V] the same row in the layer before the site (FastV).
    text_rows: [V] mean over the text rows of the attention to visual keys.
    class_row: [V] attention of the vision encoder's class token.
    rater_rows: [V] mean attention of the text raters (`signals.text_raters`),
      in the layer before the site (SparseVLM).
    received: [V] attention that a token receives on average from all rows.
    text: [T, D] text embeddings in the space of the tokens.
    text_mask: [T] bool, True where a text token is real.
    states: [V, D] tokens after the model's final norm (DART).
    pivots: [P, D] such states of pivot tokens, in the order of their visits.
    guide: [V] class scores of the thumbnail at the place of each token of a
      crop, 0 on the thumbnail itself (GlobalCom2).
    learned: [V] output of a trained scorer.
    self_sums: [V] attention that a cache entry receives from rows of its own
      modality (CSP).
    cross_sums: [V] the same from rows of the other modality.
    noise: [V] uniform numbers, drawn by the caller.
    extent: [2] rows and columns of the image, which lies in the upper left
      corner of the raster; None = it fills the raster.
    grid: static (rows, columns) of the original raster of an image.
    images: static number of images that the tokens come from.
  """

  keys: Any = None
  vision_keys: Any = None
  last_row: Any = None
  last_row_previous: Any = None
  text_rows: Any = None
  class_row: Any = None
  rater_rows: Any = None
  received: Any = None
  text: Any = None
  text_mask: Any = None
  states: Any = None
  pivots: Any = None
  guide: Any = None
  learned: Any = None
  self_sums: Any = None
  cross_sums: Any = None
  noise: Any = None
  extent: Any = None
  grid: tuple[int, int] | None = dataclasses.field(
    default=None, metadata=dict(static=True)
  )
  images: int = dataclasses.field(default=1, metadata=dict(static=True))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class OperatorParams:
  """The numbers of one operator, float32; searches stack them to [S, ...].

  Attributes:
    activation: [] `a`, 0 is the identity, 1 acts.
    retention: [] `r`, share of the present tokens that stays.
    pi: [F] weights of the score functions, on the simplex.
    kappa: [] share of the budget given by importance, the rest by diversity.
    gamma: [] transfer from removed tokens: 0 prunes, 1 merges.
    tau: [] temperature of the assignment, floored at `TAU_FLOOR`.
    theta: [] affinity under which nothing moves.
    rho: [] reweighting of features by the score.
    rho_attn: [] reweighting of attention by the log of the score weight.
    eta: [] normalisation: 1 is the weighted mean, 0 the plain sum.
    delta: [] share of log size added to the attention bias.
    omega: [2] weights of feature cosine and spatial proximity.
  """

  activation: Array
  retention: Array
  pi: Array
  kappa: Array
  gamma: Array
  tau: Array
  theta: Array
  rho: Array
  rho_attn: Array
  eta: Array
  delta: Array
  omega: Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Reduced:
  """The result of a reduction; K stands for V in the soft and masked forms.

  Attributes:
    tokens: `TokenSet` of K rows. Rows that stand for nothing have
      `log_mass = LOG_ZERO`.
    index: [K] int32, the input row that an output row stands for (of a pooled
      cell: its representative member).
    assignment: [V, K] float32, `W`: the share of each input row's information
      that the operator sends to each output row.
    scores: [V] float32, the standardised score of each input row.
  """

  tokens: TokenSet
  index: Array
  assignment: Array
  scores: Array


@dataclasses.dataclass(frozen=True)
class OperatorSpec:
  """An operator as data: a choice at each of the five stages, and its numbers.

  Where a published operator acts, and where it comes from, is in the record of
  its preset (`presets.Preset`).

  Attributes:
    name: short name, unique among presets.
    scores: names of score functions (`eos_jax.ops.score.SCORES`).
    select: name of a selection kernel (`eos_jax.ops.select.KERNELS`).
    diversity: name of the kernel that spends the second share of the budget
      (`eos_jax.ops.second.KERNELS`), or "none".
    assign: name of an assignment kernel (`eos_jax.ops.assign.KERNELS`).
    affinity: what feature cosines are taken of: "x" or, of the signals,
      "keys", "states" or "vision_keys".
    sources: "removed" (what leaves a row moves) or "all".
    receivers: "kept" (every kept token may receive) or "second" (only those
      of the second share).
    neighbours: sources that a receiver takes where it chooses them (`gather`).
    recycle: share q of the u removed tokens whose information moves, the
      int(q u) + 1 best by score; 1 is all of them, 0 none.
    alpha: weight of a source: "one", "size", "score" (sigmoid of the
      standardised score) or "raw" (the mixture before it is standardised).
    beta: weight of a receiver, same choices.
    chi: 1 keeps the receiver's own feature, 0 leaves it out.
    zeta: 0 adds the sum of the sources, 1 their mean.
    sizes: what receivers add to their size: "add" the sizes that arrive,
      "similarity" the same times the affinity, "keep" nothing.
    fused: 1 appends a row without a token of its own that takes what is
      removed; it counts in the budget.
    stride: of kernels that act on fixed steps: tokens of a group of
      `bipartite` (0: the published alternation), side of a block of `blocks`.
    order: rows of the first share: "raster", or "score" (the best first).
    order_second: rows of the second share: "merged" with the first, or after
      them in "raster" order or by their "score".
    positions: "original" or "renumbered": rotary positions after a hard
      reduction; read by the model.
    protect: leading tokens that are always kept and take no part in the
      assignment (class and distillation tokens).
    activation, retention, pi, kappa, gamma, tau, theta, rho, rho_attn, eta,
      delta, omega: default numbers, see `OperatorParams`.
  """

  name: str
  scores: tuple[str, ...] = ()
  select: str = "top_k"
  diversity: str = "none"
  assign: str = "none"
  affinity: str = "x"
  sources: str = "removed"
  receivers: str = "kept"
  neighbours: int = 0
  recycle: float = 1.0
  alpha: str = "size"
  beta: str = "size"
  chi: int = 1
  zeta: int = 0
  sizes: str = "add"
  fused: int = 0
  stride: int = 0
  order: str = "raster"
  order_second: str = "merged"
  positions: str = "original"
  protect: int = 0
  activation: float = 1.0
  retention: float = 1.0
  pi: tuple[float, ...] = ()
  kappa: float = 1.0
  gamma: float = 0.0
  tau: float = TAU_FLOOR
  theta: float = THETA_OFF
  rho: float = 0.0
  rho_attn: float = 0.0
  eta: float = 1.0
  delta: float = 0.0
  omega: tuple[float, ...] = (1.0, 0.0)

  def __post_init__(self):
    faults = []
    for field in dataclasses.fields(self):
      try:
        value = _plain(getattr(self, field.name), str(field.type))
        object.__setattr__(self, field.name, value)
      except TypeError as error:
        faults.append(f"{field.name} {error}")
    faults = faults or _faults(self)
    if faults:
      raise ValueError(
        f"OperatorSpec {self.name!r} is not valid: " + "; ".join(faults)
      )

  def replace(self, **changes: Any) -> "OperatorSpec":
    """A copy with some fields changed (and checked again)."""
    return dataclasses.replace(self, **changes)

  def params(self) -> OperatorParams:
    """The default numbers as float32 arrays."""
    numbers = {n: jnp.float32(getattr(self, n)) for n in NUMBERS}
    return OperatorParams(
      pi=jnp.asarray(self.pi, jnp.float32),
      omega=jnp.asarray(self.omega, jnp.float32),
      **numbers,
    )


# The values of fields that a spec does not name.
DEFAULTS = {
  field.name: field.default for field in dataclasses.fields(OperatorSpec)
}


def _plain(value: Any, kind: str) -> Any:
  """A value of a spec as plain Python, so that specs are hashable.

  Arrays of one number become numbers, lists become tuples, and integers floats
  where a field has these.

  Raises:
    TypeError: in words, what the value is instead.
  """
  kind = kind.removeprefix("<class '").removesuffix("'>")
  if kind.startswith("tuple"):
    if isinstance(value, (str, bytes)) or not hasattr(value, "__iter__"):
      raise TypeError(f"is {value!r}, use a tuple")
    if isinstance(value, jax.core.Tracer):
      raise TypeError(_TRACED)
    item = kind.removeprefix("tuple[").removesuffix(", ...]")
    return tuple(_plain(entry, item) for entry in value)
  if isinstance(value, jax.core.Tracer):
    raise TypeError(_TRACED)
  if isinstance(value, (np.generic, np.ndarray, jax.Array)):
    if value.ndim:
      raise TypeError(f"has shape {value.shape}, use one {kind}")
    value = value.item()
  allowed = {"str": str, "int": int, "float": (int, float)}[kind]
  if isinstance(value, bool) or not isinstance(value, allowed):
    raise TypeError(f"is {value!r}, use {_ARTICLE[kind]}")
  return float(value) if kind == "float" and _finite(value) else value


_ARTICLE = {"str": "a string", "int": "an integer", "float": "a number"}
_TRACED = (
  "is traced, but a spec is static: give traced numbers as OperatorParams"
)


def _finite(value: float) -> bool:
  """Whether a number is finite in float32."""
  return abs(value) <= float(np.finfo(np.float32).max)


def _faults(spec: OperatorSpec) -> list[str]:
  """Everything that is wrong with the fields of a spec, in words."""
  faults = []
  for field, allowed in CHOICES.items():
    value = getattr(spec, field)
    if value not in allowed:
      faults.append(f"{field} is {value!r}, use one of {allowed}")
  if len(spec.pi) != len(spec.scores):
    faults.append(
      f"pi has {len(spec.pi)} weights for {len(spec.scores)} scores"
    )
  if len(spec.omega) != 2:
    faults.append(f"omega has {len(spec.omega)} weights, it needs 2")
  numbers = [(n, getattr(spec, n)) for n in NUMBERS]
  numbers += [("pi", p) for p in spec.pi] + [("omega", w) for w in spec.omega]
  for field, value in numbers:
    if not _finite(value):
      number = value if isinstance(value, float) else "too large"
      faults.append(f"{field} is {number}, use a finite number")
      continue
    low, high = NUMBERS.get(field, (0.0, math.inf))
    if high == 1 and not low <= value <= high:
      faults.append(f"{field} is {value}, use a number in [0, 1]")
    elif field != "tau" and value < low:
      faults.append(f"{field} is {value}, use a number >= 0")
  if faults:
    return faults
  if spec.scores and abs(sum(spec.pi) - 1) > 1e-3:
    faults.append(f"pi sums to {sum(spec.pi)}, make it 1")
  if not spec.tau > 0:
    faults.append(f"tau is {spec.tau}, use a number > 0")
  for field in ("protect", "neighbours", "stride"):
    if getattr(spec, field) < 0:
      faults.append(f"{field} is {getattr(spec, field)}, use a count >= 0")
  if spec.assign == "gather" and spec.neighbours < 1:
    faults.append("assign is 'gather', set neighbours to a count >= 1")
  if not 0 <= spec.recycle <= 1:
    faults.append(f"recycle is {spec.recycle}, use a number in [0, 1]")
  return faults


@dataclasses.dataclass(frozen=True)
class Kernel:
  """An entry of a registry: a function of one stage, and what it reads.

  Attributes:
    run: the function; each registry states its signature.
    signals: `Signals` fields that it reads.
    cosine: whether it reads the cosine of every pair of tokens.
    discrete: whether it decides about sets of tokens, so that no relaxation of
      a score reaches it: operators with such a kernel take their hard decision
      in the soft form too.
    centred: whether the rows that it picks keep a token of their own; others
      hold the mean of a cluster.
    pooled: whether row k of the result is no longer row k of the input where
      the number of rows stays.
    one_image: whether it counts off or groups the tokens of one image, so that
      several images in one token set are refused.
    one_count: whether it needs one count for all images.
  """

  run: Callable[..., Any]
  signals: tuple[str, ...] = ()
  cosine: bool = False
  discrete: bool = False
  centred: bool = True
  pooled: bool = False
  one_image: bool = False
  one_count: bool = False


def working_dtype(dtype: Any) -> Any:
  """The dtype of score and softmax arithmetic on arrays of a dtype.

  float32 whatever the dtype of the model; float64 stays, for tests. (Strict
  dtype promotion has no common dtype for the two.)
  """
  return jnp.float64 if dtype == jnp.float64 else jnp.float32


def working(x: Num[Array, "..."]) -> Float[Array, "..."]:
  """`x` in `working_dtype`."""
  return x.astype(working_dtype(x.dtype))


def product(a: Float[Array, "..."], b: Float[Array, "..."]) -> Array:
  """Matrix product in full float32 precision on every backend.

  Accelerators multiply float32 in bfloat16 or TF32 by default, too coarse to
  rank tokens by.
  """
  return jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)


def present(log_mass: Float[Array, "*V"]) -> Bool[Array, "*V"]:
  """True where a token has any mass."""
  return log_mass > LOG_ZERO / 2


def token_set(
  x: Float[Array, "V D"],
  *,
  valid: Bool[Array, "V"] | None = None,
  position: Int[Array, "V"] | None = None,
  image: Int[Array, "V"] | None = None,
  protect: int = 0,
) -> TokenSet:
  """A fresh `TokenSet`: mass 1, size 1, no bias.

  Args:
    x: [V, D] features.
    valid: [V] bool, False for padding; all True when left out.
    position: [V] raster index; when left out, 0, 1, ... from the first token
      on that is not protected.
    image: [V] image of each token, 0 when left out.
    protect: leading rows that are class and distillation tokens, which lie
      outside the raster.

  Returns:
    The tokens; padding has `log_mass = LOG_ZERO`.

  >>> import jax.numpy as jnp
  >>> tokens = token_set(jnp.ones((3, 2)), valid=jnp.array([True, True, False]))
  >>> jnp.exp(tokens.log_mass).tolist()
  [1.0, 1.0, 0.0]
  """
  count = x.shape[0]
  dtype = working_dtype(x.dtype)
  if position is None:
    position = jnp.arange(count, dtype=jnp.int32) - protect
  if image is None:
    image = jnp.zeros(count, jnp.int32)
  log_mass = jnp.zeros(count, dtype)
  if valid is not None:
    log_mass = jnp.where(valid, log_mass, jnp.asarray(LOG_ZERO, dtype))
  return TokenSet(
    x=x,
    log_mass=log_mass,
    size=jnp.ones(count, dtype),
    bias=jnp.zeros(count, dtype),
    position=position.astype(jnp.int32),
    image=image.astype(jnp.int32),
  )
