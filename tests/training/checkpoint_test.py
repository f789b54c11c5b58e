import grain
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from eos_jax.data import loader
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
  numbers = grain.MapDataset.source(np.arange(100)).seed(0).shuffle().repeat()
  return loader.Batches(numbers, 1)


def test_round_trip_with_typed_key_and_iterator(tmp_path):
  saver = checkpoint.Checkpointer(tmp_path)
  iterator = _iterator()
  for _ in range(7):
    next(iterator)
  saver.save(7, _state(3.0), iterator, {"weights": "abc"})
  saver.close()
  expected = [next(iterator).item() for _ in range(5)]

  again = checkpoint.Checkpointer(tmp_path)
  assert again.latest == 7
  state, moved, step = again.restore(
    _state(1.0), _iterator(), {"weights": "abc"}
  )
  again.close()
  assert step == 7
  want = _state(3.0)
  assert jax.tree.structure(state) == jax.tree.structure(want)
  np.testing.assert_array_equal(state["params"]["a"], want["params"]["a"])
  np.testing.assert_array_equal(
    jax.random.key_data(state["key"]), jax.random.key_data(want["key"])
  )
  assert [next(moved).item() for _ in range(5)] == expected


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
  state, _, _ = again.restore(like, _iterator(), {})
  again.close()
  assert state["params"]["a"].sharding == cut
  np.testing.assert_array_equal(state["params"]["a"], 2.0)


def _save(root, *steps):
  saver = checkpoint.Checkpointer(root)
  iterator = _iterator()
  for step in range(1, max(steps) + 1):
    next(iterator)
    if step in steps:
      saver.save(step, _state(float(step)), iterator, {"weights": "abc"})
  saver.close()


def _damage(root, step, *, how):
  """Spoils the largest file of a checkpoint."""
  files = [path for path in (root / str(step)).rglob("*") if path.is_file()]
  # What a process has written lies twice: in its own folder, and merged.
  files = [path for path in files if "ocdbt.process_0" not in path.parts]
  data = [path for path in files if path.parent.name == "d"]
  if how == "deleted":
    data[0].unlink()
  else:
    data[0].write_bytes(data[0].read_bytes()[:-100])


@pytest.mark.parametrize("how", ["deleted", "truncated"])
def test_a_damaged_checkpoint_falls_back_to_the_one_before(
  tmp_path, how, capsys
):
  root = tmp_path / "checkpoints"
  _save(root, 3, 5)
  _damage(root, 5, how=how)
  saver = checkpoint.Checkpointer(root)
  state, iterator, step = saver.restore(
    _state(1.0), _iterator(), {"weights": "abc"}
  )
  assert step == 3
  np.testing.assert_array_equal(state["params"]["a"], 3.0)
  want = _iterator()
  expected = [next(want).item() for _ in range(5)][3:]
  assert [next(iterator).item() for _ in range(2)] == expected
  said = capsys.readouterr().out
  assert said.startswith("warning: checkpoint 5 in ") and "is damaged" in said
  # The step can be saved anew, and nothing was deleted.
  saver.save(5, _state(5.0), iterator, {"weights": "abc"})
  saver.close()
  assert len(list(tmp_path.glob("checkpoints.damaged/5.*/5"))) == 1
  again = checkpoint.Checkpointer(root)
  assert again.restore(_state(), _iterator(), {"weights": "abc"})[2] == 5
  again.close()


def test_no_readable_checkpoint_is_an_error(tmp_path):
  root = tmp_path / "checkpoints"
  _save(root, 1, 2)
  for step in (1, 2):
    _damage(root, step, how="truncated")
  saver = checkpoint.Checkpointer(root)
  with pytest.raises(
    checkpoint.CheckpointError, match="can be read; start again with a new"
  ):
    saver.restore(_state(), _iterator(), {"weights": "abc"})
  saver.close()


@pytest.mark.parametrize(
  ("scores", "kept", "best"),
  [
    ([0.2, 0.9, 0.4, 0.3, 0.5], {2, 4, 5}, 2),
    ([0.2, 0.3, 0.4, 0.9, 0.5], {4, 5}, 4),
    # Of equals the last; what has no score is not the best.
    ([0.9, 0.9, None, 0.3, None], {2, 4, 5}, 2),
    ([None] * 5, {4, 5}, None),
  ],
)
def test_the_newest_and_the_best_are_kept(tmp_path, scores, kept, best):
  iterator = _iterator()
  saver = checkpoint.Checkpointer(tmp_path, best=True)
  for step, score in enumerate(scores, 1):
    saver.save(step, _state(float(step)), iterator, {}, score)
  saver.close()
  found = {int(path.name) for path in tmp_path.iterdir() if path.is_dir()}
  assert found == kept
  again = checkpoint.Checkpointer(tmp_path, best=True)
  assert again.latest == 5
  if best is None:
    with pytest.raises(checkpoint.CheckpointError, match="has a score"):
      again.restore_best(_state())
  else:
    state, step = again.restore_best(_state())
    assert step == best
    np.testing.assert_array_equal(state["params"]["a"], float(best))
  again.close()


def test_a_damaged_best_checkpoint_is_told(tmp_path):
  saver = checkpoint.Checkpointer(tmp_path, best=True)
  for step, score in enumerate((0.9, 0.1, 0.2), 1):
    saver.save(step, _state(float(step)), _iterator(), {}, score)
  saver.close()
  _damage(tmp_path, 1, how="truncated")
  again = checkpoint.Checkpointer(tmp_path, best=True)
  with pytest.raises(checkpoint.CheckpointError, match="checkpoint 1 .*best"):
    again.restore_best(_state())
  again.close()
