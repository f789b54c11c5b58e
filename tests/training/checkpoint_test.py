import grain
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from eos_jax.training import checkpoint, partition


def _state(value=1.0):
  params = {"a": jnp.full((4, 8), value), "b": jnp.arange(3.0) * value}
  state = {
    "params": params,
    "opt": optax.adam(0.1).init(params),
    "key": jax.random.key(int(value)),
  }
  return jax.device_put(state, partition.replicated(partition.make_mesh()))


def _iterator():
  return iter(
    grain.MapDataset.source(np.arange(100)).seed(0).shuffle().to_iter_dataset()
  )


def test_round_trip_with_typed_key_and_iterator(tmp_path):
  saver = checkpoint.Checkpointer(tmp_path)
  iterator = _iterator()
  for _ in range(7):
    next(iterator)
  saver.save(7, _state(3.0), iterator, {"weights": "abc"})
  saver.close()
  expected = [int(next(iterator)) for _ in range(5)]

  again = checkpoint.Checkpointer(tmp_path)
  assert again.latest == 7
  state, moved = again.restore(_state(1.0), _iterator(), {"weights": "abc"})
  again.close()
  want = _state(3.0)
  assert jax.tree.structure(state) == jax.tree.structure(want)
  np.testing.assert_array_equal(state["params"]["a"], want["params"]["a"])
  np.testing.assert_array_equal(
    jax.random.key_data(state["key"]), jax.random.key_data(want["key"])
  )
  assert [int(next(moved)) for _ in range(5)] == expected


def test_another_runs_checkpoint_is_refused(tmp_path):
  saver = checkpoint.Checkpointer(tmp_path)
  saver.save(1, _state(), _iterator(), {"weights": "abc", "seed": 1})
  with pytest.raises(ValueError, match="weights: saved 'abc', now 'xyz'"):
    saver.restore(_state(), _iterator(), {"weights": "xyz", "seed": 1})
  saver.close()


def test_restores_onto_another_mesh(tmp_path):
  saver = checkpoint.Checkpointer(tmp_path)
  saver.save(1, _state(2.0), _iterator(), {})
  saver.close()
  mesh = partition.make_mesh((2, 4, 1))
  cut = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("fsdp"))
  like = _state(1.0)
  like["params"]["a"] = jax.device_put(like["params"]["a"], cut)
  again = checkpoint.Checkpointer(tmp_path)
  state, _ = again.restore(like, _iterator(), {})
  again.close()
  assert state["params"]["a"].sharding == cut
  np.testing.assert_array_equal(state["params"]["a"], 2.0)
