import jax
import jax.numpy as jnp
import optax
import pytest

from eos_jax.search import anneal, constraints, optimizer

PENALTY = 5.0


def _term(excess, multiplier):
  return constraints.lagrangian(
    jnp.float32(excess), jnp.float32(multiplier), penalty=PENALTY
  )


def test_violation_is_relative():
  assert constraints.violation(12.0, 10.0) == pytest.approx(0.2)
  assert constraints.violation(5.0, 10.0) == pytest.approx(-0.5)
  assert constraints.violation(10, 10.0) == 0


@pytest.mark.parametrize("excess", [-1.0, -0.3, -1e-6, 0.0])
def test_slack_exerts_no_force(excess):
  assert _term(excess, 0.0) == 0
  assert jax.grad(_term)(excess, 0.0) == 0


def test_force_is_multiplier_plus_penalty():
  assert jax.grad(_term)(0.2, 0.0) == pytest.approx(1.0)
  assert jax.grad(_term)(0.2, 3.0) == pytest.approx(4.0)
  assert jax.grad(_term)(-0.2, 3.0) == pytest.approx(2.0)
  assert jax.grad(_term)(-0.9, 3.0) == 0


def test_gradient_of_multiplier_is_the_violation():
  ascent = jax.grad(_term, argnums=1)
  assert ascent(0.2, 3.0) == pytest.approx(0.2)
  assert ascent(-0.2, 3.0) == pytest.approx(-0.2)
  assert ascent(-0.9, 3.0) == pytest.approx(-0.9)


def _ascend(multiplier, excess, steps, learning_rate=PENALTY):
  transform = optimizer.ascend(learning_rate)
  multiplier = jnp.float32(multiplier)
  state = transform.init(multiplier)
  path = [float(multiplier)]
  for _ in range(steps):
    gradient = jax.grad(_term, argnums=1)(excess, multiplier)
    update, state = transform.update(gradient, state, multiplier)
    multiplier = optax.apply_updates(multiplier, update)
    path.append(float(multiplier))
  return path


def test_multiplier_rises_while_violated():
  path = _ascend(0.0, 0.1, 4)
  assert path == pytest.approx([0.0, 0.5, 1.0, 1.5, 2.0])


def test_multiplier_falls_to_zero_and_stays_when_slack():
  path = _ascend(2.0, -0.1, 10)
  assert all(b < a for a, b in zip(path, path[1:], strict=False) if a > 0)
  assert path[-1] == 0
  # Also with a step that would overshoot.
  assert min(_ascend(2.0, -0.3, 5, learning_rate=100.0)) == 0


def test_limit_may_be_traced():
  @jax.jit
  def term(limit):
    constraint = constraints.Constraint("layer_average", limit)
    return constraints.violation(8.0, constraint.limit)

  assert term(4.0) == pytest.approx(1.0)
  assert term(16.0) == pytest.approx(-0.5)
  assert term._cache_size() == 1


def test_bad_arguments_are_named():
  with pytest.raises(ValueError, match="penalty=0"):
    constraints.lagrangian(jnp.float32(0), jnp.float32(0), penalty=0.0)
  pair = (constraints.Constraint("a", 1.0), constraints.Constraint("a", 2.0))
  with pytest.raises(ValueError, match="twice"):
    constraints.init_multipliers(pair)


def test_geometric_schedule():
  values = [
    float(anneal.geometric(step, start=1.0, end=0.01, steps=4))
    for step in range(7)
  ]
  ratios = [b / a for a, b in zip(values, values[1:], strict=False)]
  assert ratios == pytest.approx([0.01**0.25] * 4 + [1.0] * 2, rel=1e-5)
  traced = jax.jit(
    lambda step: anneal.geometric(step, start=1.0, end=0.01, steps=4)
  )
  assert traced(jnp.int32(2)) == pytest.approx(0.1)
  with pytest.raises(ValueError, match="end=0"):
    anneal.geometric(0, start=1.0, end=0.0, steps=4)
