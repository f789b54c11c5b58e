"""The operator: score, select, assign, combine, propagate.

One pipeline in three forms. Soft keeps all V rows and gives each a mass; masked
takes the hard decision but keeps V rows, so that counts can be traced; hard
returns K rows. All act on one example; callers `jax.vmap`.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from eos_jax.array_typing import Array, Counts, Float, Scalar
from eos_jax.ops import assign, combine, needs, propagate, score, select, types
from eos_jax.ops import site as site_lib

# Signals that have no row for each token.
_NOT_PER_TOKEN = ("grid", "pivots", "text")


def _reduce(
  tokens: types.TokenSet,
  signals: types.Signals,
  params: types.OperatorParams,
  spec: types.OperatorSpec,
  budget: site_lib.Budget,
  jitter: Float[Array, "V"] | None = None,
) -> types.Reduced:
  """The five stages."""
  needs.check_signals(spec, signals)
  given, tokens = tokens, _in_raster(tokens, signals, spec)
  tokens, signals = _without_padding(tokens, signals, spec)
  cosine = None
  if needs.uses_cosine(spec):
    x = tokens.x if spec.affinity == "x" else getattr(signals, spec.affinity)
    cosine = score.cosine_matrix(x)
  scores, raw = score.mixture(tokens, signals, params.pi, cosine, spec=spec)
  if jitter is not None:
    scores = scores + jitter
  site = site_lib.Site(tokens, signals, params, spec, scores, cosine, raw)
  selection = select.KERNELS[spec.select].run(site, budget)
  shares = assign.shares(site, selection, budget.temperature)
  y, size = combine.combine(site, selection, shares)
  there = types.present(selection.log_mass)
  index = selection.index
  if selection.gathered:
    index = jnp.where(there, index, -1)
  else:  # absent rows stay as they came, if attention can read past them
    absent = ~types.present(tokens.log_mass)
    finite = jnp.where(jnp.isfinite(given.x), given.x, 0)
    y = jnp.where(absent[:, None], finite, y)
  return types.Reduced(
    tokens=propagate.propagate(site, selection, y, size),
    index=index,
    assignment=shares * jnp.exp(selection.log_mass)[None, :],
    scores=scores,
  )


def _in_raster(tokens, signals, spec):
  """Tokens with raster positions that do not count the protected rows.

  A position beyond the raster says that they do: the default of `token_set`
  counts every row.
  """
  if signals.grid is None or not spec.protect:
    return tokens
  cells = signals.grid[0] * signals.grid[1]
  free = jnp.arange(tokens.position.shape[0]) >= spec.protect
  free &= types.present(tokens.log_mass)
  beyond = jnp.any(free & (tokens.position >= cells))
  position = tokens.position - jnp.where(beyond, spec.protect, 0)
  return dataclasses.replace(tokens, position=position)


def _without_padding(tokens, signals, spec):
  """The same with zeros where a token is absent, whatever padding holds.

  Sums weigh padding with 0, and 0 times NaN is NaN, in gradients too.
  """
  there = types.present(tokens.log_mass)

  def clean(rows, otherwise=0):
    inside = jnp.expand_dims(there, range(1, rows.ndim))
    return jnp.where(inside, rows, jnp.asarray(otherwise, rows.dtype))

  read = {
    name: clean(getattr(signals, name))
    for name in needs.required_signals(spec)
    if name not in _NOT_PER_TOKEN
  }
  tokens = dataclasses.replace(
    tokens,
    x=clean(tokens.x),
    size=clean(tokens.size, 1),
    bias=clean(tokens.bias),
  )
  return tokens, dataclasses.replace(signals, **read)


def reduce_soft(
  tokens: types.TokenSet,
  signals: types.Signals,
  params: types.OperatorParams,
  *,
  spec: types.OperatorSpec,
  keep: Counts,
  temperature: Scalar,
  jitter: Float[Array, "V"] | None = None,
) -> types.Reduced:
  """The relaxed operator: V rows, differentiable in everything it is given.

  As T -> 0, with masses in {0, 1} and an integer `keep`, it tends to
  `reduce_hard` scattered back to V rows. `activation = 0` with `keep` equal to
  the present mass (`keep_count` sees to it) is the identity.

  Args:
    tokens: V tokens.
    signals: what the operator reads.
    params: its numbers.
    spec: the operator.
    keep: [] mass that stays, usually from `keep_count`; [I] one for each
      image of the example.
    temperature: [] T > 0 of the selection and of the gate. Operators with
      discrete parts (`discrete_parts`) take their hard decision whatever it is,
      and `keep` gets no gradient from them.
    jitter: [V] added to the standardised scores before the selection. With
      `logistic_jitter` of the same temperature a mass is a binary Concrete
      variable (Maddison et al., arXiv 1611.00712).

  Returns:
    `Reduced` of V rows; downstream attention adds `log_mass + bias` to the
    logits of each visual key. Gradients reach features, masses, signals,
    numbers, `keep` and `temperature`; absent tokens get none.

  >>> import jax.numpy as jnp
  >>> from eos_jax.ops import presets, types
  >>> tokens = types.token_set(jnp.eye(4))
  >>> signals = types.Signals(noise=jnp.array([0.1, 0.9, 0.5, 0.3]))
  >>> spec = presets.RANDOM
  >>> out = reduce_soft(tokens, signals, spec.params(), spec=spec, keep=2.0,
  ...                   temperature=0.01)
  >>> jnp.exp(out.tokens.log_mass).round(2).tolist()
  [0.0, 1.0, 1.0, 0.0]
  """
  dtype = tokens.log_mass.dtype
  _check_inputs(tokens, signals, params, spec)
  keep = _count(keep, signals, spec)
  known = not isinstance(temperature, jax.core.Tracer)
  if known and not float(temperature) > 0:
    raise ValueError(
      f"temperature is {temperature}, use a number > 0; the hard decision is"
      " reduce_masked"
    )
  if needs.discrete_parts(spec):
    temperature = None
  else:
    temperature = jnp.asarray(temperature, dtype)
  budget = site_lib.Budget(
    count=jnp.asarray(keep, dtype), temperature=temperature
  )
  return _reduce(tokens, signals, params, spec, budget, jitter)


def reduce_masked(
  tokens: types.TokenSet,
  signals: types.Signals,
  params: types.OperatorParams,
  *,
  spec: types.OperatorSpec,
  keep: Counts,
) -> types.Reduced:
  """The hard decision at V rows: no new shape, so no new compilation.

  Args:
    tokens: V tokens.
    signals: what the operator reads.
    params: its numbers.
    spec: the operator.
    keep: [] number of tokens that stay, traced or not, integer-valued; at
      least the number of present tokens keeps them all. [I]: one for each
      image of the example.

  Returns:
    `Reduced` of V rows; removed rows have `log_mass = LOG_ZERO`. Gradients
    flow through the features and sizes of the kept rows, not through the
    decision. Pooled cells fill the first rows.

  >>> import jax.numpy as jnp
  >>> from eos_jax.ops import presets, types
  >>> tokens = types.token_set(jnp.eye(4))
  >>> signals = types.Signals(noise=jnp.array([0.1, 0.9, 0.5, 0.3]))
  >>> spec = presets.RANDOM
  >>> out = reduce_masked(tokens, signals, spec.params(), spec=spec, keep=2)
  >>> jnp.exp(out.tokens.log_mass).tolist()
  [0.0, 1.0, 1.0, 0.0]
  """
  _check_inputs(tokens, signals, params, spec)
  keep = _count(keep, signals, spec)
  budget = site_lib.Budget(count=jnp.asarray(keep, tokens.log_mass.dtype))
  return _reduce(tokens, signals, params, spec, budget)


def reduce_hard(
  tokens: types.TokenSet,
  signals: types.Signals,
  params: types.OperatorParams,
  *,
  spec: types.OperatorSpec,
  keep: Scalar,
  count: Counts | None = None,
) -> types.Reduced:
  """The operator that really drops tokens: K rows, K static.

  Args:
    tokens: V tokens.
    signals: what the operator reads.
    params: its numbers.
    spec: the operator.
    keep: K, a static integer, 1 <= K <= V, protected tokens included.
    count: how many of the K rows are used, traced or not: operators that find
      their number in the picture (`ops.count`) have a static greatest one and
      leave the rows after it empty. [I]: one for each image of the example.
      None is K. Traced ones that are negative or more than K in all cannot be
      refused: features are then NaN.

  Returns:
    `Reduced` of K rows, in the order that the spec says. Where fewer than K
    tokens are present or wanted the last rows are empty (`log_mass =
    LOG_ZERO`).

  Raises:
    ValueError: `keep` out of range, or a signal that the operator reads is
      None.

  >>> import jax.numpy as jnp
  >>> from eos_jax.ops import presets, types
  >>> tokens = types.token_set(jnp.eye(4))
  >>> signals = types.Signals(noise=jnp.array([0.1, 0.9, 0.5, 0.3]))
  >>> spec = presets.RANDOM
  >>> out = reduce_hard(tokens, signals, spec.params(), spec=spec, keep=2)
  >>> out.index.tolist()
  [1, 2]
  """
  _check_inputs(tokens, signals, params, spec)
  rows = tokens.x.shape[0]
  keep = _static_count(keep, rows, spec)
  if count is None:
    count = keep
  else:
    count = _count(count, signals, spec, rows=keep)
  count = jnp.asarray(count, tokens.log_mass.dtype)
  budget = site_lib.Budget(count=count, rows=keep)
  reduced = _reduce(tokens, signals, params, spec, budget)
  if not isinstance(count, jax.core.Tracer):
    return reduced
  fits = jnp.all(count >= 0) & (jnp.sum(count) <= keep)
  x = jnp.where(fits, reduced.tokens.x, jnp.nan)
  kept = dataclasses.replace(reduced.tokens, x=x)
  return dataclasses.replace(reduced, tokens=kept)


def _check_inputs(tokens, signals, params, spec):
  """Refuses what is wrong whatever the values are; shapes are static."""
  faults = []
  if tokens.x.ndim != 2:
    faults.append(
      f"tokens.x has shape {tokens.x.shape}, it needs [V, D] of one example:"
      " vmap over a batch"
    )
  if not jnp.issubdtype(tokens.x.dtype, jnp.floating):
    faults.append(
      f"tokens.x has dtype {tokens.x.dtype}, use a real floating one:"
      " x.astype(jnp.float32)"
    )
  rows = tokens.x.shape[0] if tokens.x.ndim else 0
  for name in ("log_mass", "size", "bias", "position", "image"):
    shape = getattr(tokens, name).shape
    if shape != (rows,):
      faults.append(f"tokens.{name} has shape {shape}, it needs ({rows},)")
  for name in needs.required_signals(spec):
    value = getattr(signals, name)
    if value is None or name == "grid":
      continue  # absent ones are named elsewhere
    if jnp.iscomplexobj(value):
      faults.append(f"signals.{name} is complex, use real numbers")
    if name in _NOT_PER_TOKEN:
      continue
    if value.ndim < 1 or value.shape[0] != rows:
      faults.append(
        f"signals.{name} has shape {value.shape}, it needs {rows} rows"
      )
  for name, length in (("pi", len(spec.scores)), ("omega", 2)):
    shape = getattr(params, name).shape
    if shape != (length,):
      faults.append(f"params.{name} has shape {shape}, it needs ({length},)")
  if signals.grid is not None and min(signals.grid) < 1:
    faults.append(f"signals.grid is {signals.grid}, use two counts >= 1")
  elif signals.grid is not None:
    cells = signals.grid[0] * signals.grid[1] * signals.images
    if rows - spec.protect > cells:
      faults.append(
        f"signals.grid is {signals.grid} with images={signals.images}, {cells}"
        f" cells for {rows - spec.protect} tokens: give the rows and columns of"
        " the raster that the tokens come from"
      )
  if parts := needs.one_image_parts(spec):
    if signals.images > 1:
      faults.append(
        f"signals.images is {signals.images}, but {', '.join(parts)} acts on"
        " the tokens of one image: jax.vmap over the images"
      )
    elif _several(tokens):
      faults.append(
        f"tokens.image names several images, but {', '.join(parts)} acts on the"
        " tokens of one: jax.vmap over the images"
      )
  if faults:
    raise ValueError(f"operator {spec.name!r}: " + "; ".join(faults))


def _several(tokens):
  """Whether present tokens are known to come from several images."""
  if any(
    isinstance(a, jax.core.Tracer) for a in (tokens.image, tokens.log_mass)
  ):
    return False
  # Not by jnp, which traces under jit whatever it is given.
  there = np.asarray(tokens.log_mass) > types.LOG_ZERO / 2
  image = np.asarray(tokens.image)[there]
  return len(np.unique(image)) > 1


def _count(count, signals, spec, rows=None):
  """A count as it is used; refuses what is known to be wrong.

  Args:
    count: one number, or one for each image.
    signals: of the site.
    spec: the operator.
    rows: static number of output rows, where there is one.
  """
  name, refuse = "keep" if rows is None else "count", _refusal(spec)
  shape = jnp.shape(count)
  if len(shape) > 1:
    refuse(
      f"{name} has shape {shape}, it needs one number, or one for each image"
    )
  if shape and shape[0] != signals.images:
    refuse(
      f"{name} has {shape[0]} counts, but signals.images is {signals.images}:"
      " give one number, or one for each image"
    )
  if _boolean(count):
    refuse(f"{name} is {count}, use a number of tokens")
  if not isinstance(count, jax.core.Tracer):
    number = np.asarray(count)
    if not np.all(np.isfinite(number)) or np.any(number < 0):
      refuse(f"{name} is {count}, use a number of tokens >= 0")
    if rows is not None and number.sum() > rows:
      refuse(
        f"{name} is {count}, {number.sum():g} tokens in all, but keep has room"
        f" for {rows}: raise keep, or lower {name}"
      )
  if not shape:
    return count
  if signals.images == 1:
    return count[0]
  if parts := needs.one_count_parts(spec):
    refuse(
      f"{name} has one count for each image, but {', '.join(parts)} divides one"
      " count for all: give one number"
    )
  return count


def _refusal(spec):
  """Function that raises a `ValueError` in the name of an operator."""

  def refuse(fault):
    raise ValueError(f"operator {spec.name!r}: {fault}")

  return refuse


def _boolean(count):
  """Whether a count is True or False, which Python takes for 1 or 0."""
  return jnp.result_type(count) == jnp.bool_


def _static_count(keep: Any, rows: int, spec: types.OperatorSpec) -> int:
  try:
    count = int(keep)
    whole = count == keep and not _boolean(keep)
  except (TypeError, ValueError, OverflowError) as error:
    raise ValueError(
      f"keep is {keep!r}, but reduce_hard needs a static integer: pass the "
      "count of a plan, or use reduce_masked for a traced one"
    ) from error
  least = max(1, spec.protect)
  if not whole or not least <= count <= rows:
    raise ValueError(
      f"keep is {keep} for operator {spec.name!r} at {rows} tokens, use an "
      f"integer in [{least}, {rows}]"
    )
  return count


def keep_count(
  mass_total: Float[Array, "*S"] | float,
  activation: Float[Array, "*S"] | float,
  retention: Float[Array, "*S"] | float,
) -> Float[Array, "*S"] | float:
  """How much of the present mass stays: `M (1 - a (1 - r))`.

  Relative to what reaches the site, so counts fall from site to site; a = 0
  and r = 1 remove nothing. Differentiable in all three.

  Args:
    mass_total: mass present at the site, in tokens.
    activation: a in [0, 1].
    retention: r in [0, 1].

  Returns:
    [*S] mass to keep, in tokens.

  >>> float(keep_count(144.0, 1.0, 0.25))
  36.0
  """
  return mass_total * (1 - activation * (1 - retention))
