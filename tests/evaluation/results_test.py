"""Results come back from their file as they were."""

import dataclasses
import json
import types

import pytest

from eos_jax import ops
from eos_jax.evaluation import results

PLAN = ops.ReductionPlan(
  "prune@4",
  "tiny",
  144,
  5,
  (ops.PlannedSite("decoder.0", 4, ops.presets.PRUNE),),
  note="moved",
)
COSTS = types.SimpleNamespace(
  layer_average=4.1, final=4, total_flops=123456789012, kv_bytes=512
)
SCORES = {
  "accuracy": results.Score(
    1 / 3, results.FRACTION, 0.01, {"a": 0.1, "b": 0.2}
  ),
  "mme": results.Score(1234.5, "of 2800"),
}
RESULT = results.measured("prune", 4.0, PLAN, SCORES, COSTS)
DENSE = results.measured("dense", None, None, {}, COSTS)
MISSED = results.Result("fastv", 4.0, reason="smallest is 28.8")


def test_a_result_names_its_plan_by_its_digest():
  assert RESULT.plan == PLAN.digest and DENSE.plan is None
  # Where a plan comes from does not count, and what it does counts.
  found = dataclasses.replace(PLAN, provenance={"seed": 1})
  other = dataclasses.replace(PLAN, name="other")
  same, changed = (
    results.measured("prune", 4.0, plan, SCORES, COSTS).plan
    for plan in (found, other)
  )
  assert same == RESULT.plan != changed
  assert RESULT.kept == "4" and RESULT.note == "moved"
  assert RESULT.accuracy.value == 1 / 3


@pytest.mark.parametrize("result", [RESULT, DENSE, MISSED])
def test_results_come_back_to_the_last_bit(result):
  text = json.dumps(result.to_dict(), allow_nan=False)
  assert results.Result.from_dict(json.loads(text)) == result


def test_files_come_back_and_changes_are_refused(tmp_path):
  path = tmp_path / "results.json"
  written = [DENSE, RESULT, MISSED]
  results.write(path, written, {"drawn": True, "seconds": {"data": 1}})
  facts, found = results.read(path)
  assert found == written and facts["drawn"]
  # Where and how fast a run was does not count.
  value = json.loads(path.read_text())
  path.write_text(json.dumps(value | {"seconds": 2, "config": {}}))
  assert results.read(path)[1] == written
  path.write_text(json.dumps(value | {"drawn": False}))
  with pytest.raises(ValueError, match="do not match their digest"):
    results.read(path)
