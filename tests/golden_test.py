"""The recorded cases of the published code, and the runner that compares."""

import json
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from tests.golden import metric_cases, runner

ROOT = pathlib.Path(__file__).parent
GOLDENS = ROOT / "goldens"
_CASES = [
  (name, case["file"], case["params"])
  for name, operator in json.loads(
    (GOLDENS / "manifest.json").read_text(encoding="utf-8")
  )["operators"].items()
  for case in operator["cases"]
]


def _marked(cases):
  """Further cases of an operator take long to compile."""
  seen = set()
  for name, file, params in cases:
    marks = [pytest.mark.full] if name in seen else []
    seen.add(name)
    yield pytest.param(name, file, params, marks=marks, id=file)


@pytest.mark.slow
@pytest.mark.parametrize("name, file, params", list(_marked(_CASES)))
def test_recorded_case(name, file, params):
  outcome = runner.run_case(GOLDENS / file, name, params, file)
  assert outcome.faults == ()
  assert outcome.arrays > 0


def test_every_known_operator_has_a_case():
  assert {name for name, _, _ in _CASES} == set(runner.CASES)


def test_every_known_metric_has_a_file():
  files = {path.stem for path in (GOLDENS / "metrics").glob("*.json")}
  assert files == set(metric_cases.METRICS)


def _folder(path, change=lambda data: data, operator="pooling"):
  """A folder with one case of pooling."""
  file = "pooling/t02_one.npz"
  (path / "pooling").mkdir()
  with np.load(GOLDENS / "pooling" / "t01_2x2.npz") as table:
    data = change(dict(table))
  np.savez(path / file, **data)
  case = {"file": file, "params": {"N": 64, "tokens": 16}}
  manifest = {"operators": {operator: {"cases": [case]}}}
  (path / "manifest.json").write_text(json.dumps(manifest))
  return path


def _run(folder):
  return subprocess.run(
    [sys.executable, "-m", "tests.golden", str(folder)],
    cwd=ROOT.parent,
    capture_output=True,
    text=True,
    check=False,
  )


def test_the_command_passes_and_counts(tmp_path):
  done = _run(_folder(tmp_path))
  assert done.returncode == 0, done.stderr
  assert done.stdout.splitlines() == [
    "pooling: 1 of 1 cases, 1 arrays",
    "1 passed, 0 failed",
  ]


def test_the_command_names_what_differs(tmp_path):
  def change(data):
    data["out_pooled"][0, 2, 1] += 1.0
    return data

  done = _run(_folder(tmp_path, change))
  assert done.returncode == 1
  assert "out_pooled: 1 of" in done.stdout
  assert "worst difference 1 at" in done.stdout
  assert done.stdout.splitlines()[-1] == "0 passed, 1 failed"


@pytest.mark.parametrize(
  "change, operator, fault",
  [
    (lambda data: data, "unheard_of", "no such operator is known here"),
    (
      lambda data: {"in_x": data["in_x"]},
      "pooling",
      "the file records no outputs",
    ),
    (
      lambda data: {**data, "out_more": data["in_x"]},
      "pooling",
      "out_more: was not computed",
    ),
    (
      lambda data: {"out_pooled": data["out_pooled"]},
      "pooling",
      "cannot be run: KeyError: 'in_x'",
    ),
    (
      lambda data: {**data, "out_pooled": data["out_pooled"][:, :5]},
      "pooling",
      "out_pooled: shape (2, 16, 6), expected (2, 5, 6)",
    ),
  ],
)
def test_a_case_that_cannot_be_run_fails(tmp_path, change, operator, fault):
  lines = []
  (outcome,) = runner.run_all(
    _folder(tmp_path, change, operator), report=lines.append
  )
  assert outcome.faults == (fault,)
  assert lines[0] == f"FAILED {operator} pooling/t02_one.npz: {fault}"


def test_a_missing_file_fails(tmp_path):
  folder = _folder(tmp_path)
  (folder / "pooling" / "t02_one.npz").unlink()
  (outcome,) = runner.run_all(folder)
  assert "cannot be run: FileNotFoundError" in outcome.faults[0]


