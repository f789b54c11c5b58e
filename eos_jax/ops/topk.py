"""A differentiable top-k: k units of mass, given to the best scores."""

import jax
import jax.numpy as jnp

from eos_jax.array_typing import Array, Float, Int, Num, Scalar
from eos_jax.ops import types

# Bisection halves the bracket until it is about one temperature wide, then
# Newton's method on the log-odds, kept inside the bracket, doubles the digits.
_BISECTIONS = 14
_NEWTON_STEPS = 8
_SETTLING_STEPS = 3
# Kept share of the mass above which nothing is removed, and smallest mass
# that can be asked for: next to nothing even to the power 1 / tau of a warm
# assignment, and still a normal float32.
_ALL = 1 - 1e-6
_LEAST = 1e-30
# Kept mass up to which slopes are taken for constant in second derivatives.
_LEAST_CURVED = 1e-12
# exp of this is the largest derivative of a log-mass; float32 overflows at 88.
_LOG_SLOPE_MAX = 60.0
_LOG_SLOPE_EMPTY = 30.0


@jax.custom_jvp
def _solve(scores, log_mass, keep, temperature):
  """`u = (z - t) / T` with t such that the sum of m sigmoid(u) is `keep`."""
  valid = types.present(log_mass)
  mass = jnp.exp(log_mass)
  total = jnp.maximum(jnp.sum(mass), 2 * _LEAST)
  keep = jnp.clip(keep, _LEAST, total * _ALL)
  odds = jnp.log(keep) - jnp.log(total - keep)
  some = jnp.any(valid)
  # All u lie between these ends shifted by the odds, whatever the masses.
  low = jnp.min(jnp.where(valid, scores, jnp.inf)) - temperature * odds
  high = jnp.max(jnp.where(valid, scores, -jnp.inf)) - temperature * odds
  low, high = jnp.where(some, low, 0), jnp.where(some, high, 0)

  def bisect(_, bracket):
    low, high = bracket
    middle = (low + high) / 2
    kept = jnp.sum(mass * jax.nn.sigmoid((scores - middle) / temperature))
    more = kept > keep
    return jnp.where(more, middle, low), jnp.where(more, high, middle)

  low, high = jax.lax.fori_loop(0, _BISECTIONS, bisect, (low, high))
  # From here in units of the temperature around the middle: with T = 1e-3 the
  # rounding of t itself would already cost the fifth digit of the sum.
  middle = (low + high) / 2
  centred = (scores - middle) / temperature
  reach = (high - low) / (2 * temperature) + 1

  def newton(_, state):
    low, high, shift = state
    u = centred - shift
    on, off = jax.nn.sigmoid(u), jax.nn.sigmoid(-u)
    kept, left = jnp.sum(mass * on), jnp.sum(mass * off)
    slope = jnp.sum(mass * on * off) * (1 / kept + 1 / left)
    # The sign comes from the residual of the step, so that rounding cannot
    # put a converged step outside the bracket.
    excess = jnp.log(kept) - jnp.log(left) - odds
    more = excess > 0
    low, high = jnp.where(more, shift, low), jnp.where(more, high, shift)
    step = shift + excess / slope
    # False too where the step is not a number (a plateau: slope 0).
    inside = (step >= low) & (step <= high)
    return low, high, jnp.where(inside, step, (low + high) / 2)

  start = (-reach, reach, jnp.zeros_like(reach))
  shift = jax.lax.fori_loop(0, _NEWTON_STEPS, newton, start)[2]
  log_mass = jnp.where(valid, log_mass, types.LOG_ZERO)
  shift = _settle(centred, log_mass, shift, keep)
  return jnp.where(valid, centred - shift, 0)


