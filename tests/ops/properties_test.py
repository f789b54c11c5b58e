"""Laws of the operator space at points drawn from all of it."""

import dataclasses

import hypothesis
from hypothesis import strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eos_jax import ops
from tests.ops import forms

V, D = forms.V, forms.D
SPEC = ops.presets.HYBRID.replace(diversity="none")
# Without scores that compare features: what a token is does not decide who
# stays, so that only the assignment could carry it elsewhere.
APART = SPEC.replace(scores=("class_row",), pi=(1.0,))
_drawn = hypothesis.settings(max_examples=25, deadline=None, derandomize=True)

seeds = st.integers(0, 9999)
absences = st.sets(st.integers(0, V - 1), max_size=6)
keeps = st.one_of(
  st.sampled_from([0.5, 1.0, V - 0.5, float(V), V + 3.0]), st.floats(0.5, V)
)
temperatures = st.sampled_from([1e-3, 0.02, 0.5])
numbers = st.fixed_dictionaries(
  {
    "gamma": st.sampled_from([0.0, 0.4, 1.0]),
    "tau": st.sampled_from([ops.TAU_FLOOR, 0.05, 2.0]),
    "rho": st.sampled_from([0.0, 0.8]),
    "rho_attn": st.sampled_from([0.0, 0.5]),
    "eta": st.sampled_from([0.0, 0.5, 1.0]),
    "delta": st.sampled_from([0.0, 1.0]),
  }
)
dtypes = pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16], ids=str)


def _soft(tokens, signals, params, keep, temperature, *, spec=SPEC):
  keep, temperature = jnp.float32(keep), jnp.float32(temperature)
  return forms.soft(
    tokens, signals, params, spec=spec, keep=keep, temperature=temperature
  )


def _params(spec=SPEC, **values):
  return spec.replace(**values).params()


@jax.jit
def _gradients(tokens, signals, params, keep, temperature):
  def total(x, params, keep, temperature):
    moved = dataclasses.replace(tokens, x=x)
    out = ops.reduce_soft(
      moved, signals, params, spec=SPEC, keep=keep, temperature=temperature
    ).tokens
    mass = jnp.exp(out.log_mass)
    return mass @ jnp.sum(jnp.sin(out.x.astype(jnp.float32)), 1) + jnp.sum(
      mass * out.bias
    )

  return jax.grad(total, (0, 1, 2, 3))(tokens.x, params, keep, temperature)


@pytest.mark.slow
@dtypes
@_drawn
@hypothesis.given(seeds, absences, keeps, temperatures, numbers)
def test_mass_sizes_and_gradients(
  dtype, seed, absent, keep, temperature, values
):
  tokens, signals = forms.example(seed, absent=tuple(absent), dtype=dtype)
  params = _params(**values)
  out = _soft(tokens, signals, params, keep, temperature).tokens
  valid = V - len(absent)
  mass = np.asarray(jnp.exp(out.log_mass))
  np.testing.assert_allclose(mass.sum(), min(keep, valid), rtol=1e-5)
  assert (mass <= 1 + 1e-6).all()
  there = np.asarray(tokens.log_mass) == 0
  assert mass[~there].sum() == 0
  assert float(jnp.max(out.size)) <= valid + 1e-3
  assert out.x.dtype == dtype
  assert bool(jnp.all(jnp.isfinite(jnp.where(there[:, None], out.x, 0))))
  arguments = jnp.float32(keep), jnp.float32(temperature)
  for leaf in jax.tree.leaves(_gradients(tokens, signals, params, *arguments)):
    assert bool(jnp.all(jnp.isfinite(leaf)))


