"""The soft and the hard top-k: sums, corners, gradients."""

import hypothesis
from hypothesis import strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eos_jax import ops

V = 24
_soft = jax.jit(
  lambda z, m, k, t: ops.soft_top_k(z, m, k, temperature=t),
)
_MANY = jax.jit(
  jax.vmap(
    lambda z, m, k, t: ops.soft_top_k(z, m, k, temperature=t),
    in_axes=(0, 0, None, None),
  )
)


def _loss(z, m, k, t):
  weight = jnp.sin(jnp.arange(V, dtype=z.dtype))
  kept, rest = ops.soft_top_k(z, m, k, temperature=t)
  return jnp.sum(weight * jnp.exp(kept)) + jnp.sum(weight**2 * jnp.exp(rest))


_GRADS = jax.jit(jax.grad(_loss, (0, 1, 2, 3)))


def _case(seed, masses="ones"):
  key_z, key_l = jax.random.split(jax.random.key(seed))
  scores = jax.random.normal(key_z, (V,))
  log_mass = jnp.zeros(V)
  if masses == "soft":
    log_mass = jax.nn.log_sigmoid(3 * jax.random.normal(key_l, (V,)))
  return scores, log_mass


def test_hand_computed_equal_scores_share_equally():
  kept, rest = _soft(jnp.full(V, 2.0), jnp.zeros(V), 6.0, 0.5)
  np.testing.assert_allclose(jnp.exp(kept), 0.25, rtol=1e-6)
  np.testing.assert_allclose(jnp.exp(rest), 0.75, rtol=1e-6)


def test_hand_computed_two_scores():
  # sigmoid(u1) + sigmoid(u2) = 1 puts the threshold half way.
  z = jnp.array([1.0, 3.0])
  kept, _ = ops.soft_top_k(z, jnp.zeros(2), 1.0, temperature=2.0)
  expected = jax.nn.sigmoid(jnp.array([-0.5, 0.5]))
  np.testing.assert_allclose(jnp.exp(kept), expected, rtol=1e-5)


@hypothesis.settings(max_examples=25, deadline=None, derandomize=True)
@hypothesis.given(
  seed=st.integers(0, 999),
  masses=st.sampled_from(["ones", "soft"]),
  share=st.floats(1e-4, 0.9999),
  log_t=st.floats(-3, 1),
)
def test_sum_of_kept_mass_is_keep(seed, masses, share, log_t):
  scores, log_mass = _case(seed, masses)
  total = jnp.exp(log_mass).sum()
  keep = share * total
  kept, rest = _soft(scores, log_mass, keep, 10.0**log_t)
  np.testing.assert_allclose(jnp.exp(kept).sum(), keep, rtol=1e-5)
  np.testing.assert_allclose(
    jnp.exp(kept) + jnp.exp(rest), jnp.exp(log_mass), rtol=1e-5, atol=1e-7
  )
  assert bool(jnp.all(kept <= log_mass))


@pytest.mark.parametrize("temperature", [1e-3, 0.3])
@pytest.mark.parametrize("extra", [0.0, 0.5, 100.0])
def test_all_mass_comes_back_exactly(temperature, extra):
  scores, log_mass = _case(3, "soft")
  keep = jnp.exp(log_mass).sum() + extra
  kept, rest = _soft(scores, log_mass, keep, temperature)
  np.testing.assert_array_equal(kept, log_mass)
  np.testing.assert_array_equal(rest, ops.LOG_ZERO)


@pytest.mark.parametrize("keep", [0.0, 1e-4, 1.0, 7.0, V - 1e-3, V, V + 3.0])
@pytest.mark.parametrize("temperature", [1e-3, 0.1, 10.0])
@pytest.mark.parametrize("masses", ["ones", "soft"])
def test_gradients_are_finite(keep, temperature, masses):
  scores, log_mass = _case(4, masses)
  log_mass = log_mass.at[0].set(ops.LOG_ZERO)
  grads = _GRADS(scores, log_mass, float(keep), temperature)
  assert all(bool(jnp.all(jnp.isfinite(g))) for g in grads)
  assert float(grads[0][0]) == 0 and float(grads[1][0]) == 0


@pytest.mark.slow
@pytest.mark.parametrize("temperature", [1e-3, 0.02, 0.5])
def test_derivative_in_keep_is_the_softmax_of_the_design(temperature):
  scores, log_mass = _case(5, "ones")
  kept_mass = lambda k: jnp.exp(_soft(scores, log_mass, k, temperature)[0])
  forward = jax.jit(jax.jacfwd(kept_mass))(6.3)
  reverse = jax.jit(jax.jacrev(kept_mass))(6.3)
  mass = kept_mass(6.3)
  expected = mass * (1 - mass) / jnp.sum(mass * (1 - mass))
  np.testing.assert_allclose(forward.sum(), 1, rtol=1e-4)
  np.testing.assert_allclose(forward, expected, rtol=1e-3, atol=1e-5)
  np.testing.assert_allclose(reverse, forward, rtol=1e-4, atol=1e-6)


