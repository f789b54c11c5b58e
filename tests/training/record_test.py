import grain
import jax.numpy as jnp
import numpy as np
import pytest

from eos_jax import files
from eos_jax.data import loader
from eos_jax.training import checkpoint, record


def _state(value):
  return {"x": jnp.full(3, value)}


def _numbers():
  return loader.Batches(grain.MapDataset.source(np.arange(100)).repeat(), 1)


def test_run_goes_on_where_its_record_ends(tmp_path):
  iterator = _numbers()
  with record.Record(tmp_path, {"seed": 1}) as book:
    _, iterator, start = book.resume(_state(0.0), iterator, 4)
    assert start == 0
    assert [next(iterator).item() for _ in range(2)] == [0, 1]
    book.save(2, _state(2.0))
    for step in (1, 2, 3):  # step 3 was not saved
      line = book.log(step, {"loss": jnp.float32(1.0 / step), "exact": 0.5})
      assert line == f"loss {1 / step:.3f} exact 0.500"
  with record.Record(tmp_path, {"seed": 1}) as book:
    state, iterator, start = book.resume(_state(0.0), _numbers(), 4)
    assert start == 2
    assert float(state["x"][0]) == 2.0
    assert next(iterator).item() == 2
  rows = files.read_jsonl(tmp_path / "metrics.jsonl")
  assert [row["step"] for row in rows] == [1, 2]


def test_record_of_another_run_is_refused(tmp_path):
  with record.Record(tmp_path, {"seed": 1}) as book:
    book.resume(_state(0.0), _numbers(), 4)
    book.save(2, _state(2.0))
  with (
    record.Record(tmp_path, {"seed": 2}) as book,
    pytest.raises(checkpoint.OtherRun, match="saved 1, now 2"),
  ):
    book.resume(_state(0.0), _numbers(), 4)
