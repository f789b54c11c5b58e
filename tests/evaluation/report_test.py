import json

import pytest

from eos_jax import ops
from eos_jax.evaluation import evaluator, report


def _results():
  plan = ops.ReductionPlan(
    "prune@4",
    "tiny",
    144,
    5,
    (ops.PlannedSite("decoder.0", 4, ops.presets.PRUNE),),
    note="moved",
  )
  numbers = dict(layer_average=4.0, final=4, flops=10**7, kv_bytes=2048)
  return [
    evaluator.Result(
      "dense", None, None, "", {"a": 0.9}, 0.9, 0.01, 144.0, 144, 10**8, 10**5
    ),
    evaluator.Result("prune", 4.0, plan, "", {"a": 0.4}, 0.4, 0.02, **numbers),
    evaluator.Result("eos", 4.0, plan, "", {"a": 0.6}, 0.6, 0.02, **numbers),
    evaluator.Result("fastv", 4.0, None, "smallest is 28.8"),
  ]


def test_table_ranks_by_mean_and_names_what_cannot_be_reached():
  lines = report.table(_results()).splitlines()
  names = [line.split()[0] for line in lines if line]
  order = [n for n in names if n in ("dense", "eos", "prune", "fastv")]
  assert order == ["dense", "dense", "eos", "prune", "fastv"]
  assert "cannot reach it: smallest is 28.8" in lines[-1]
  assert any(line.endswith("moved") for line in lines)


def test_json_has_numbers_and_nulls(tmp_path):
  path = tmp_path / "results.json"
  report.write_json(path, _results(), {"questions": 3})
  value = json.loads(path.read_text())
  assert value["questions"] == 3
  assert value["results"][2]["sites"] == {"decoder.0": 4}
  assert value["results"][3]["mean"] is None


def test_plot_is_a_picture(tmp_path):
  path = tmp_path / "plot.png"
  report.plot(path, _results())
  assert path.read_bytes()[:4] == b"\x89PNG"


def test_results_that_were_changed_are_refused(tmp_path):
  path = tmp_path / "results.json"
  report.write_json(path, _results(), {"questions": 3, "seconds": {"data": 1}})
  value = report.read_json(path)
  assert value["questions"] == 3
  # Where and how fast a run was does not count.
  path.write_text(json.dumps(value | {"seconds": 2, "config": {}}))
  report.read_json(path)
  path.write_text(json.dumps(value | {"questions": 4}))
  with pytest.raises(ValueError, match="do not match their digest"):
    report.read_json(path)


def test_results_name_their_plan_by_its_digest():
  (row,) = [r for r in _results() if r.name == "eos"]
  assert row.to_dict()["plan"] == row.plan.digest
