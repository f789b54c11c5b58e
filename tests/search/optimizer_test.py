import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from eos_jax.search import optimizer


def _variables():
  return {
    "policy": {"gamma": jnp.ones(3), "pi": jnp.ones((3, 2))},
    "model": {"layer": {"kernel": jnp.ones((2, 2))}},
    "multiplier": {"layer_average": jnp.float32(1.0)},
  }


def _moved(tx):
  before = _variables()
  grads = jax.tree.map(lambda x: jnp.full_like(x, 0.5), before)
  updates, _ = tx.update(grads, tx.init(before), before)
  after = optax.apply_updates(before, updates)
  return {
    key: [
      float(np.mean(b - a))
      for a, b in zip(
        jax.tree.leaves(before[key]), jax.tree.leaves(after[key]), strict=True
      )
    ]
    for key in before
  }


def test_policy_descends_and_multiplier_ascends():
  moved = _moved(
    optimizer.make_optimizer(
      optax.sgd(0.1), model_tx=optax.sgd(0.2), multiplier_lr=2.0
    )
  )
  assert moved["policy"] == pytest.approx([-0.05, -0.05])
  assert moved["model"] == pytest.approx([-0.1])
  assert moved["multiplier"] == pytest.approx([1.0])


@pytest.mark.parametrize(
  "frozen", [("model",), ("policy",), ("policy", "multiplier"), ()]
)
def test_frozen_groups_stay_bit_for_bit(frozen):
  moved = _moved(
    optimizer.make_optimizer(
      optax.adam(0.1),
      model_tx=optax.adam(0.2),
      multiplier_lr=2.0,
      frozen=frozen,
    )
  )
  for key, values in moved.items():
    assert all((value == 0) == (key in frozen) for value in values), key


def test_model_without_a_transformation_stays():
  moved = _moved(optimizer.make_optimizer(optax.sgd(0.1), multiplier_lr=1.0))
  assert moved["model"] == [0.0]


def test_labels_follow_the_tree():
  labels = optimizer.labels(_variables(), frozen=("model",))
  assert labels["policy"] == {"gamma": "policy", "pi": "policy"}
  assert labels["model"] == {"layer": {"kernel": "frozen"}}
  with pytest.raises(ValueError, match="backbone"):
    optimizer.labels({"backbone": jnp.ones(1)})
