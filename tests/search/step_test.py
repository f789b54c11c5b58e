import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from eos_jax import ops, search

PENALTY = 4.0


def _space(**changes):
  base = {
    "sites": tuple(f"decoder.{i}" for i in range(5)),
    "tokens": 144,
    "layers": 5,
    "spec": ops.presets.HYBRID,
    "free": ("where", "how_many"),
  }
  return search.SearchSpace(**base | changes)


def _step_fn(where, loss_fn, optimizer, measures=None, name="layer_average"):
  def step(state, batch, key, limit, temperature):
    return search.search_step(
      state,
      batch,
      key,
      space=where,
      loss_fn=lambda *args: loss_fn(*args, temperature=temperature),
      optimizer=optimizer,
      constraints=(search.Constraint(name, limit),),
      measures=measures,
      penalty=PENALTY,
    )

  return jax.jit(step)


def _run(where, loss_fn, limit, *, steps=400, start=1.5, name="layer_average"):
  optimizer = search.make_optimizer(
    optax.adam(optax.cosine_decay_schedule(0.1, steps, 0.02)),
    multiplier_lr=0.3,
  )
  step = _step_fn(where, loss_fn, optimizer, name=name)
  state = search.init_state(
    search.init_policy(
      where, constraints=(search.Constraint(name, limit),), multiple=start
    ),
    constraints=(search.Constraint(name, limit),),
    optimizer=optimizer,
  )
  history = []
  for _ in range(steps):
    state, metrics = step(state, None, jax.random.key(0), limit, 1.0)
    history.append({k: np.asarray(v) for k, v in metrics.items() if k != "aux"})
  return state, history


def _worth(where, values):
  """Loss: minus a concave worth of the tokens that each layer sees."""

  def loss_fn(policy, batch, key, temperature):
    counts = search.layer_counts(
      search.site_counts(search.decode(policy, where), where), where
    )
    worth = jnp.asarray(values) * jnp.log(counts)
    return -jnp.sum(worth), {"worth": worth}

  return loss_fn


@pytest.mark.slow
@pytest.mark.parametrize("limit", [48.0, 16.0, 4.0])
def test_meets_the_limit_and_finds_the_optimum(limit):
  where = _space()
  # sum v log c under sum c = 5 limit is best at c = 5 limit v / sum v.
  values = np.array([5.0, 4.0, 3.0, 2.0, 1.0], np.float32) / 15
  state, history = _run(where, _worth(where, values), limit)
  params = search.decode(state.variables["policy"], where)
  average = float(
    search.layer_average(search.site_counts(params, where), where)
  )
  assert 0.95 * limit <= average <= 1.02 * limit
  np.testing.assert_allclose(
    search.layer_counts(search.site_counts(params, where), where),
    5 * limit * values,
    rtol=0.1,
  )
  plan = search.discretize(
    state.variables["policy"],
    where,
    constraints=search.limits(layer_average=limit),
    model="toy",
  )
  assert sum(site.keep for site in plan.sites) <= 5 * limit
  assert history[-1]["multiplier/layer_average"] > 0


def test_slack_limit_pulls_towards_nothing():
  where = _space()

  def few_tokens(policy, batch, key, temperature):
    counts = search.layer_counts(
      search.site_counts(search.decode(policy, where), where), where
    )
    return jnp.mean(jnp.square(counts / 20.0 - 1.0)), {}

  state, history = _run(where, few_tokens, limit=60.0, start=1.2)
  params = search.decode(state.variables["policy"], where)
  # The loss wants 20; the limit of 60 has no say in the end.
  assert float(
    search.layer_average(search.site_counts(params, where), where)
  ) == pytest.approx(20, 0.1)
  multipliers = [float(h["multiplier/layer_average"]) for h in history]
  assert max(multipliers) > 0
  assert multipliers[-1] == 0