@dtypes
@_drawn
@hypothesis.given(seeds, absences, st.floats(1, V), temperatures, numbers)
def test_absent_tokens_have_no_influence(
  dtype, seed, absent, keep, temperature, values
):
  tokens, signals = forms.example(seed, absent=tuple(absent), dtype=dtype)
  there = np.asarray(tokens.log_mass) == 0
  gone = jnp.asarray(~there)
  other = dataclasses.replace(
    tokens, x=jnp.where(gone[:, None], jnp.asarray(30, dtype), tokens.x)
  )
  noisy = dataclasses.replace(
    signals,
    class_row=jnp.where(gone, jnp.asarray(9, dtype), signals.class_row),
    text_rows=jnp.where(gone, jnp.asarray(-9, dtype), signals.text_rows),
  )
  params = _params(**values)
  one = _soft(tokens, signals, params, keep, temperature).tokens
  two = _soft(other, noisy, params, keep, temperature).tokens
  for name in ("x", "log_mass", "size", "bias"):
    a, b = (np.asarray(getattr(t, name), np.float32)[there] for t in (one, two))
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
@_drawn
@hypothesis.given(seeds, absences, st.floats(1, V), temperatures, numbers)
def test_a_permutation_permutes(seed, absent, keep, temperature, values):
  tokens, signals = forms.example(seed, absent=tuple(absent))
  order = jax.random.permutation(jax.random.key(seed), V)
  other, moved = forms.permuted(tokens, signals, order)
  moved = dataclasses.replace(moved, pivots=signals.pivots)
  params = _params(**values)
  one = _soft(tokens, signals, params, keep, temperature).tokens
  two = _soft(other, moved, params, keep, temperature).tokens
  there = np.asarray(tokens.log_mass)[order] == 0
  for name in ("log_mass", "x", "size"):
    a, b = np.asarray(getattr(one, name))[order], np.asarray(getattr(two, name))
    # Sums in another order differ by rounding, which a small T multiplies.
    if name == "log_mass":
      a, b = np.exp(a), np.exp(b)
    np.testing.assert_allclose(a[there], b[there], rtol=2e-2, atol=2e-3)


@pytest.mark.slow
@_drawn
@hypothesis.given(seeds, st.floats(1, V), temperatures, numbers)
def test_images_do_not_mix(seed, keep, temperature, values):
  tokens, signals = forms.example(seed)
  image = (jnp.arange(V) % 3 == 0).astype(jnp.int32)
  tokens = dataclasses.replace(tokens, image=image)
  other = dataclasses.replace(
    tokens, x=jnp.where(image[:, None] == 1, -tokens.x[::-1], tokens.x)
  )
  params = _params(APART, **values)
  run = lambda t: _soft(t, signals, params, keep, temperature, spec=APART)
  one, two = run(tokens).tokens, run(other).tokens
  own = np.asarray(image) == 0
  np.testing.assert_array_equal(one.x[own], two.x[own])
  np.testing.assert_array_equal(one.size[own], two.size[own])


@_drawn
@hypothesis.given(seeds, absences, st.integers(1, V), numbers)
def test_cold_soft_is_hard(seed, absent, keep, values):
  tokens, signals = forms.example(seed, absent=tuple(absent))
  keep = min(keep, V - len(absent))
  params = _params(**values)
  hard = forms.masked(
    tokens, signals, params, spec=SPEC, keep=jnp.float32(keep)
  )
  scores = np.asarray(hard.scores)[np.asarray(tokens.log_mass) == 0]
  ranked = np.sort(scores)[::-1]
  # Near ties are decided by rounding, and what T = 1e-4 leaves of the first
  # removed token must not weigh against tau.
  hypothesis.assume(
    keep == len(ranked) or ranked[keep - 1] - ranked[keep] > 0.1
  )
  soft = _soft(tokens, signals, params, keep, 1e-4)
  stays = np.asarray(hard.tokens.log_mass) == 0
  assert stays.sum() == keep
  np.testing.assert_allclose(
    jnp.exp(soft.tokens.log_mass), stays.astype(np.float32), atol=1e-4
  )
  for name in ("x", "size", "bias"):
    a, b = (np.asarray(getattr(r.tokens, name))[stays] for r in (soft, hard))
    np.testing.assert_allclose(a, b, rtol=5e-3, atol=5e-3)


@pytest.mark.slow
@dtypes
@_drawn
@hypothesis.given(seeds, absences, numbers)
def test_no_activation_is_the_identity(dtype, seed, absent, values):
  tokens, signals = forms.example(seed, absent=tuple(absent), dtype=dtype)
  params = _params(activation=0.0, **values)
  total = jnp.sum(jnp.exp(tokens.log_mass))
  keep = ops.keep_count(total, params.activation, jnp.float32(0.1))
  out = _soft(tokens, signals, params, keep, 0.3).tokens
  for a, b in zip(jax.tree.leaves(out), jax.tree.leaves(tokens), strict=True):
    np.testing.assert_array_equal(a, b)