def _settle(centred, log_mass, shift, keep):
  """Refines a threshold where the sum of m hardly depends on it.

  With a whole number to keep and a small temperature every threshold between
  two scores gives that number to the last digit, so that the first removed
  token could have any log-mass, and a warm assignment would still find it. With
  M the mass above the threshold, the same equation reads: what is taken from
  above = what is left below + M - keep. Its sides are small there, and are
  compared by their logarithms.
  """
  above = centred > shift
  log_above = jnp.where(above, log_mass, types.LOG_ZERO)
  log_below = jnp.where(above, types.LOG_ZERO, log_mass)
  surplus = jnp.sum(jnp.exp(log_above)) - keep
  amount = jnp.log(jnp.maximum(jnp.abs(surplus), _LEAST))
  log_surplus = jnp.where(surplus > 0, amount, types.LOG_ZERO)
  log_lack = jnp.where(surplus < 0, amount, types.LOG_ZERO)

  def step(_, shift):
    u = centred - shift
    on, off = jax.nn.log_sigmoid(u), jax.nn.log_sigmoid(-u)
    taken, left = log_above + off, log_below + on
    log_taken = jnp.logaddexp(jax.nn.logsumexp(taken), log_lack)
    log_left = jnp.logaddexp(jax.nn.logsumexp(left), log_surplus)
    slope = jnp.exp(jax.nn.logsumexp(taken + on) - log_taken)
    slope += jnp.exp(jax.nn.logsumexp(left + off) - log_left)
    move = (log_taken - log_left) / slope
    return jnp.where(jnp.isfinite(move), shift - move, shift)

  return jax.lax.fori_loop(0, _SETTLING_STEPS, step, shift)


def _outputs(u, log_mass, keep):
  valid = types.present(log_mass)
  everything = keep >= jnp.sum(jnp.exp(log_mass)) * _ALL
  kept = jnp.where(
    everything | ~valid, log_mass, log_mass + jax.nn.log_sigmoid(u)
  )
  rest = jnp.where(
    everything | ~valid, types.LOG_ZERO, log_mass + jax.nn.log_sigmoid(-u)
  )
  return kept, rest, everything


@jax.custom_jvp
def _soft_top_k(scores, log_mass, keep, temperature):
  u = _solve(scores, log_mass, keep, temperature)
  return _outputs(u, log_mass, keep)[:2]


@_soft_top_k.defjvp
def _soft_top_k_jvp(primals, tangents):
  log_mass, keep = primals[1], primals[2]
  u = _solve(*primals)
  kept, rest, everything = _outputs(u, log_mass, keep)
  # Next to nothing to keep: slopes in logarithms grow as 1 / keep. Theirs and
  # their squares would overflow, so they are cut and count as constant.
  empty = keep <= _LEAST_CURVED
  u = jnp.where(empty, jax.lax.stop_gradient(u), u)
  move, d_mass, log_total = _motion(u, primals, tangents)
  log_on, log_off = jax.nn.log_sigmoid(u), jax.nn.log_sigmoid(-u)
  most = jnp.where(empty, _LOG_SLOPE_EMPTY, _LOG_SLOPE_MAX)
  slope = lambda side: jnp.exp(jnp.minimum(side - log_total, most))
  on, off = jnp.exp(log_on), jnp.exp(log_off)
  inside = types.present(log_mass) & ~everything
  d_log_mass = tangents[1]
  d_kept = d_log_mass + jnp.where(
    inside, off * move - slope(log_off) * d_mass, 0
  )
  d_rest = jnp.where(inside, d_log_mass - on * move + slope(log_on) * d_mass, 0)
  return (kept, rest), (d_kept, d_rest)


@_solve.defjvp
def _solve_jvp(primals, tangents):
  u = _solve(*primals)
  move, d_mass, log_total = _motion(u, primals, tangents)
  slope = jnp.exp(jnp.minimum(-log_total, _LOG_SLOPE_MAX))
  valid = types.present(primals[1])
  return u, jnp.where(valid, move - slope * d_mass, 0)


def _motion(u, primals, tangents):
  """How u moves with the arguments, by the implicit function theorem.

  Returns:
    [V] motion of u at a fixed threshold less the threshold's share of it, which
    keeps the sum; [] what the threshold still has to take away; [] log of the
    slope of the sum in the threshold.
  """
  _, log_mass, _, temperature = primals
  d_scores, d_log_mass, d_keep, d_temperature = tangents
  valid = types.present(log_mass)
  log_on, log_off = jax.nn.log_sigmoid(u), jax.nn.log_sigmoid(-u)
  log_slope = jnp.where(valid, log_mass + log_on + log_off, types.LOG_ZERO)
  log_total = jax.nn.logsumexp(log_slope)
  share = jnp.exp(log_slope - log_total)
  move = (d_scores - u * d_temperature) / temperature
  move = move - jnp.sum(share * move)
  mass = jnp.where(valid, jnp.exp(log_mass + log_on), 0)
  return move, jnp.sum(mass * d_log_mass) - d_keep, log_total