def test_final_count_can_be_the_constraint():
  where = _space()
  values = np.full(5, 0.2, np.float32)
  state, _ = _run(where, _worth(where, values), 10.0, name="final_count")
  params = search.decode(state.variables["policy"], where)
  assert (
    float(search.final_count(search.site_counts(params, where), where)) <= 10.2
  )
  assert (
    float(search.layer_average(search.site_counts(params, where), where)) > 20
  )


@pytest.mark.slow
def test_one_compilation_for_all_budgets_and_temperatures():
  where = _space(free=tuple(search.GROUPS))
  features = jax.random.normal(jax.random.key(1), (144, 8))

  def loss_fn(policy, batch, key, temperature):
    params = search.decode(policy, where)
    first = jax.tree.map(lambda leaf: leaf[0], params)
    tokens = ops.token_set(batch)
    keep = ops.keep_count(jnp.float32(144), first.activation, first.retention)
    out = ops.reduce_soft(
      tokens,
      _signals(batch),
      first,
      spec=where.spec,
      keep=keep,
      temperature=temperature,
    )
    mass = jnp.exp(out.tokens.log_mass)
    return -jnp.mean(mass * jnp.sum(out.tokens.x, axis=-1)), {}

  optimizer = search.make_optimizer(optax.adam(0.05), multiplier_lr=1.0)
  step = _step_fn(where, loss_fn, optimizer)
  state = search.init_state(
    search.init_policy(where, constraints=search.limits(layer_average=16.0)),
    constraints=search.limits(layer_average=16.0),
    optimizer=optimizer,
  )
  for limit, temperature in ((48.0, 1.0), (16.0, 0.3), (4.0, 0.05)):
    state, metrics = step(
      state, features, jax.random.key(0), limit, temperature
    )
    assert np.isfinite(metrics["gradient_norm"]).all()
    assert metrics["gradient_norm"] > 0
  assert step._cache_size() == 1
  for leaf in jax.tree.leaves(state.variables):
    assert np.isfinite(leaf).all()


def _signals(features):
  row = jax.nn.softmax(features[:, 0])
  return ops.Signals(
    keys=features,
    last_row=row,
    last_row_previous=row,
    text_rows=row,
    class_row=row,
    received=row,
    noise=row,
    grid=(12, 12),
  )


def _regression():
  """Somebody else's model: a linear probe on two layers of pooled tokens."""
  keys = jax.random.split(jax.random.key(2), 3)
  tokens = jax.random.normal(keys[0], (8, 24, 6))
  hidden = jax.random.normal(keys[1], (6,))
  target = jnp.mean(tokens, axis=1) @ hidden
  where = search.SearchSpace(
    sites=("decoder.0",),
    tokens=24,
    layers=1,
    spec=ops.presets.HYBRID.replace(scores=("norm", "random"), pi=(0.5, 0.5)),
    free=("how_many", "where", "scores", "transfer", "size_bias"),
  )

  def loss_fn(policy, batch, key, model):
    params = jax.tree.map(lambda leaf: leaf[0], search.decode(policy, where))
    keep = ops.keep_count(jnp.float32(24), params.activation, params.retention)

    def predict(x, key):
      out = ops.reduce_soft(
        ops.token_set(x),
        ops.Signals(noise=jax.random.uniform(key, (24,)), grid=(4, 6)),
        params,
        spec=where.spec,
        keep=keep,
        temperature=0.1,
      )
      weight = jax.nn.softmax(out.tokens.log_mass + out.tokens.bias)
      return jnp.sum(weight @ out.tokens.x * model["w"])

    x, y = batch
    guess = jax.vmap(predict)(x, jax.random.split(key, len(x)))
    loss = jnp.mean(jnp.square(guess - y))
    return loss, {"alignment": jnp.var(guess)}

  return where, loss_fn, (tokens, target)


