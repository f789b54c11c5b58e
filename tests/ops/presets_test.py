"""Each preset against a slow reference, hard form, and hand-made cases."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eos_jax import cost, ops
from eos_jax.ops import presets, types
from tests.ops import forms, reference

K = 6


def _hard(spec, tokens, signals, keep=K):
  return forms.hard(tokens, signals, spec.params(), spec=spec, keep=keep)


def _inputs(seed):
  tokens, signals = forms.example(seed)
  return tokens, signals, np.asarray(tokens.x, np.float64)


def _check(out, x, size, kept):
  np.testing.assert_array_equal(out.index, kept)
  np.testing.assert_array_equal(out.tokens.position, kept)
  np.testing.assert_allclose(out.tokens.x, x, rtol=1e-4, atol=1e-5)
  np.testing.assert_allclose(out.tokens.size, size, rtol=1e-4)
  np.testing.assert_array_equal(out.tokens.log_mass, 0)


@pytest.mark.parametrize("seed", [0, 1])
def test_prune(seed):
  tokens, signals, x = _inputs(seed)
  y, kept = reference.prune(x, np.asarray(signals.class_row), K)
  _check(_hard(ops.presets.PRUNE, tokens, signals), y, 1, kept)


def test_reweight():
  tokens, signals, x = _inputs(0)
  spec = ops.presets.REWEIGHT
  y, kept, log_weight = reference.reweight(
    x, np.asarray(signals.class_row), K, spec.rho
  )
  out = _hard(spec, tokens, signals)
  _check(out, y, 1, kept)
  np.testing.assert_allclose(
    out.tokens.bias, spec.rho_attn * log_weight, rtol=1e-4
  )


@pytest.mark.slow
@pytest.mark.parametrize("name", ["merge", "merge_proportional", "pool_soft"])
def test_merge_family(name):
  tokens, signals, x = _inputs(0)
  spec = ops.PRESETS[name]
  _, kept = reference.prune(x, np.asarray(signals.class_row), K)
  y, size = reference.merge(x, kept, spec.tau)
  out = _hard(spec, tokens, signals)
  _check(out, y, size, kept)
  np.testing.assert_allclose(
    out.tokens.bias, spec.delta * np.log(size), rtol=1e-3, atol=1e-5
  )


def test_merge_reaches_the_nearest_and_pool_spreads_evenly():
  tokens, signals, _ = _inputs(0)
  out = _hard(ops.presets.MERGE, tokens, signals)
  removed = np.setdiff1d(np.arange(forms.V), out.index)
  near = np.asarray(out.assignment)
  even = np.asarray(_hard(ops.presets.POOL_SOFT, tokens, signals).assignment)
  cosine = np.asarray(ops.cosine_matrix(tokens.x))[:, out.index]
  np.testing.assert_array_equal(
    near[removed].argmax(1), cosine[removed].argmax(1)
  )
  np.testing.assert_allclose(even[removed], 1 / K, rtol=0.02)


def test_random():
  tokens, signals, x = _inputs(3)
  kept = reference.top(np.asarray(signals.noise), K)
  _check(_hard(ops.presets.RANDOM, tokens, signals), x[kept], 1, kept)


def test_grid():
  tokens, signals, x = _inputs(3)
  kept = sorted(reference.spread_order(*forms.GRID)[:K])
  _check(_hard(ops.presets.GRID, tokens, signals), x[kept], 1, kept)


@pytest.mark.slow
@pytest.mark.parametrize("keep", [1, 4, 6, 7, 16])
def test_pool(keep):
  tokens, signals, x = _inputs(4)
  rows, columns = ops.cell_shape(keep, forms.GRID)
  y, size = reference.pool(x, *forms.GRID, rows, columns)
  out = _hard(ops.presets.POOL, tokens, signals, keep)
  np.testing.assert_allclose(out.tokens.x, y, rtol=1e-4, atol=1e-5)
  np.testing.assert_allclose(out.tokens.size, size, rtol=1e-5)
  member = np.asarray(out.assignment)[out.index, np.arange(keep)]
  assert (member > 0).all()


def test_fastv():
  tokens, signals, x = _inputs(5)
  kept = reference.top(np.asarray(signals.last_row_previous), K)
  _check(_hard(ops.presets.FASTV, tokens, signals), x[kept], 1, kept)


@pytest.mark.slow
@pytest.mark.parametrize("protect", [0, 1, 2])
def test_tome(protect):
  tokens, signals, x = _inputs(6)
  spec = ops.presets.TOME.replace(protect=protect)
  keep = 10
  y, size, order, groups = reference.tome(
    x, np.asarray(signals.keys), np.ones(forms.V), keep, protect
  )
  out = _hard(spec, tokens, signals, keep)
  _check(out, y, size, order)
  np.testing.assert_allclose(out.tokens.bias, np.log(size), atol=1e-6)
  for row, group in enumerate(groups):
    got = np.flatnonzero(np.asarray(out.assignment)[:, row])
    assert set(group) - {order[row]} <= set(got.tolist())


def test_tome_twice_carries_sizes():
  tokens, signals, x = _inputs(7)
  spec = ops.presets.TOME.replace(protect=0)
  first = _hard(spec, tokens, signals, 10)
  keys = signals.keys[first.index]
  second = _hard(spec, first.tokens, ops.Signals(keys=keys, grid=forms.GRID), 6)
  y, size, *_ = reference.tome(
    np.asarray(first.tokens.x, np.float64),
    np.asarray(keys),
    np.asarray(first.tokens.size),
    6,
    0,
  )
  np.testing.assert_allclose(second.tokens.x, y, rtol=1e-4, atol=1e-5)
  np.testing.assert_allclose(second.tokens.size, size, rtol=1e-5)
  np.testing.assert_allclose(second.tokens.bias, np.log(size), atol=1e-5)


def test_hybrid():
  tokens, signals, x = _inputs(8)
  spec = ops.presets.HYBRID
  order = sum(
    spec.pi[i] * reference.standardise(np.asarray(value, np.float64))
    for i, value in (
      (0, signals.last_row),
      (1, signals.text_rows),
      (2, signals.class_row),
      (4, np.linalg.norm(x, axis=1)),
    )
  )
  unique = reference.standardise(reference.uniqueness(x, order))
  kept = reference.top(order + spec.pi[3] * unique, K)
  y, size = reference.merge(x, kept, spec.tau, spec.gamma)
  out = _hard(spec, tokens, signals)
  _check(out, y, size, kept)
  np.testing.assert_allclose(out.tokens.bias, np.log(size), rtol=1e-3)


def test_names_are_unique_and_documented():
  assert list(ops.PRESETS) == list(presets.RECORDS)
  for name, spec in ops.PRESETS.items():
    record = presets.RECORDS[name]
    assert spec.name == name and record.spec is spec
    assert len(record.doc) > 40
    assert hash(spec) == hash(spec.replace())
    assert hash(record) == hash(record)


def _without(name):
  ops.PRESETS.pop(name, None), presets.RECORDS.pop(name, None)


def test_presets_can_be_registered(request):
  request.addfinalizer(lambda: _without("mine"))
  spec = ops.presets.FASTV.replace(name="mine", gamma=0.5)
  late = ops.Placement(layers=(14,), depth=28)
  record = dict(title="Mine", placement=late)
  assert ops.register(spec, **record) is spec is ops.PRESETS["mine"]
  assert presets.RECORDS["mine"] == presets.Preset(spec, **record)
  ops.register(spec, **record)  # the same again, as a module that is read anew
  plan = cost.budget_plan(
    spec, limit=40, tokens=64, layers=4, vision_layers=2, model="m"
  )
  assert [site.site for site in plan.sites] == ["decoder.2"]
  with pytest.raises(ValueError, match="another preset has this name"):
    ops.register(spec.replace(gamma=0.25))
  assert ops.PRESETS["mine"] is spec


@pytest.mark.full
def test_the_nearest_preset_may_be_a_registered_one(request):
  request.addfinalizer(lambda: _without("mine"))
  spec = ops.presets.MERGE.replace(name="mine", scores=("norm",), pi=(1.0,))
  before = ops.nearest_preset(spec)
  assert before.distance > 0
  ops.register(spec)
  found = ops.nearest_preset(spec.replace(name="found"))
  assert (found.name, found.distance) == ("mine", 0)


@pytest.mark.parametrize(
  "changes, words",
  [
    (dict(name="a/b"), "name is 'a/b', give a name without '/'"),
    (dict(name="fastv"), "preset 'fastv': another preset has this name"),
    (dict(select="best"), "select names 'best', use one of"),
  ],
)
def test_presets_that_are_refused(changes, words):
  spec = ops.presets.PRUNE.replace(**{"name": "mine", **changes})
  with pytest.raises(ValueError, match=words):
    ops.register(spec)
  assert "mine" not in ops.PRESETS


@pytest.mark.parametrize(
  "fields, words",
  [
    (dict(site="attic"), "site is 'attic', use 'vision' or 'decoder'"),
    (dict(layers=(32,)), "give at least one layer in 0..31"),
    (dict(layers=()), "give at least one layer"),
    (dict(schedule=(0.5, 0.2)), "schedule has 2 shares for 1 layers"),
    (dict(schedule=(1.5,)), "use shares in"),
  ],
)
def test_placements_that_are_refused(fields, words):
  with pytest.raises(ValueError, match=words):
    ops.Placement(**fields)


def test_corners_are_points_of_the_hybrid_space():
  """The named corners are numbers, not kernels of their own."""
  tokens, signals, _ = _inputs(9)
  base = ops.presets.HYBRID.replace(
    scores=("class_row", "uniqueness"), pi=(0.01, 0.99), delta=0.0
  )
  corners = {
    "prune": dict(gamma=0.0),
    "reweight": dict(gamma=0.0, rho=0.5, rho_attn=0.5),
    "merge": dict(gamma=1.0, tau=ops.TAU_FLOOR),
    "pool_soft": dict(gamma=1.0, tau=100.0),
  }
  for name, numbers in corners.items():
    params = base.replace(**numbers).params()
    got = forms.hard(tokens, signals, params, spec=base, keep=K)
    expected = _hard(ops.PRESETS[name], tokens, signals)
    for a, b in zip(
      jax.tree.leaves(got.tokens), jax.tree.leaves(expected.tokens), strict=True
    ):
      np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_all_numbers_have_a_range():
  fields = {field.name for field in dataclasses.fields(ops.OperatorParams)}
  assert {*types.NUMBERS, "pi", "omega"} == fields


def test_params_are_float32_and_stack():
  params = ops.presets.HYBRID.params()
  for leaf in jax.tree.leaves(params):
    assert leaf.dtype == jnp.float32
  stacked = jax.tree.map(lambda a, b: jnp.stack([a, b]), params, params)
  assert stacked.pi.shape == (2, 5) and stacked.tau.shape == (2,)