def soft_top_k(
  scores: Float[Array, "V"],
  log_mass: Float[Array, "V"],
  keep: Scalar,
  *,
  temperature: Scalar,
) -> tuple[Float[Array, "V"], Float[Array, "V"]]:
  """Splits mass into `keep` units for the best scores and the rest.

  Kept mass is `m' = m sigmoid(u)`, `u = (z - t) / T`, with the threshold t
  solved so that the sum of m' is `keep` (VisionSelector's soft mask with unit
  mass, `eos_jax` design: mass carried from site to site). As T -> 0 it tends
  to the `keep` best. `keep` at or above the present mass returns it unchanged.

  Gradients, forward and reverse, follow from the implicit function theorem in
  logarithms: `dm'/dk = softmax(l + log sigmoid(u) + log sigmoid(-u))`, which
  is never 0 / 0. Absent tokens get mass 0 and no gradient.

  Args:
    scores: [V] scores z.
    log_mass: [V] log-mass l.
    keep: [] mass to keep; anything under 1e-30 counts as 1e-30.
    temperature: [] T > 0.

  Returns:
    [V] log of the kept mass m', and [V] log of the removed mass m - m'.

  >>> import jax.numpy as jnp
  >>> kept, rest = soft_top_k(jnp.arange(4.0), jnp.zeros(4), 2.0,
  ...                         temperature=0.01)
  >>> jnp.exp(kept).round(3).tolist()
  [0.0, 0.0, 1.0, 1.0]
  """
  scores = types.working(scores)
  keep = jnp.asarray(keep, scores.dtype)
  temperature = jnp.asarray(temperature, scores.dtype)
  return _soft_top_k(scores, log_mass, keep, temperature)


def hard_top_k(
  scores: Float[Array, "V"],
  log_mass: Float[Array, "V"],
  keep: Scalar,
) -> tuple[Float[Array, "V"], Float[Array, "V"]]:
  """The `keep` best present tokens; ties go to the lowest index.

  Args:
    scores: [V] scores.
    log_mass: [V] log-mass.
    keep: [] how many, traced or not; rounded to the nearest integer.

  Returns:
    [V] log of the kept mass and [V] log of the removed mass: each token is
    wholly in one of them, `LOG_ZERO` in the other. Gradients flow to
    `log_mass` only.

  >>> import jax.numpy as jnp
  >>> kept, rest = hard_top_k(jnp.array([1.0, 5.0, 5.0]), jnp.zeros(3), 1)
  >>> (kept == 0).tolist()
  [False, True, False]
  """
  valid = types.present(log_mass)
  best = jnp.where(valid, types.working(scores), -jnp.inf)
  chosen = valid & (descending_rank(best) < whole(keep))
  kept = jnp.where(chosen, log_mass, types.LOG_ZERO)
  rest = jnp.where(chosen | ~valid, types.LOG_ZERO, log_mass)
  return kept, rest


def whole(count: Scalar) -> Int[Array, ""]:
  """A count, traced or not, as the nearest int32."""
  return jnp.round(jnp.asarray(count)).astype(jnp.int32)


def descending_rank(values: Num[Array, "V"]) -> Int[Array, "V"]:
  """Rank of each value, 0 for the greatest; ties to the lowest index.

  Values that are no numbers count as the lowest.
  """
  count = values.shape[0]
  ranks = jnp.zeros(count, jnp.int32)
  return ranks.at[best_first(values, count)].set(
    jnp.arange(count, dtype=jnp.int32), unique_indices=True
  )


def best_first(values: Num[Array, "V"], count: int) -> Int[Array, "K"]:
  """Indices of the `count` greatest values; ties to the lowest index.

  Values that are no numbers count as the lowest; integers have to be exact in
  float32. No gradient.

  >>> import jax.numpy as jnp
  >>> best_first(jnp.array([1.0, 3.0, jnp.nan, 3.0]), 3).tolist()
  [1, 3, 0]
  """
  values = jax.lax.stop_gradient(values)
  if not jnp.issubdtype(values.dtype, jnp.floating):
    values = values.astype(jnp.float32)
  values = jnp.where(jnp.isnan(values), -jnp.inf, values)
  # XLA's CPU backend sorts one slow comparison after the other, unless less
  # than everything of a float array is wanted.
  values = jnp.concatenate([values, jnp.full((1,), -jnp.inf, values.dtype)])
  return jax.lax.top_k(values, count)[1].astype(jnp.int32)