@pytest.mark.slow
def test_somebody_elses_model_trained_jointly():
  where, loss_fn, batch = _regression()
  constraints = (search.Constraint("flops", 60.0),)
  optimizer = search.make_optimizer(
    optax.adam(0.05), model_tx=optax.adam(0.05), multiplier_lr=1.0
  )

  @jax.jit
  def step(state, batch, key):
    return search.search_step(
      state,
      batch,
      key,
      space=where,
      loss_fn=loss_fn,
      optimizer=optimizer,
      constraints=constraints,
      measures={"flops": lambda counts: 6 * counts[-1]},
      penalty=PENALTY,
      align=1e-3,
    )

  state = search.init_state(
    search.init_policy(where, constraints=search.limits(layer_average=20.0)),
    constraints=constraints,
    optimizer=optimizer,
    model={"w": jnp.zeros(6)},
  )
  history = []
  for _ in range(100):
    state, metrics = step(state, batch, jax.random.key(3))
    history.append(metrics)
  assert history[-1]["task"] < 0.7 * history[0]["task"]
  assert history[-1]["value/flops"] <= 1.02 * 60
  assert history[-1]["alignment"] > 0
  assert state.step == 100


def test_keys_change_from_step_to_step():
  where = _space()

  def loss_fn(policy, batch, key, temperature):
    params = search.decode(policy, where)
    draw = jax.random.uniform(key)
    return search.layer_average(
      search.site_counts(params, where), where
    ) * 0.0 + draw, {"draw": draw}

  optimizer = search.make_optimizer(optax.sgd(0.1), multiplier_lr=1.0)
  step = _step_fn(where, loss_fn, optimizer)
  state = search.init_state(
    search.init_policy(where, constraints=search.limits(layer_average=48.0)),
    constraints=search.limits(layer_average=48.0),
    optimizer=optimizer,
  )
  draws = []
  for _ in range(3):
    state, metrics = step(state, None, jax.random.key(0), 48.0, 1.0)
    draws.append(float(metrics["aux"]["draw"]))
  assert len(set(draws)) == 3


def test_unknown_measure_is_named():
  where = _space()
  with pytest.raises(ValueError, match="latency"):
    search.measure((9,) * 5, where, search.limits(latency=1.0))


@pytest.mark.slow
def test_bilevel_moves_the_model_on_its_own_split():
  """Equal to taking each group's gradient on its own batch, then one update."""
  where, loss_fn, (tokens, target) = _regression()
  upper, lower = (tokens[:4], target[:4]), (tokens[4:], target[4:])
  constraints = search.limits(layer_average=10.0)
  optimizer = search.make_optimizer(
    optax.sgd(0.1), model_tx=optax.sgd(0.2), multiplier_lr=1.0
  )
  state = search.init_state(
    search.init_policy(where, constraints=search.limits(layer_average=12.0)),
    constraints=constraints,
    optimizer=optimizer,
    model={"w": jnp.ones(6)},
  )

  @jax.jit
  def step(state, batch, model_batch):
    return search.search_step(
      state,
      batch,
      jax.random.key(3),
      space=where,
      loss_fn=loss_fn,
      optimizer=optimizer,
      constraints=constraints,
      penalty=PENALTY,
      model_batch=model_batch,
    )

  after, metrics = step(state, upper, lower)
  policy, _ = step(state, upper, None)
  model, alone = step(state, lower, None)
  for name, expected in (("policy", policy), ("model", model)):
    for got, want in zip(
      jax.tree.leaves(after.variables[name]),
      jax.tree.leaves(expected.variables[name]),
      strict=True,
    ):
      np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)
  assert float(metrics["model_task"]) == pytest.approx(float(alone["task"]))
  assert float(metrics["model_gradient_norm"]) > 0
  assert float(after.variables["multiplier"]["layer_average"]) > 0
  with pytest.raises(ValueError, match="no model to train"):
    frozen = search.init_state(
      state.variables["policy"], constraints=constraints, optimizer=optimizer
    )
    step(frozen, upper, lower)
