"""Relaxations: what they return at the ends, and their gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eos_jax import ops

V, D = 12, 4
SPEC = ops.presets.MERGE.replace(scores=("norm",), pi=(1.0,))
X = jax.random.normal(jax.random.key(0), (V, D))
TOKENS = ops.token_set(X)


def _soft(params=None, keep=5.0, temperature=0.3, **given):
  return ops.reduce_soft(
    TOKENS,
    ops.Signals(),
    SPEC.params() if params is None else params,
    spec=SPEC,
    keep=keep,
    temperature=temperature,
    **given,
  )


def _hard():
  return ops.reduce_masked(
    TOKENS, ops.Signals(), SPEC.params(), spec=SPEC, keep=5.0
  )


@pytest.mark.slow
def test_straight_through_has_hard_values_and_soft_gradients():
  def through(keep):
    return ops.straight_through(_soft(keep=keep), _hard())

  for got, want in zip(
    jax.tree.leaves(jax.jit(through)(5.0)),
    jax.tree.leaves(jax.jit(_hard)()),
    strict=True,
  ):
    np.testing.assert_array_equal(got, want)

  def x_sum(reduced):
    return jnp.sum(reduced.tokens.x)

  def total(reduced):
    return x_sum(reduced) + jnp.sum(jnp.exp(reduced.tokens.size))

  def slope(value, reduced):
    return float(jax.jit(jax.grad(lambda k: value(reduced(k))))(5.0))

  # The sum over x is linear: its gradient is that of the soft result.
  soft = slope(x_sum, lambda keep: _soft(keep=keep))
  assert slope(x_sum, through) == pytest.approx(soft, rel=1e-5)
  assert np.isfinite(slope(total, through))


@pytest.mark.full
def test_jitter_moves_the_choice_as_much_at_any_temperature():
  moved = []
  for temperature in (0.5, 0.05, 0.005):
    jitter = ops.logistic_jitter(
      jax.random.key(1), (V,), temperature=temperature
    )
    with_noise = _soft(temperature=temperature, jitter=jitter)
    without = _soft(temperature=temperature)
    assert float(jnp.exp(with_noise.tokens.log_mass).sum()) == pytest.approx(
      5.0, rel=1e-4
    )
    moved.append(float(jnp.abs(with_noise.scores - without.scores).max()))
  np.testing.assert_allclose(moved[0] / moved[1], 10, rtol=1e-2)
  np.testing.assert_allclose(moved[1] / moved[2], 10, rtol=1e-2)


@pytest.mark.slow
def test_noise_gate_keeps_the_variance_and_the_ends():
  wide = jax.random.normal(jax.random.key(2), (64, 256))
  for share in (1.0, 0.5, 0.0):
    log_share = jnp.full(64, jnp.log(jnp.float32(share) + 1e-30))
    out = ops.noise_gate(jax.random.key(3), wide, log_share)
    assert float(jnp.var(out)) == pytest.approx(1.0, abs=0.05)
    overlap = float(jnp.mean(out * wide))
    assert overlap == pytest.approx(np.sqrt(share), abs=0.05)
  gradient = jax.grad(
    lambda s: jnp.sum(ops.noise_gate(jax.random.key(3), wide, s))
  )
  for value in (0.0, -1.0, -80.0):
    assert np.all(np.isfinite(gradient(jnp.full(64, value))))


def test_noise_gate_has_no_steep_slope_where_whole_numbers_are_kept():
  scores = jnp.array([3.0, 2.0, 0.9, 0.7, 0.1, -1.0])
  x = jax.random.normal(jax.random.key(5), (6, D))

  def total(scores, keep):
    log_mass, _ = ops.soft_top_k(
      scores, jnp.zeros(6), keep=keep, temperature=0.003
    )
    return jnp.sum(ops.noise_gate(jax.random.key(6), x, log_mass) ** 3)

  slopes = jax.jit(jax.grad(total, argnums=(0, 1)))(scores, 3.0)
  assert all(np.all(np.abs(slope) < 1e5) for slope in slopes)


@pytest.mark.slow
def test_indecision_is_zero_where_all_is_decided():
  decided = _hard().tokens.log_mass
  assert float(ops.indecision(decided, TOKENS.log_mass)) == 0
  halves = TOKENS.log_mass + jnp.log(0.5)
  assert float(ops.indecision(halves, TOKENS.log_mass)) == pytest.approx(
    np.log(2), rel=1e-5
  )
  sharp, blunt = (
    float(ops.indecision(_soft(temperature=t).tokens.log_mass, TOKENS.log_mass))
    for t in (0.02, 0.5)
  )
  assert sharp < blunt
  # Pushes a mass away from a half, whichever way.
  slope = jax.grad(lambda m: ops.indecision(m, TOKENS.log_mass))(
    jnp.log(jnp.linspace(0.1, 0.9, V))
  )
  assert np.all(np.asarray(slope[:5]) > 0) and np.all(
    np.asarray(slope[-5:]) < 0
  )
