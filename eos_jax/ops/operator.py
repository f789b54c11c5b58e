"""The operator: score, select, assign, combine, propagate.

One pipeline in three forms. Soft keeps all V rows and gives each a mass; masked
takes the hard decision but keeps V rows, so that counts can be traced; hard
returns K rows. All act on one example; callers `jax.vmap`.
"""

from typing import Any

import jax.numpy as jnp

from eos_jax.array_typing import Array, Float, Scalar
from eos_jax.ops import assign, combine, needs, propagate, score, select, types


def _reduce(
  tokens: types.TokenSet,
  signals: types.Signals,
  params: types.OperatorParams,
  spec: types.OperatorSpec,
  budget: select.Budget,
) -> types.Reduced:
  """The five stages."""
  needs.check_signals(spec, signals)
  cosine = None
  if needs.uses_cosine(spec):
    source = signals.keys if spec.affinity == "keys" else tokens.x
    cosine = score.cosine_matrix(source)
  scores = score.mixture(tokens, signals, params.pi, cosine, spec=spec)
  site = select.Site(tokens, signals, params, spec, scores, cosine)
  selection = select.KERNELS[spec.select].run(site, budget)
  shares = assign.KERNELS[spec.assign].run(site, selection, budget.temperature)
  y, size = combine.combine(site, selection, shares)
  return types.Reduced(
    tokens=propagate.propagate(site, selection, y, size),
    index=selection.index,
    assignment=shares * jnp.exp(selection.log_mass)[None, :],
    scores=scores,
  )


def reduce_soft(
  tokens: types.TokenSet,
  signals: types.Signals,
  params: types.OperatorParams,
  *,
  spec: types.OperatorSpec,
  keep: Scalar,
  temperature: Scalar,
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
    keep: [] mass that stays, usually from `keep_count`.
    temperature: [] T > 0 of the selection and of the gate.

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
  budget = select.Budget(
    count=jnp.asarray(keep, dtype), temperature=jnp.asarray(temperature, dtype)
  )
  return _reduce(tokens, signals, params, spec, budget)


def reduce_masked(
  tokens: types.TokenSet,
  signals: types.Signals,
  params: types.OperatorParams,
  *,
  spec: types.OperatorSpec,
  keep: Scalar,
) -> types.Reduced:
  """The hard decision at V rows: no new shape, so no new compilation.

  Args:
    tokens: V tokens.
    signals: what the operator reads.
    params: its numbers.
    spec: the operator.
    keep: [] number of tokens that stay, traced or not, integer-valued; at
      least the number of present tokens keeps them all.

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
  budget = select.Budget(count=jnp.asarray(keep, tokens.log_mass.dtype))
  return _reduce(tokens, signals, params, spec, budget)


def reduce_hard(
  tokens: types.TokenSet,
  signals: types.Signals,
  params: types.OperatorParams,
  *,
  spec: types.OperatorSpec,
  keep: Scalar,
) -> types.Reduced:
  """The operator that really drops tokens: K rows, K static.

  Args:
    tokens: V tokens.
    signals: what the operator reads.
    params: its numbers.
    spec: the operator.
    keep: K, a static integer, 1 <= K <= V, protected tokens included.

  Returns:
    `Reduced` of K rows, ascending for top-k selections. Where fewer than K
    tokens are present the last rows are empty (`log_mass = LOG_ZERO`).

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
  rows = tokens.x.shape[0]
  keep = _static_count(keep, rows, spec)
  budget = select.Budget(
    count=jnp.asarray(keep, tokens.log_mass.dtype), rows=keep
  )
  return _reduce(tokens, signals, params, spec, budget)


def _static_count(keep: Any, rows: int, spec: types.OperatorSpec) -> int:
  try:
    count = int(keep)
    whole = count == keep
  except (TypeError, ValueError) as error:
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
