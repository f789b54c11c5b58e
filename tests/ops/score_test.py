"""Score functions and their mixture."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eos_jax import ops
from eos_jax.ops import score
from tests.ops import forms, reference

_SPEC = ops.presets.PRUNE


def _mixture(tokens, signals, spec):
  cosine = ops.cosine_matrix(tokens.x)
  pi = spec.params().pi.astype(tokens.x.dtype)
  return score.mixture(tokens, signals, pi, cosine, spec=spec)[0]


def test_standardise_weights_by_mass():
  log_mass = jnp.log(jnp.array([1.0, 0.5, 0.5]))
  z = ops.standardise(jnp.array([0.0, 2.0, 2.0]), log_mass)
  np.testing.assert_allclose(z, [-1, 1, 1], rtol=1e-5)


def test_standardise_of_a_constant_is_zero_with_a_finite_gradient():
  f = lambda v: ops.standardise(v, jnp.zeros(4)).sum()
  value, grad = jax.value_and_grad(f)(jnp.full(4, 3.0))
  assert value == 0 and bool(jnp.all(jnp.isfinite(grad)))


def test_standardise_ignores_absent_tokens():
  log_mass = jnp.array([0.0, 0.0, ops.LOG_ZERO])
  z = ops.standardise(jnp.array([1.0, 3.0, 1e6]), log_mass)
  np.testing.assert_allclose(z, [-1, 1, 0], rtol=1e-5)


def test_uniqueness_by_hand():
  x = jnp.array([[1.0, 0], [0, 1], [1, 1], [1, 0]])
  order = jnp.array([0.0, 3.0, 2.0, 1.0])
  values = ops.uniqueness(ops.cosine_matrix(x), order, jnp.zeros(4))
  half = -np.sqrt(0.5)
  np.testing.assert_allclose(values, [-1, 1, half, half], atol=1e-5)


def test_uniqueness_equals_the_loop():
  tokens, signals = forms.example(1)
  x = np.asarray(tokens.x, np.float64)
  order = np.asarray(signals.class_row)
  values = ops.uniqueness(
    ops.cosine_matrix(tokens.x), signals.class_row, tokens.log_mass
  )
  np.testing.assert_allclose(
    values, reference.uniqueness(x, order), rtol=1e-5, atol=1e-6
  )


def test_uniqueness_compares_within_an_image_only():
  x = jnp.ones((4, 3))
  values = ops.uniqueness(
    ops.cosine_matrix(x),
    jnp.arange(4.0),
    jnp.zeros(4),
    jnp.array([0, 0, 1, 1]),
  )
  np.testing.assert_allclose(values, [-1, 1, -1, 1], atol=1e-5)


@pytest.mark.slow
def test_mass_fades_the_influence_of_a_better_token():
  x = jnp.ones((2, 3))
  f = lambda m: ops.uniqueness(
    ops.cosine_matrix(x),
    jnp.array([1.0, 0.0]),
    jnp.log(jnp.stack([m, jnp.float32(1)])),
  )[1]
  for mass, expected in ((1.0, -1.0), (0.5, 0.0), (1e-6, 1.0)):
    np.testing.assert_allclose(f(jnp.float32(mass)), expected, atol=1e-5)


def test_uniqueness_without_another_score_follows_the_index():
  spec = _SPEC.replace(scores=("uniqueness",), pi=(1.0,))
  tokens = ops.token_set(jnp.ones((3, 2)))
  z = _mixture(tokens, ops.Signals(), spec)
  assert int(jnp.argmax(z)) == 0
  np.testing.assert_allclose(z[1], z[2], atol=1e-5)


def test_relevance_by_hand():
  tokens = ops.token_set(jnp.array([[1.0, 0], [0, 1], [0, 0]]))
  signals = ops.Signals(
    text=jnp.array([[3.0, 0], [0, 4]]), text_mask=jnp.array([True, False])
  )
  np.testing.assert_allclose(
    score.relevance(tokens, signals), [1, 0, 0], atol=1e-5
  )
  np.testing.assert_allclose(
    score.relevance_max(tokens, signals), [1, 0, 0], atol=1e-5
  )


def test_norm_of_zero_has_a_finite_gradient():
  f = lambda x: score.norm(ops.token_set(x), ops.Signals()).sum()
  assert bool(jnp.all(jnp.isfinite(jax.grad(f)(jnp.zeros((2, 3))))))


def test_grid_order_equals_the_loop():
  for rows, columns in ((4, 4), (3, 5)):
    count = rows * columns
    tokens = ops.token_set(jnp.zeros((count, 1)))
    values = score.grid(tokens, ops.Signals(grid=(rows, columns)))
    order = np.argsort(-np.asarray(values), kind="stable").tolist()
    assert order == reference.spread_order(rows, columns)


@pytest.mark.parametrize("count, stride", [(4, 6), (16, 3)])
def test_grid_prefixes_are_lattices(count, stride):
  tokens = ops.token_set(jnp.zeros((144, 1)))
  values = score.grid(tokens, ops.Signals(grid=(12, 12)))
  best = np.argsort(-np.asarray(values))[:count]
  for line in np.divmod(best, 12):
    assert len(set(line % stride)) == 1
    assert len(set(line)) == 12 // stride


@pytest.mark.parametrize("count", [3, 7, 30, 48, 100])
def test_grid_prefixes_are_even(count):
  tokens = ops.token_set(jnp.zeros((144, 1)))
  values = score.grid(tokens, ops.Signals(grid=(12, 12)))
  kept = np.zeros(144)
  kept[np.argsort(-np.asarray(values))[:count]] = 1
  quarters = kept.reshape(2, 6, 2, 6).sum((1, 3))
  assert quarters.max() - quarters.min() <= max(1, count // 16)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(score.SCORES))
def test_every_function_has_a_finite_gradient_and_ignores_absent(name):
  spec = _SPEC.replace(scores=(name,), pi=(1.0,))
  tokens, signals = forms.example(2, absent=(2, 9))
  there = tokens.log_mass == 0

  def total(x, signals):
    z = _mixture(dataclasses.replace(tokens, x=x), signals, spec)
    return jnp.sum(jnp.where(there, jnp.cos(z), 0)), z

  run = jax.jit(jax.value_and_grad(total, (0, 1), has_aux=True))
  (_, scores), grads = run(tokens.x, signals)
  for leaf in jax.tree.leaves(grads):
    assert bool(jnp.all(jnp.isfinite(leaf)))
    if leaf.shape[0] == forms.V:
      np.testing.assert_array_equal(leaf[~there], 0)
  (_, moved), _ = run(jnp.where(there[:, None], tokens.x, 77.0), signals)
  np.testing.assert_allclose(moved, scores, rtol=1e-5, atol=1e-5)


def test_missing_signal_is_named():
  tokens, _ = forms.example(0)
  spec = ops.presets.FASTV
  with pytest.raises(ValueError, match="fastv.*last_row_previous"):
    ops.reduce_hard(tokens, ops.Signals(), spec.params(), spec=spec, keep=2)


@pytest.mark.parametrize("field", ["scores", "select", "assign", "diversity"])
def test_unknown_kernel_is_named(field):
  tokens, signals = forms.example(0)
  change = {"scores": ("nope",), "pi": (1.0,)}
  spec = ops.presets.RANDOM.replace(
    **(change if field == "scores" else {field: "nope"})
  )
  with pytest.raises(ValueError, match="nope.*use one of"):
    ops.reduce_hard(tokens, signals, spec.params(), spec=spec, keep=2)


def test_required_signals():
  assert ops.required_signals(ops.presets.PRUNE) == ("class_row",)
  assert ops.required_signals(ops.presets.TOME) == ("keys",)
  assert ops.required_signals(ops.presets.POOL) == ("grid",)
  assert ops.required_signals(ops.presets.HYBRID) == (
    "class_row",
    "grid",
    "last_row",
    "text_rows",
  )
