"""Measured layer times: interpolation, files and their faults."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eos_jax import cost

FIELDS = dict(
  model="tiny",
  device="test",
  dtype="float32",
  jax_version="0.10",
  tokens=[16, 64, 128],
  batches=[1, 8],
  seconds=[[1.0, 2.0, 5.0], [4.0, 12.0, 36.0]],
  overhead=[0.5, 1.5],
  vision_rows=[10, 145],
  vision_seconds=[[0.1, 1.0], [0.2, 2.0]],
)


def _table(**changes):
  return cost.LatencyTable(**FIELDS | changes)


def _alone(**changes):
  """A table without times of encoder blocks."""
  changes = {"vision_rows": [], "vision_seconds": [[], []]} | changes
  return _table(**changes)


def test_between_measured_counts_time_is_linear():
  got = cost.layer_seconds(_table(), [16, 40, 64, 96, 128], batch=1)
  assert got == [1.0, 1.5, 2.0, 3.5, 5.0]
  assert cost.layer_seconds(_table(), [96], batch=8) == [24.0]


def test_arrays_equal_integers_and_follow_the_slope():
  counts = jnp.array([16.0, 40.0, 96.0, 128.0])
  got = jax.jit(lambda c: cost.layer_seconds(_table(), c, batch=1))(counts)
  exact = cost.layer_seconds(_table(), [16, 40, 96, 128], batch=1)
  np.testing.assert_allclose(got, exact, rtol=1e-6)
  grad = jax.grad(lambda c: cost.layer_seconds(_table(), c, batch=1).sum())(
    jnp.array([40.0, 96.0])
  )
  np.testing.assert_allclose(grad, [1 / 48, 3 / 64], rtol=1e-6)


def test_outside_an_array_goes_on_and_an_integer_is_refused():
  seconds = lambda c: cost.layer_seconds(_table(), c, batch=1)
  outside = jnp.array([0.0, 192.0])
  np.testing.assert_allclose(seconds(outside), [2 / 3, 8.0], rtol=1e-6)
  grad = jax.grad(lambda c: seconds(c).sum())(outside)
  np.testing.assert_allclose(grad, [1 / 48, 3 / 64], rtol=1e-6)
  for count in (15, 129):
    with pytest.raises(ValueError) as error:
      seconds([64, count])
    text = str(error.value)
    assert f"{count} tokens lie outside" in text and "from 16 to 128" in text
    assert "'tiny' on 'test'" in text


def test_latency_adds_layers_encoder_and_overhead():
  assert cost.latency(_alone(), [60, 36], 4, batch=1) == 0.5 + 2.0 + 1.5
  # Blocks of 145 -> 145 -> 10 rows: 1.0, and the mean of 1.0 and 0.1.
  got = cost.latency(_table(), [60, 36], 4, [145, 10], batch=1)
  assert got == pytest.approx(0.5 + 3.5 + 1.0 + 0.55)
  array = jax.jit(lambda c, r: cost.latency(_table(), c, 4, r, batch=1))(
    jnp.array([60.0, 36.0]), jnp.array([145.0, 10.0])
  )
  np.testing.assert_allclose(array, got, rtol=1e-6)


def test_latency_of_a_batch_is_its_own():
  assert cost.latency(_alone(), [60], 4, batch=8) == 1.5 + 12.0
  with pytest.raises(ValueError) as error:
    cost.latency(_alone(), [60], 4, batch=2)
  assert "batch is 2" in str(error.value) and "[1, 8]" in str(error.value)


def test_encoder_rows_and_table_have_to_agree():
  with pytest.raises(ValueError, match="'tiny' has times of encoder blocks"):
    cost.latency(_table(), [60], 4, batch=1)
  with pytest.raises(ValueError, match="has no times of encoder blocks"):
    cost.latency(_alone(), [60], 4, [145], batch=1)


def test_a_table_is_what_was_written():
  for table in (_table(), _alone()):
    back = cost.LatencyTable.from_json(table.to_json())
    for name in FIELDS:
      np.testing.assert_array_equal(getattr(back, name), getattr(table, name))
    assert back.to_json() == table.to_json()


def test_a_table_can_be_a_static_argument_and_is_not_to_be_changed():
  table = _alone()
  run = jax.jit(cost.latency, static_argnums=(0, 2), static_argnames="batch")
  assert float(run(table, jnp.array([60.0]), 4, batch=1)) == 2.5
  with pytest.raises(ValueError, match="read-only"):
    table.seconds[0, 0] = 9.0


@pytest.mark.parametrize(
  "changes, fault",
  [
    ({"tokens": [64, 16, 128]}, "tokens is [64, 16, 128], expected rising"),
    ({"tokens": [16, 16, 128]}, "tokens is [16, 16, 128], expected rising"),
    (
      {"tokens": [16, 64]},
      "seconds has shape (2, 3), expected (2, 2) for axes",
    ),
    ({"tokens": [16]}, "tokens has 1 counts, expected >= 2"),
    ({"tokens": [0, 64, 128]}, "tokens is [0, 64, 128], expected integers"),
    ({"tokens": [16, 64.5, 128]}, "tokens is [16, 64.5, 128], expected integ"),
    ({"tokens": "many"}, "tokens is 'many', expected numbers in 1 axes"),
    ({"batches": []}, "batches has 0 counts, expected >= 1"),
    ({"batches": [True, False]}, "batches is [True, False], expected numbers"),
    ({"overhead": [0.1]}, "overhead has shape (1,), expected (2,) for axes"),
    ({"overhead": [0.1, -1]}, "overhead[1] is -1.0, expected seconds >= 0"),
    (
      {"seconds": [[1.0, 2.0, 5.0], [4.0, float("nan"), 36.0]]},
      "seconds[1, 1] is nan, expected a number",
    ),
    (
      {"seconds": [[1.0, 2.0, 5.0], [4.0, float("inf"), 36.0]]},
      "seconds[1, 1] is inf, expected a number",
    ),
    (
      {"seconds": [[1.0, 2.0, 5.0], [4.0, 36.0]]},
      "seconds has rows of unequal length, expected a rectangle",
    ),
    ({"seconds": [1.0, 2.0]}, "expected numbers in 2 axes"),
    ({"seconds": [[1.0, 2.0, None]] * 2}, "expected numbers in 2 axes"),
    (
      {"vision_rows": [10]},
      "vision_rows has 1 count, expected none or at leas",
    ),
    ({"vision_seconds": [[0.1]]}, "vision_seconds has shape (1, 1), expected"),
    ({"device": ""}, "device is '', expected a text"),
    ({"jax_version": 10}, "jax_version is 10, expected a text"),
    ({"colour": "red"}, "colour is no field, expected only ['format', 'model'"),
    ({"format": "other/1"}, "format is 'other/1', expected 'eos_jax.Latency"),
  ],
)
def test_faults_of_a_file_are_named(changes, fault):
  data = {**json.loads(_table().to_json()), **changes}
  with pytest.raises(ValueError) as error:
    cost.LatencyTable.from_json(json.dumps(data))
  text = str(error.value)
  assert fault in text
  assert "LatencyTable is not valid" in text and "measure again" in text


def test_all_faults_of_a_file_stand_in_one_message():
  data = json.loads(_table().to_json())
  del data["overhead"], data["format"]
  data |= {"tokens": [3, 2, 1], "model": None, "x": 1, "vision_rows": [2, 1]}
  with pytest.raises(ValueError) as error:
    cost.LatencyTable.from_json(json.dumps(data))
  lines = str(error.value).splitlines()
  assert len(lines) == 2 + 6
  for name in ("overhead", "format", "tokens", "model", "x", "vision_rows"):
    assert any(line.strip().startswith(f"{name} ") for line in lines), name


@pytest.mark.parametrize(
  "text, fault",
  [("{", "no JSON"), ("[1]", "a list, expected an object")],
)
def test_what_is_no_table_is_refused(text, fault):
  with pytest.raises(ValueError, match=fault):
    cost.LatencyTable.from_json(text)


def test_a_table_checks_what_it_is_made_of():
  with pytest.raises(ValueError, match="expected rising counts"):
    _table(tokens=np.array([64, 16, 128]))
