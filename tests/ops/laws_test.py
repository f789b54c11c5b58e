"""The laws of the operator space, as properties."""

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
SPEC = ops.presets.HYBRID
SMALL_T = 1e-4
_few = hypothesis.settings(max_examples=20, deadline=None, derandomize=True)

# Points of the space: every corner, and mixed ones.
POINTS = {
  "prune": dict(gamma=0.0),
  "reweight": dict(gamma=0.0, rho=0.7, rho_attn=0.4),
  "merge": dict(gamma=1.0, tau=ops.TAU_FLOOR),
  "pool_soft": dict(gamma=1.0, tau=2.0),
  "mixed": dict(gamma=0.6, tau=0.2, rho=0.2, eta=0.5, delta=0.5),
  "threshold": dict(gamma=1.0, tau=0.1, theta=0.55),
  "spatial": dict(gamma=1.0, tau=0.1, omega=(0.3, 0.7)),
  "diverse": dict(gamma=1.0, tau=0.1, kappa=0.5),
}


def _params(**numbers):
  return SPEC.replace(**numbers).params()


def _assert_leaves_close(a, b, **tolerance):
  for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
    np.testing.assert_allclose(x, y, **tolerance)


@pytest.mark.slow
@pytest.mark.parametrize("point", sorted(POINTS))
def test_soft_tends_to_masked_which_equals_hard(point):
  tokens, signals = forms.example(11, absent=(3, 14))
  params = _params(**POINTS[point])
  keep = 6
  soft = forms.soft(
    tokens, signals, params, spec=SPEC, keep=6.0, temperature=SMALL_T
  )
  mask = forms.masked(tokens, signals, params, spec=SPEC, keep=keep)
  hard = forms.hard(tokens, signals, params, spec=SPEC, keep=keep)
  rows = np.asarray(hard.index)
  assert sorted(np.flatnonzero(mask.tokens.log_mass == 0)) == rows.tolist()
  np.testing.assert_allclose(
    jnp.exp(soft.tokens.log_mass), jnp.exp(mask.tokens.log_mass), atol=1e-3
  )
  for name in ("x", "size", "bias", "position", "image"):
    at = lambda out, name=name: np.asarray(getattr(out.tokens, name))
    np.testing.assert_allclose(at(mask)[rows], at(hard), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(at(soft)[rows], at(hard), rtol=2e-3, atol=2e-3)
  np.testing.assert_allclose(
    mask.assignment[:, rows], hard.assignment, rtol=1e-4, atol=1e-6
  )


def test_bipartite_soft_tends_to_hard():
  spec = ops.presets.TOME
  tokens, signals = forms.example(12)
  args = (tokens, signals, spec.params())
  soft = forms.soft(*args, spec=spec, keep=11.0, temperature=SMALL_T)
  hard = forms.hard(*args, spec=spec, keep=11)
  rows = np.asarray(hard.index)
  np.testing.assert_allclose(jnp.exp(soft.tokens.log_mass).sum(), 11, rtol=1e-5)
  np.testing.assert_allclose(
    soft.tokens.x[rows], hard.tokens.x, rtol=1e-3, atol=1e-3
  )


@pytest.mark.parametrize("keep", [4, 7])
def test_pooled_rows_are_the_same_in_every_form(keep):
  spec = ops.presets.POOL
  tokens, signals = forms.example(13, absent=(0, 1, 4, 5))
  args = (tokens, signals, spec.params())
  hard = forms.hard(*args, spec=spec, keep=keep)
  mask = forms.masked(*args, spec=spec, keep=keep)
  soft = forms.soft(*args, spec=spec, keep=float(keep), temperature=1.0)
  _assert_leaves_close(soft, mask)
  head = jax.tree.map(lambda a: a[:keep], mask.tokens)
  _assert_leaves_close(head, hard.tokens, rtol=1e-5, atol=1e-6)
  assert bool(jnp.all(mask.tokens.log_mass[keep:] == ops.LOG_ZERO))
  if keep == 4:  # the first cell has no present member
    assert hard.tokens.log_mass.tolist() == [ops.LOG_ZERO, 0, 0, 0]


@pytest.mark.parametrize("point", sorted(POINTS))
def test_no_activation_is_the_identity(point):
  tokens, signals = forms.example(14, absent=(2,))
  params = dataclasses.replace(
    _params(**POINTS[point]), activation=jnp.float32(0)
  )
  mass = jnp.exp(tokens.log_mass).sum()
  keep = ops.keep_count(mass, params.activation, jnp.float32(0.2))
  out = forms.soft(
    tokens, signals, params, spec=SPEC, keep=keep, temperature=0.3
  )
  _assert_leaves_close(out.tokens, tokens, rtol=0, atol=0)


@pytest.mark.slow
def test_no_activation_is_the_identity_for_all_sources():
  spec = SPEC.replace(sources="all")
  tokens, signals = forms.example(14)
  params = dataclasses.replace(spec.params(), activation=jnp.float32(0))
  out = forms.soft(
    tokens, signals, params, spec=spec, keep=float(V), temperature=0.3
  )
  _assert_leaves_close(out.tokens, tokens, rtol=0, atol=0)


def test_full_retention_without_reweighting_is_the_identity():
  tokens, signals = forms.example(15)
  out = forms.soft(
    tokens, signals, _params(), spec=SPEC, keep=float(V), temperature=0.3
  )
  _assert_leaves_close(out.tokens, tokens, rtol=0, atol=0)
  hard = forms.hard(tokens, signals, _params(), spec=SPEC, keep=V)
  _assert_leaves_close(hard.tokens, tokens, rtol=0, atol=0)


@pytest.mark.slow
@_few
@hypothesis.given(seed=st.integers(0, 999), tau=st.floats(1e-3, 50))
def test_hard_merging_conserves_size_inside_the_hull(seed, tau):
  tokens, signals = forms.example(seed, absent=(1,))
  params = _params(gamma=1.0)
  params = dataclasses.replace(params, tau=jnp.float32(tau))
  out = forms.hard(tokens, signals, params, spec=SPEC, keep=5)
  np.testing.assert_allclose(out.tokens.size.sum(), V - 1, rtol=1e-5)
  valid = np.asarray(tokens.log_mass) == 0
  directions = np.random.default_rng(seed).normal(size=(D, 20))
  inside = np.asarray(tokens.x)[valid] @ directions
  got = np.asarray(out.tokens.x) @ directions
  assert (got <= inside.max(0) + 1e-4).all()
  assert (got >= inside.min(0) - 1e-4).all()


@pytest.mark.parametrize("form", ["soft", "masked"])
def test_permuting_tokens_permutes_the_result(form):
  tokens, signals = forms.example(16, absent=(6,))
  order = jax.random.permutation(jax.random.key(0), V)
  other, moved = forms.permuted(tokens, signals, order)
  params = _params(**POINTS["mixed"])
  if form == "soft":
    run = lambda t, s: forms.soft(
      t, s, params, spec=SPEC, keep=5.0, temperature=0.2
    )
  else:
    run = lambda t, s: forms.masked(t, s, params, spec=SPEC, keep=5)
  a, b = run(tokens, signals), run(other, moved)
  expected = jax.tree.map(lambda v: v[order], a.tokens)
  _assert_leaves_close(b.tokens, expected, rtol=1e-4, atol=1e-4)
  np.testing.assert_allclose(
    b.assignment, a.assignment[order][:, order], rtol=1e-4, atol=1e-5
  )


def _outputs(x, keys, signals, tokens, params, spec, keep):
  tokens = dataclasses.replace(tokens, x=x)
  signals = dataclasses.replace(signals, keys=keys)
  out = ops.reduce_soft(
    tokens, signals, params, spec=spec, keep=keep, temperature=0.2
  )
  there = tokens.log_mass > ops.LOG_ZERO / 2
  seen = [
    jnp.exp(out.tokens.log_mass),
    jnp.where(there[:, None], out.tokens.x, 0),
    jnp.where(there, out.tokens.size, 0),
    jnp.where(there, out.tokens.bias, 0),
  ]
  total = sum(jnp.sum(jnp.sin(value)) for value in seen)
  return total, seen


@pytest.mark.slow
@pytest.mark.parametrize("name", ["hybrid", "tome", "pool"])
def test_absent_tokens_influence_nothing_and_get_no_gradient(name):
  spec = ops.PRESETS[name].replace(protect=0)
  absent = jnp.array([2, 7, 15])
  tokens, signals = forms.example(17, absent=(2, 7, 15))
  run = jax.jit(
    jax.value_and_grad(_outputs, (0, 1, 2), has_aux=True, allow_int=True),
    static_argnames="spec",
  )
  keep = 9.0
  args = (signals, tokens, spec.params(), spec, keep)
  (_, seen), grads = run(tokens.x, signals.keys, *args)
  for leaf in jax.tree.leaves(grads):
    assert bool(jnp.all(jnp.isfinite(leaf)))
    if leaf.shape[0] == V:
      np.testing.assert_array_equal(leaf[absent], 0)
  (_, moved), _ = run(
    tokens.x.at[absent].set(50.0), signals.keys.at[absent].set(-9.0), *args
  )
  _assert_leaves_close(moved, seen, rtol=1e-5, atol=1e-6)


def test_images_of_one_example_do_not_mix():
  tokens, signals = forms.example(18)
  tokens = dataclasses.replace(
    tokens, image=(jnp.arange(V) >= V // 2).astype(jnp.int32)
  )
  out = forms.hard(tokens, signals, _params(), spec=SPEC, keep=6)
  crosses = tokens.image[:, None] != out.tokens.image[None, :]
  np.testing.assert_array_equal(jnp.where(crosses, out.assignment, 0), 0)


@_few
@hypothesis.given(
  seed=st.integers(0, 999),
  keep=st.floats(0.5, V),
  temperature=st.floats(0.01, 3),
  tau=st.floats(1e-3, 10),
)
def test_soft_mass_size_and_leak(seed, keep, temperature, tau):
  tokens, signals = forms.example(seed)
  run = lambda gamma: (
    forms.soft(
      tokens,
      signals,
      dataclasses.replace(
        _params(gamma=gamma), tau=jnp.float32(tau), omega=jnp.zeros(2)
      ),
      spec=SPEC,
      keep=keep,
      temperature=temperature,
    ).tokens
  )
  pruned, merged = run(0.0), run(1.0)
  mass = jnp.exp(merged.log_mass)
  np.testing.assert_allclose(mass.sum(), keep, rtol=1e-5)
  assert float(merged.size.max()) <= V + 1e-3
  # The share of what is attended to that sits in removed rows. Equal
  # affinities, so that mass alone decides who receives.
  removed = mass < 0.5
  share = lambda t: (
    jnp.sum(jnp.where(removed, mass * t.size, 0)) / jnp.sum(mass * t.size)
  )
  assert float(share(merged)) <= float(share(pruned)) + 1e-5


def test_a_removed_token_receives_nothing():
  tokens, signals = forms.example(19)
  out = forms.soft(
    tokens, signals, _params(gamma=1.0), spec=SPEC, keep=5.0, temperature=0.02
  )
  gone = jnp.exp(out.tokens.log_mass) < 1e-3
  assert int(gone.sum()) > V // 3
  np.testing.assert_allclose(jnp.where(gone, out.tokens.size, 1), 1, atol=1e-5)


@pytest.mark.parametrize("absent", [0, 9])
def test_a_count_is_never_exceeded(absent):
  tokens, signals = forms.example(20, absent=tuple(range(absent)))
  out = forms.hard(tokens, signals, _params(), spec=SPEC, keep=10)
  there = np.asarray(out.tokens.log_mass) == 0
  assert there.sum() == min(10, V - absent)
  assert there.tolist() == sorted(there.tolist(), reverse=True)
  rows = np.asarray(out.index)[there]
  assert (np.diff(rows) > 0).all()


@pytest.mark.parametrize("keep", [0, V + 1, 2.5])
def test_impossible_counts_are_refused(keep):
  tokens, signals = forms.example(0)
  with pytest.raises(ValueError, match="keep is"):
    ops.reduce_hard(tokens, signals, _params(), spec=SPEC, keep=keep)


def test_traced_counts_are_refused_in_the_hard_form():
  tokens, signals = forms.example(0)
  run = lambda keep: ops.reduce_hard(
    tokens, signals, _params(), spec=SPEC, keep=keep
  )
  with pytest.raises(ValueError, match="static integer"):
    jax.jit(run)(3)


def test_bipartite_refuses_more_than_half():
  tokens, signals = forms.example(0)
  spec = ops.presets.TOME
  with pytest.raises(ValueError, match="leaves at least 9 of 16"):
    ops.reduce_hard(tokens, signals, spec.params(), spec=spec, keep=8)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["hybrid", "random"])
def test_protected_tokens_stay_and_stay_apart(name):
  spec = ops.PRESETS[name].replace(protect=2)
  tokens, signals = forms.example(21)
  args = (tokens, signals, spec.params())
  hard = forms.hard(*args, spec=spec, keep=5)
  soft = forms.soft(*args, spec=spec, keep=5.0, temperature=0.5)
  assert hard.index.tolist()[:2] == [0, 1]
  np.testing.assert_array_equal(hard.tokens.x[:2], tokens.x[:2])
  np.testing.assert_array_equal(soft.tokens.log_mass[:2], 0)
  np.testing.assert_array_equal(soft.tokens.x[:2], tokens.x[:2])
  np.testing.assert_allclose(jnp.exp(soft.tokens.log_mass).sum(), 5, rtol=1e-5)


def test_pool_keeps_protected_rows_in_front():
  spec = ops.presets.POOL.replace(protect=1)
  x = jnp.concatenate([jnp.full((1, 2), 9.0), jnp.ones((16, 2))])
  tokens = ops.token_set(
    x, position=jnp.concatenate([jnp.zeros(1, jnp.int32), jnp.arange(16)])
  )
  out = forms.hard(
    tokens, ops.Signals(grid=(4, 4)), spec.params(), spec=spec, keep=5
  )
  np.testing.assert_allclose(out.tokens.x[:, 0], [9, 1, 1, 1, 1], rtol=1e-5)
  np.testing.assert_allclose(out.tokens.size, [1, 4, 4, 4, 4])


@pytest.mark.slow
def test_kappa_splits_the_budget():
  tokens, signals = forms.example(22)
  importance = np.argsort(-np.asarray(signals.class_row))
  spec = SPEC.replace(scores=("class_row",), pi=(1.0,), kappa=0.5)
  out = forms.hard(tokens, signals, spec.params(), spec=spec, keep=8)
  kept = set(out.index.tolist())
  assert set(importance[:4].tolist()) <= kept
  from eos_jax.ops import score

  spread = np.argsort(-np.asarray(score.grid(tokens, signals)))
  others = [j for j in spread.tolist() if j not in importance[:4]][:4]
  assert kept == set(importance[:4].tolist()) | set(others)


@pytest.mark.slow
@pytest.mark.parametrize("diversity", ["grid", "uniqueness"])
def test_diversity_share_by_soft_and_hard(diversity):
  spec = SPEC.replace(diversity=diversity, kappa=0.5)
  tokens, signals = forms.example(23)
  args = (tokens, signals, spec.params())
  hard = forms.hard(*args, spec=spec, keep=6)
  soft = forms.soft(*args, spec=spec, keep=6.0, temperature=SMALL_T)
  kept = np.flatnonzero(np.asarray(jnp.exp(soft.tokens.log_mass)) > 0.5)
  assert kept.tolist() == hard.index.tolist()


def test_keep_count():
  assert ops.keep_count(100.0, 0.0, 0.3) == 100
  assert ops.keep_count(100.0, 1.0, 0.3) == pytest.approx(30)
  grad = jax.grad(ops.keep_count, (0, 1, 2))(100.0, 0.5, 0.5)
  np.testing.assert_allclose(grad, [0.75, -50.0, 50.0])


def test_params_are_read_not_the_defaults_of_the_spec():
  tokens, signals = forms.example(24)
  args = dict(spec=SPEC, keep=5)
  one = forms.hard(tokens, signals, _params(gamma=0.0), **args)
  two = forms.hard(tokens, signals, _params(gamma=1.0), **args)
  assert not np.allclose(one.tokens.x, two.tokens.x)
