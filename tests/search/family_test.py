"""One policy for every budget."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from eos_jax import cost, ops, search

SPACE = search.SearchSpace(
  sites=tuple(f"decoder.{i}" for i in range(5)),
  tokens=144,
  layers=5,
  spec=ops.presets.HYBRID,
  free=("where", "how_many", "transfer"),
)
KNOTS = search.Knots.spread(4.0, 48.0, 4)
# A layer is worth its share times the logarithm of its tokens: at any budget B
# the best counts are 5 B times these shares.
WORTH = np.array([5.0, 4.0, 3.0, 2.0, 1.0], np.float32) / 15


def test_weights_are_straight_lines_in_the_logarithm():
  knots = search.Knots((2.0, 8.0, 32.0))
  weights = [knots.weights(b).tolist() for b in (1.0, 2.0, 4.0, 16.0, 99.0)]
  np.testing.assert_allclose(
    weights,
    [[1, 0, 0], [1, 0, 0], [0.5, 0.5, 0], [0, 0.5, 0.5], [0, 0, 1]],
    atol=1e-6,
  )


def test_steps_draw_all_budgets_evenly():
  drawn = np.array([float(KNOTS.budget_at(step)) for step in range(200)])
  assert drawn.min() == pytest.approx(4) and drawn.max() == pytest.approx(48)
  places = np.log(drawn / 4) / np.log(12)
  for part in (places[:50], places[50:100], places[100:]):
    counted, _ = np.histogram(part, bins=5, range=(0, 1.0001))
    assert counted.min() > 0.15 * len(part)


def _searched(steps=400):
  optimizer = search.make_optimizer(
    optax.adam(optax.cosine_decay_schedule(0.1, steps, 0.02)),
    multiplier_lr=0.3,
  )

  def loss_fn(policy, batch, key):
    del batch, key
    counts = search.site_counts(search.decode(policy, SPACE), SPACE)
    return -jnp.sum(WORTH * jnp.log(search.layer_counts(counts, SPACE))), {}

  @jax.jit
  def step(state):
    budget = KNOTS.budget_at(state.step)

    def view(variables):
      return search.family_at(variables, KNOTS, budget)

    return search.search_step(
      state,
      None,
      jax.random.key(0),
      space=SPACE,
      loss_fn=loss_fn,
      optimizer=optimizer,
      constraints=search.limits(layer_average=budget),
      penalty=4.0,
      view=view,
    )

  state = search.init_state(
    search.init_family(SPACE, KNOTS, multiple=1.2),
    constraints=search.limits(layer_average=0.0),
    optimizer=optimizer,
    knots=len(KNOTS.budgets),
  )
  for _ in range(steps):
    state, _ = step(state)
  assert step._cache_size() == 1
  return state.variables["policy"]


@pytest.mark.slow
def test_one_search_finds_the_optimum_of_every_budget():
  family = _searched()
  budgets = np.geomspace(4.0, 48.0, 12).tolist()
  plans = search.family_plans(family, SPACE, KNOTS, budgets, model="toy")
  assert list(plans) == sorted(budgets, reverse=True)
  found = {b: cost.layer_counts(plan) for b, plan in plans.items()}
  before = (SPACE.tokens,) * SPACE.layers
  for budget, counts in found.items():
    assert 0.95 * budget - 0.2 <= cost.layer_average(counts) <= budget
    assert all(n <= m for n, m in zip(counts, before, strict=True))
    value = np.sum(WORTH * np.log(counts))
    best = np.sum(WORTH * np.log(np.maximum(5 * budget * WORTH, 1)))
    assert value > best - 0.08, (budget, counts)
    before = counts


def _resting(share):
  """A family that rests at these shares of its knots' budgets."""
  rows = [
    search.init_policy(
      SPACE, constraints=search.limits(layer_average=part * knot)
    )
    for part, knot in zip(share, KNOTS.budgets, strict=True)
  ]
  shared = jax.tree.map(jnp.zeros_like, rows[0])
  return jax.tree.map(lambda *leaves: jnp.stack(leaves), *rows, shared)


@pytest.mark.parametrize(
  "share, used",
  [
    # The greatest budget is used up: so is every smaller one.
    ((1.0, 0.8, 0.8, 0.97), (True, True, True)),
    # What is wanted lies between the second and the third.
    ((0.97, 0.97, 0.6, 0.3), (True, False, False)),
  ],
)
def test_a_search_that_wants_more_uses_smaller_budgets_up(share, used):
  family = _resting(share)
  multipliers = {"layer_average": jnp.zeros(len(KNOTS.budgets))}
  budgets = (KNOTS.budgets[0], 0.9 * KNOTS.budgets[2], 0.9 * KNOTS.budgets[3])
  plans = search.family_plans(
    family, SPACE, KNOTS, budgets, multipliers=multipliers, model="toy"
  )
  for budget, full in zip(budgets, used, strict=True):
    average = cost.layer_average(cost.layer_counts(plans[budget]))
    assert average <= budget
    assert (average >= 0.95 * budget - 0.2) == full, (budget, average)


def test_knots_and_budgets_are_checked():
  with pytest.raises(ValueError, match="rising"):
    search.Knots((8.0, 4.0))
  with pytest.raises(ValueError, match="two or more"):
    search.Knots.spread(4.0, 48.0, 1)
  family = search.init_family(SPACE, KNOTS)
  with pytest.raises(ValueError, match="outside of the family"):
    search.family_plans(family, SPACE, KNOTS, (3.0, 5.0), model="toy")
  with pytest.raises(ValueError, match="has 3 rows, expected 4"):
    search.family_at(jnp.zeros((3, 2)), KNOTS, 8.0)


def test_the_shared_row_is_added_at_every_budget():
  rows = jnp.array([[0.0], [1.0], [2.0], [3.0], [10.0]])
  got = [float(search.family_at(rows, KNOTS, b)[0]) for b in KNOTS.budgets]
  np.testing.assert_allclose(got, [10.0, 11.0, 12.0, 13.0], atol=1e-5)
