import json
import random
import shutil

import grain
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from eos_jax.data import loader
from eos_jax.models import checksums, partition
from eos_jax.training import checkpoint
from tests import campaign


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


@pytest.mark.slow
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


def _replace(path, old, new):
  text = path.read_text()
  assert old in text
  path.write_text(text.replace(old, new))


def _rename(root):
  shutil.move(root / "5", root / "7")


def _score_damaged(root):
  _replace(root / "5" / "metrics" / "metrics", "0.5", "0.9")


_DAMAGES = {
  "place": lambda root: _replace(root / "5/data/metadata", "5", "4"),
  "facts": lambda root: _replace(root / "5/facts/metadata", "abc", "abd"),
  "name": _rename,
  "seal": lambda root: _replace(root / "5/seal/metadata", "5", "6"),
  "no seal": lambda root: shutil.rmtree(root / "5/seal"),
  "score": _score_damaged,
  "score cut": lambda root: (root / "5/metrics/metrics").write_text("{"),
  "a file": lambda root: (shutil.rmtree(root / "5"), (root / "5").touch()),
}


@pytest.mark.slow
@pytest.mark.parametrize("what", _DAMAGES)
def test_whatever_differs_from_the_seal_falls_back(tmp_path, what, capsys):
  root = tmp_path / "checkpoints"
  saver = checkpoint.Checkpointer(root, best=True)
  iterator = _iterator()
  for step in range(1, 6):
    next(iterator)
    if step in (3, 5):
      score = step / 10
      saver.save(step, _state(float(step)), iterator, {"weights": "abc"}, score)
  saver.close()
  _DAMAGES[what](root)
  again = checkpoint.Checkpointer(root, best=True)
  state, moved, step = again.restore(_state(), _iterator(), {"weights": "abc"})
  assert step == 3 and moved.position == 3
  np.testing.assert_array_equal(state["params"]["a"], 3.0)
  assert again.best == 3
  again.close()
  said = capsys.readouterr().out
  number = 7 if what == "name" else 5
  assert said.startswith(f"warning: checkpoint {number} in {root} is damaged (")


@pytest.mark.parametrize("damaged, resumed", [(1, 3), (2, 1)])
def test_if_the_best_is_lost_those_after_it_are_made_again(
  tmp_path, damaged, resumed, capsys
):
  root = tmp_path / "checkpoints"
  saver = checkpoint.Checkpointer(root, keep=3, best=True)
  for step, score in ((1, 0.1), (2, 0.9), (3, 0.2)):
    saver.save(step, _state(float(step)), _iterator(), {}, score)
  saver.close()
  _damage(root, damaged, how="truncated")
  again = checkpoint.Checkpointer(root, keep=3, best=True)
  assert again.restore(_state(), _iterator(), {})[2] == resumed
  assert again.best == (2 if damaged == 1 else 1)
  again.close()
  said = capsys.readouterr().out
  assert f"checkpoint {damaged} in" in said
  after = "checkpoint 3 in" in said
  assert after == (damaged == 2)
  assert after == ("(it was saved after 2, which is damaged)" in said)


@pytest.mark.slow
def test_bits_of_arrays_are_never_changed_unnoticed(tmp_path, capsys):
  """Damages every file of a checkpoint of which Orbax verifies nothing."""
  root, draws = tmp_path / "whole", random.Random(5)
  saver, facts = checkpoint.Checkpointer(root), {"weights": "abc"}
  values = jax.random.normal(jax.random.key(1), (64, 64))  # not compressible
  large = {"params": values, "key": jax.random.key(1)}
  for step in (3, 5):
    saver.save(step, large | {"step": jnp.int32(step)}, _iterator(), facts)
  saver.close()
  like = jax.tree.map(jnp.zeros_like, large | {"step": jnp.int32(0)})
  paths = [p for p in sorted((root / "5").rglob("*")) if p.is_file()]
  fallen = 0
  for draw in range(40):
    path = paths[draw % len(paths)].relative_to(root)
    copy = shutil.copytree(root, tmp_path / f"{draw}" / "checkpoints")
    kind, data = campaign.damaged((copy / path).read_bytes(), draws)
    (copy / path).write_bytes(data)
    again = checkpoint.Checkpointer(copy)
    state, _, step = again.restore(like, _iterator(), facts)
    again.close()
    assert int(state["step"]) == step, (path, kind)
    np.testing.assert_array_equal(state["params"], values, str((path, kind)))
    assert (step == 3) == ("warning: checkpoint 5" in capsys.readouterr().out)
    fallen += step == 3
  assert fallen > 10


def test_a_flipped_bit_of_a_large_array_is_noticed(tmp_path, capsys):
  root = tmp_path / "checkpoints"
  saver = checkpoint.Checkpointer(root)
  values = jax.random.normal(jax.random.key(1), (256, 256))
  for step in (1, 2):
    saver.save(step, {"x": values + step}, _iterator(), {})
  saver.close()
  data = max((root / "2").rglob("*"), key=lambda path: path.stat().st_size)
  for path in (root / "2").rglob(data.name):
    changed = bytearray(path.read_bytes())
    changed[len(changed) // 2] ^= 1
    path.write_bytes(changed)
  again = checkpoint.Checkpointer(root)
  state, _, step = again.restore({"x": values}, _iterator(), {})
  again.close()
  assert step == 1
  np.testing.assert_array_equal(state["x"], values + 1)
  assert "other numbers than were saved are in ['x']" in capsys.readouterr().out


def test_checksums_do_not_depend_on_shardings():
  values = jax.random.normal(jax.random.key(1), (8, 16, 4))
  mesh = partition.make_mesh((2, 4, 1))
  spec = jax.sharding.PartitionSpec(None, "fsdp")
  cut = jax.device_put(values, jax.sharding.NamedSharding(mesh, spec))
  table = {"a": values, "b": jnp.arange(4) > 2, "c": jnp.int8(3)}
  for mixed in (True, False):
    found = checksums.sums(table, mixed=mixed)
    assert found == checksums.sums(table | {"a": cut}, mixed=mixed)
  # The k-th number weighs 2 k + 1.
  bits = np.asarray(values).view(np.uint32).ravel().astype(np.uint64)
  weights = 2 * np.arange(bits.size, dtype=np.uint64) + 1
  assert found["a"] == int((bits * weights).sum() % 2**32)
  assert found["b"] == 7 and found["c"] == 3


def test_the_seal_is_plain_json(tmp_path):
  _save(tmp_path, 2)
  seal = json.loads((tmp_path / "2" / "seal" / "metadata").read_text())
  assert seal["step"] == 2 and seal["data"] == {"batches": 2}
  assert set(seal["sums"]) >= {"['params']['a']", "['key']"}
