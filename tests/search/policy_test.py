import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eos_jax import cost, ops, search
from eos_jax.search import expected, policy, space

SITES = ("decoder.0", "decoder.1", "decoder.3")
ALL = tuple(space.GROUPS)


def _space(**changes):
  base = {
    "sites": SITES,
    "tokens": 144,
    "layers": 5,
    "spec": ops.presets.HYBRID,
    "free": ALL,
  }
  return space.SearchSpace(**base | changes)


def _random_policy(where, seed, scale=30.0):
  start = policy.init_policy(
    where, constraints=search.limits(layer_average=48.0)
  )
  keys = jax.random.split(jax.random.key(seed), len(start))
  return {
    name: scale * jax.random.normal(key, value.shape)
    for key, (name, value) in zip(keys, start.items(), strict=True)
  }


@pytest.mark.parametrize("seed", range(3))
def test_any_policy_decodes_into_the_ranges(seed):
  where = _space(ranges=(("gamma", (0.2, 0.6)), ("tau", (0.1, float("inf")))))
  params = policy.decode(_random_policy(where, seed), where)
  for name in ("pi", "omega"):
    rows = np.asarray(getattr(params, name))
    assert (rows >= 0).all()
    np.testing.assert_allclose(rows.sum(-1), 1.0, rtol=1e-6)
  for name in where.fields:
    if name not in ("pi", "omega"):
      low, high = where.range_of(name)
      value = np.asarray(getattr(params, name))
      assert value.shape == (len(SITES),)
      assert ((value >= low) & (value <= high)).all(), name


def test_every_leaf_is_float32_with_a_site_axis():
  where = _space(free=("how_many",))
  params = policy.decode(
    policy.init_policy(where, constraints=search.limits(layer_average=48.0)),
    where,
  )
  for field in dataclasses.fields(params):
    leaf = getattr(params, field.name)
    assert leaf.dtype == jnp.float32
    assert leaf.shape[0] == len(SITES)


def test_groups_cover_all_numbers_once():
  fields = [f for group in space.GROUPS.values() for f in group]
  assert sorted(fields) == sorted(
    field.name for field in dataclasses.fields(ops.OperatorParams)
  )


@pytest.mark.slow
@pytest.mark.parametrize("group", ALL)
def test_what_is_not_free_is_the_spec(group):
  where = _space(free=tuple(g for g in ALL if g != group))
  params = policy.decode(_random_policy(where, 0), where)
  numbers = where.spec.params()
  for field in space.GROUPS[group]:
    for row in np.asarray(getattr(params, field)):
      np.testing.assert_array_equal(row, np.asarray(getattr(numbers, field)))


@pytest.mark.slow
def test_frozen_sites_are_the_spec_and_get_no_gradient():
  where = _space(frozen_sites=("decoder.1",))
  start = _random_policy(where, 0, scale=1.0)
  params = policy.decode(start, where)
  numbers = where.spec.params()
  for name in where.fields:
    np.testing.assert_array_equal(
      np.asarray(getattr(params, name))[1], np.asarray(getattr(numbers, name))
    )

  def total(start):
    params = policy.decode(start, where)
    return sum(jnp.sum(jnp.square(x)) for x in jax.tree.leaves(params))

  for name, gradient in jax.grad(total)(start).items():
    assert np.isfinite(gradient).all(), name
    assert (np.asarray(gradient)[1] == 0).all(), name
    assert (np.asarray(gradient)[[0, 2]] != 0).any(), name


@pytest.mark.parametrize("limit", [96.0, 48.0, 32.0, 16.0, 4.0])
@pytest.mark.parametrize("decay", [None, 0.7])
def test_warm_start_has_the_layer_average_asked_for(limit, decay):
  where = _space(sites=tuple(f"decoder.{i}" for i in range(5)))
  start = policy.init_policy(
    where,
    constraints=search.limits(layer_average=limit),
    multiple=1.2,
    decay=decay,
  )
  params = policy.decode(start, where)
  average = float(
    expected.layer_average(expected.site_counts(params, where), where)
  )
  assert average == pytest.approx(min(1.2 * limit, 144.0), rel=0.02)
  counts = np.asarray(expected.site_counts(params, where))
  assert (np.diff(counts) <= 1e-4).all()


def test_warm_start_with_given_counts():
  where = _space()
  params = policy.decode(
    policy.init_policy(
      where, constraints=search.limits(layer_average=48.0), counts=(100, 40, 12)
    ),
    where,
  )
  np.testing.assert_allclose(
    expected.site_counts(params, where), [100, 40, 12], rtol=5e-3
  )
  np.testing.assert_allclose(
    expected.layer_counts(expected.site_counts(params, where), where),
    [100, 40, 40, 12, 12],
    rtol=5e-3,
  )
  assert float(
    expected.final_count(expected.site_counts(params, where), where)
  ) == pytest.approx(12, 0.01)


@pytest.mark.slow
def test_warm_start_is_alive_and_near_the_spec():
  where = _space()
  start = policy.init_policy(
    where, constraints=search.limits(layer_average=16.0)
  )

  def each(start):
    return vars(policy.decode(start, where))

  jacobian = jax.jacobian(each)(start)
  for name in where.fields:
    slope = np.abs(np.asarray(jacobian[name][name])).max()
    assert slope > 1e-3, name
  params = policy.decode(start, where)
  assert float(jnp.abs(params.gamma - where.spec.gamma).max()) < 0.06


def test_constant_counts():
  where = _space(free=("transfer",), counts=(100, 40, 12))
  params = policy.decode(
    policy.init_policy(where, constraints=search.limits(layer_average=48.0)),
    where,
  )
  np.testing.assert_allclose(
    expected.site_counts(params, where), [100, 40, 12], rtol=1e-5
  )


def test_only_where_is_free():
  spec = ops.presets.HYBRID.replace(retention=0.1)
  where = _space(free=("where",), spec=spec)
  params = policy.decode(
    policy.init_policy(where, constraints=search.limits(layer_average=60.0)),
    where,
  )
  assert float(
    expected.layer_average(expected.site_counts(params, where), where)
  ) == pytest.approx(60, 0.02)


def test_vision_sites_cut_every_decoder_layer():
  where = _space(sites=("vision.1", "decoder.2"))
  params = policy.decode(
    policy.init_policy(
      where, constraints=search.limits(layer_average=90.0), counts=(100, 40)
    ),
    where,
  )
  np.testing.assert_allclose(
    expected.layer_counts(expected.site_counts(params, where), where),
    [100, 100, 40, 40, 40],
    rtol=2e-3,
  )


def test_no_site_early_enough():
  where = _space(sites=("decoder.2",))
  with pytest.raises(cost.UnreachableBudget, match="earlier"):
    policy.init_policy(where, constraints=search.limits(layer_average=48.0))


def test_decode_rejects_a_policy_of_another_space():
  start = policy.init_policy(
    _space(), constraints=search.limits(layer_average=48.0)
  )
  with pytest.raises(ValueError, match="init_policy"):
    policy.decode(start, _space(free=("where",)))


def test_faults_of_a_space_are_listed_together():
  with pytest.raises(ValueError) as caught:
    _space(
      sites=("decoder.1", "decoder.0", "decoder.9"),
      free=("where", "colour"),
      frozen_sites=("vision.0",),
      counts=(100, 120),
      ranges=(("gamma", (0.5, 1.5)), ("size", (0.0, 1.0))),
    )
  message = str(caught.value)
  for word in (
    "order of the model",
    "decoder.9",
    "colour",
    "vision.0",
    "counts",
    "gamma",
    "'size'",
  ):
    assert word in message
