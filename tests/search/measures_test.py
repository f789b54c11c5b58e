"""Costs as constraints of a search."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from eos_jax import cost, ops, search

SHAPE = cost.ModelShape(
  vision_layers=4,
  vision_width=128,
  vision_mlp=512,
  vision_heads=4,
  patch_dim=192,
  vision_tokens=145,
  projector_hidden=256,
  layers=5,
  width=128,
  heads=4,
  kv_heads=2,
  head_dim=32,
  mlp=384,
  vocab=500,
)
TEXT = 20
SPACE = search.SearchSpace(
  sites=tuple(f"decoder.{i}" for i in range(5)),
  tokens=144,
  layers=5,
  spec=ops.presets.HYBRID,
  free=("where", "how_many"),
)
IN_BOTH = dataclasses.replace(
  SPACE, sites=("vision.1", "vision.3", "decoder.0", "decoder.3")
)


def _table(**changes):
  """Layer times that rise with the square of the tokens, batches 1 and 8."""
  tokens = np.array([16, 32, 64, 96, 128, 164])
  seconds = 1e-6 * (100 + tokens + tokens**2 / 100)
  fields = dict(
    model="tiny",
    device="test",
    dtype="float32",
    jax_version="0",
    tokens=tokens,
    batches=[1, 8],
    seconds=np.stack([seconds, 7 * seconds]),
    overhead=[1e-4, 3e-4],
    vision_rows=[],
    vision_seconds=np.zeros((2, 0)),
  )
  return cost.LatencyTable(**fields | changes)


def _measures(space):
  return {
    "flops": search.flops_measure(SHAPE, space, TEXT),
    "kv": search.kv_measure(SHAPE, space, TEXT),
    "latency": search.latency_measure(_table(), space, TEXT, batch=8),
    # A large batch, so that arithmetic binds and not the weights.
    "roofline": search.roofline_measure(
      cost.DEVICES["tpu_v5e"], SHAPE, space, TEXT, batch=512
    ),
  }


def _counts(space, counts):
  """A space whose counts are constant."""
  return dataclasses.replace(space, free=(), counts=counts)


def _exact(space, counts):
  """The same costs of the plan with these counts, in exact integers."""
  sites = tuple(
    ops.PlannedSite(site, keep, space.spec)
    for site, keep in zip(space.sites, counts, strict=True)
  )
  plan = ops.ReductionPlan("p", "tiny", 144, 5, sites)
  layers, rows = cost.layer_counts(plan), cost.vision_row_counts(plan, SHAPE)
  operators = cost.plan_operator_flops(SHAPE, plan, TEXT)
  return {
    "flops": cost.prefill_flops(SHAPE, layers, TEXT, rows) + operators,
    "kv": cost.kv_cache_bytes(SHAPE, layers, TEXT),
    "latency": cost.latency(_table(), layers, TEXT, batch=8),
    "roofline": cost.prefill_seconds(
      cost.DEVICES["tpu_v5e"],
      SHAPE,
      layers,
      TEXT,
      rows,
      batch=512,
      operator_flops=operators,
    ),
  }


@pytest.mark.parametrize(
  "space, counts",
  [(SPACE, (100, 60, 60, 9, 1)), (IN_BOTH, (110, 90, 31, 8))],
  ids=["decoder", "encoder and decoder"],
)
@pytest.mark.parametrize("name", ["flops", "kv", "latency", "roofline"])
def test_measures_agree_with_the_costs_of_a_plan(name, space, counts):
  fixed = _counts(space, counts)
  got = _measures(fixed)[name](jnp.asarray(counts, jnp.float32))
  assert got.dtype == jnp.float32 and got.shape == ()
  exact = _exact(space, counts)[name]
  np.testing.assert_allclose(got, exact, rtol=2e-6)
  assert _measures(space)[name](counts) == exact


@pytest.mark.slow
@pytest.mark.parametrize("name", ["flops", "kv", "latency", "roofline"])
def test_every_free_site_feels_every_measure(name):
  policy = search.init_policy(
    IN_BOTH, constraints=search.limits(layer_average=40.0)
  )

  def value(policy):
    return _measures(IN_BOTH)[name](
      search.site_counts(search.decode(policy, IN_BOTH), IN_BOTH)
    )

  grads = jax.grad(value)(policy)
  # Retention raises the cost, activation lowers it.
  assert np.all(np.asarray(grads["retention"]) > 0)
  assert np.all(np.asarray(grads["activation"]) < 0)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["flops", "kv", "latency", "roofline"])
def test_a_search_meets_a_limit_of_any_measure(name):
  measure = _measures(SPACE)[name]
  # What 24 tokens in every layer cost, in the unit of the measure.
  limit = _exact(SPACE, (24,) * 5)[name]
  constraints = (search.Constraint(name, limit),)
  optimizer = search.make_optimizer(
    optax.adam(optax.cosine_decay_schedule(0.1, 200, 0.02)), multiplier_lr=0.5
  )

  def loss_fn(policy, batch, key):
    del batch, key  # every token is worth something, the first ones more
    counts = search.layer_counts(
      search.site_counts(search.decode(policy, SPACE), SPACE), SPACE
    )
    return -jnp.mean(jnp.log(counts)), {}

  @jax.jit
  def step(state):
    return search.search_step(
      state,
      None,
      jax.random.key(0),
      space=SPACE,
      loss_fn=loss_fn,
      optimizer=optimizer,
      constraints=constraints,
      measures={name: measure},
      penalty=8.0,
    )

  state = search.init_state(
    search.init_policy(SPACE, constraints=search.limits(layer_average=60.0)),
    constraints=constraints,
    optimizer=optimizer,
  )
  for index in range(200):
    state, metrics = step(state)
    if index == 0:
      assert float(metrics[f"violation/{name}"]) > 0.05
  assert abs(float(metrics[f"violation/{name}"])) < 0.02
  assert float(metrics[f"multiplier/{name}"]) > 0
  params = search.decode(state.variables["policy"], SPACE)
  assert (
    15
    < float(search.layer_average(search.site_counts(params, SPACE), SPACE))
    < 34
  )


def test_a_latency_far_outside_of_the_table_still_has_a_slope():
  # Nothing below 64 rows was measured, and the text alone has fewer.
  table = _table(
    tokens=[64, 164],
    seconds=[[1e-4, 3e-4]],
    batches=[1],
    overhead=[0.0],
    vision_seconds=np.zeros((1, 0)),
  )
  measure = search.latency_measure(table, SPACE, 2, batch=1)
  policy = search.init_policy(
    SPACE, constraints=search.limits(layer_average=4.0)
  )
  grads = jax.grad(
    lambda p: measure(search.site_counts(search.decode(p, SPACE), SPACE))
  )(policy)
  assert np.all(np.asarray(grads["retention"]) > 0)


def test_a_table_with_encoder_blocks_feels_sites_in_the_encoder():
  table = _table(
    vision_rows=[1, 145], vision_seconds=[[1e-5, 1e-4], [1e-4, 7e-4]]
  )
  measure = search.latency_measure(table, IN_BOTH, TEXT, batch=1, shape=SHAPE)
  fixed = _counts(IN_BOTH, (110, 90, 31, 8))
  got = search.latency_measure(table, fixed, TEXT, batch=1, shape=SHAPE)(
    jnp.array([110.0, 90.0, 31.0, 8.0])
  )
  exact = cost.latency(
    table, (31, 31, 31, 8, 8), TEXT, (145, 111, 111, 91), batch=1
  )
  np.testing.assert_allclose(got, exact, rtol=1e-6)
  policy = search.init_policy(
    IN_BOTH, constraints=search.limits(layer_average=40.0)
  )
  grads = jax.grad(
    lambda p: measure(search.site_counts(search.decode(p, IN_BOTH), IN_BOTH))
  )(policy)
  assert np.all(np.asarray(grads["retention"]) > 0)
  with pytest.raises(ValueError, match="give the ModelShape"):
    search.latency_measure(table, IN_BOTH, TEXT, batch=1)


def test_mistakes_are_named_before_a_search_starts():
  other = dataclasses.replace(SHAPE, layers=6, vision_tokens=100)
  with pytest.raises(ValueError) as error:
    search.flops_measure(other, SPACE, TEXT)
  assert "layers is 5 in the space and 6 in the shape" in str(error.value)
  assert "tokens is 144 in the space and 99 in the shape" in str(error.value)
  with pytest.raises(ValueError, match="batch is 3"):
    search.latency_measure(_table(), SPACE, TEXT, batch=3)
  with pytest.raises(ValueError, match="no rate for dtype 'float32'"):
    search.roofline_measure(
      cost.DEVICES["h100"], SHAPE, SPACE, TEXT, dtype="float32"
    )