def test_derivative_on_a_plateau_still_sums_to_one():
  # At an integer keep and a tiny temperature m (1 - m) is 0 / 0 in float32.
  scores = jnp.arange(8.0)
  kept = lambda k: jnp.exp(
    ops.soft_top_k(scores, jnp.zeros(8), k, temperature=0.02)[0]
  )
  slope = jax.jit(jax.jacfwd(kept))(3.0)
  np.testing.assert_allclose(slope.sum(), 1, rtol=1e-3)
  np.testing.assert_allclose(slope[:4].sum(), 0, atol=1e-6)


def _log_loss(z, m, k, t):
  """Reads the log-masses themselves, not only the masses."""
  i = jnp.arange(V, dtype=z.dtype)
  kept, rest = ops.soft_top_k(z, m, k, temperature=t)
  return jnp.sum(jnp.sin(i) * kept) + jnp.sum(jnp.cos(i) * jnp.exp(rest))


_LOG_LOSS = jax.jit(_log_loss)
_LOG_GRADS = jax.jit(jax.grad(_log_loss, (0, 1, 2, 3)))
_LOG_FORWARD = jax.jit(lambda args, d: jax.jvp(_log_loss, args, d)[1])


@pytest.mark.slow
@pytest.mark.parametrize("masses", ["ones", "soft"])
@pytest.mark.parametrize("keep", [0.7, 5.0, 11.2])
def test_gradients_equal_finite_differences(masses, keep):
  with jax.enable_x64(True):
    cast = lambda a: jnp.asarray(np.asarray(a), jnp.float64)
    scores, log_mass = (cast(a) for a in _case(6, masses))
    if masses == "soft":
      keep = 0.5 * keep
    args = (scores, log_mass, cast(keep), cast(0.3))
    direction = tuple(
      jax.random.normal(jax.random.key(i), a.shape, jnp.float64)
      for i, a in enumerate(args)
    )
    eps = 1e-6
    at = lambda s: _LOG_LOSS(
      *(a + s * d for a, d in zip(args, direction, strict=True))
    )
    numeric = (at(eps) - at(-eps)) / (2 * eps)
    grads = _LOG_GRADS(*args)
    reverse = sum(jnp.sum(g * d) for g, d in zip(grads, direction, strict=True))
    np.testing.assert_allclose(reverse, numeric, rtol=1e-5)
    np.testing.assert_allclose(
      _LOG_FORWARD(args, direction), reverse, rtol=1e-9
    )


@pytest.mark.slow
def test_small_temperature_equals_hard():
  scores, log_mass = _case(7)
  log_mass = log_mass.at[jnp.argmax(scores)].set(ops.LOG_ZERO)
  soft = ops.soft_top_k(scores, log_mass, 9.0, temperature=1e-4)
  hard = ops.hard_top_k(scores, log_mass, 9)
  for a, b in zip(soft, hard, strict=True):
    np.testing.assert_allclose(jnp.exp(a), jnp.exp(b), atol=1e-5)


def test_hard_ties_go_to_the_lowest_index():
  kept, rest = ops.hard_top_k(jnp.array([1.0, 2, 2, 2, 0]), jnp.zeros(5), 2)
  assert (kept == 0).tolist() == [False, True, True, False, False]
  assert (rest == 0).tolist() == [True, False, False, True, True]


def test_hard_absent_tokens_are_never_chosen():
  log_mass = jnp.array([ops.LOG_ZERO, 0.0, ops.LOG_ZERO])
  kept, rest = ops.hard_top_k(jnp.array([9.0, 1.0, 8.0]), log_mass, 2)
  np.testing.assert_array_equal(kept, log_mass)
  assert not bool(jnp.any(jnp.exp(rest) > 0))


def test_vmap_equals_loop_and_jit_equals_eager():
  cases = [_case(s, "soft") for s in range(3)]
  z, m = (jnp.stack(a) for a in zip(*cases, strict=True))
  batched = _MANY(z, m, 4.0, 0.2)
  for i, case in enumerate(cases):
    single = ops.soft_top_k(*case, 4.0, temperature=0.2)
    for a, b in zip(batched, single, strict=True):
      np.testing.assert_allclose(a[i], b, rtol=1e-5, atol=1e-5)