def test_integers_have_to_be_equal():
  assert runner.difference(np.array([1, 2]), np.array([1, 2])) == ""
  text = runner.difference(np.array([1, 5]), np.array([1, 2]))
  assert text == "1 of 2 differ, worst difference 3"


def test_a_folder_without_a_manifest_is_named(tmp_path):
  done = _run(tmp_path)
  assert done.returncode == 2
  assert f"{tmp_path}/manifest.json cannot be read as a manifest" in done.stderr


def _metrics(path, name="flops_proxy", change=lambda case: case):
  """Adds a metric file with one case to a folder."""
  recorded = (GOLDENS / "metrics" / "flops_proxy.json").read_text()
  case = change(json.loads(recorded)["cases"][0])
  (path / "metrics").mkdir(exist_ok=True)
  file = path / "metrics" / f"{name}.json"
  file.write_text(json.dumps({"metric": name, "cases": [case]}))
  return path


def test_the_command_runs_metric_files_too(tmp_path):
  folder = _metrics(_folder(tmp_path))
  done = _run(_metrics(folder, name="unheard_of"))
  assert done.returncode == 0, done.stderr
  assert done.stdout.splitlines() == [
    "pooling: 1 of 1 cases, 1 arrays",
    "flops_proxy: 1 of 1 cases, 5 values",
    "1 metric files not run, nothing here computes them: unheard_of",
    "2 passed, 0 failed",
  ]


def test_metric_files_need_no_manifest(tmp_path):
  lines = []
  (outcome,) = runner.run_all(_metrics(tmp_path), report=lines.append)
  assert outcome.faults == ()
  assert lines == ["flops_proxy: 1 of 1 cases, 5 values"]


def _raised(case):
  case["expected"]["fastv_divprune_full_flops"] += 1
  return case


def _without_input(case):
  return {"id": case["id"], "expected": case["expected"]}


def _asks_for_more(case):
  case["expected"]["more"] = 1
  return case


@pytest.mark.parametrize(
  "change, fault",
  [
    (_raised, "fastv_divprune_full_flops: "),
    (_without_input, "cannot be run: KeyError: 'input'"),
    (_asks_for_more, "more: was not computed"),
    (lambda case: {**case, "expected": {}}, "the file records no outputs"),
  ],
)
def test_a_metric_case_that_differs_fails(tmp_path, change, fault):
  lines = []
  (outcome,) = runner.run_all(
    _metrics(tmp_path, change=change), report=lines.append
  )
  assert outcome.faults[0].startswith(fault)
  assert lines[0].startswith("FAILED flops_proxy metrics/flops_proxy.json")
  assert lines[1].startswith("flops_proxy: 0 of 1 cases")


def test_a_metric_file_that_cannot_be_read_fails(tmp_path):
  _metrics(tmp_path)
  (tmp_path / "metrics" / "broken.json").write_text("{")
  first, second = runner.run_all(tmp_path)
  assert first.faults[0].startswith("cannot be read as a metric file")
  assert second.faults == ()


@pytest.mark.parametrize(
  "actual, expected, same",
  [
    (3, 3, True),
    (3, 4, False),
    (10**12 + 1, 10**12, False),
    (1.0 + 1e-10, 1.0, True),
    (1.0 + 1e-8, 1.0, False),
    (1, 1.0, True),
    (True, True, True),
    (1, True, False),
    (True, 1, False),
    ("a", "a", True),
    ("a", 1.0, False),
    (None, None, True),
    (None, 1.0, False),
    (float("nan"), 1.0, False),
    ((1, 2.0), [1, 2.0], True),
    ([1], [1, 2], False),
    ({"a": [1.0]}, {"a": [1.0]}, True),
    ({"a": 1, "b": 2}, {"a": 1}, False),
  ],
)
def test_values_of_metrics_compare(actual, expected, same):
  assert (metric_cases.difference(actual, expected) == "") == same
