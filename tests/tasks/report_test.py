"""Reports are made from files alone, and runs are compared."""

import json

import pytest

from eos_jax import files, main, tasks
from eos_jax.evaluation import results as results_lib
from eos_jax.tasks import compile as compile_task
from eos_jax.tasks import report
from eos_jax.training import workdir
from tests.evaluation import compare_test, tables_test
from tests.tasks import compile_test

_WRITTEN = ("table.txt", "table.md", "table.csv", "report.html")


def _run(path, task="evaluate", **changes):
  """A finished run."""
  facts = compare_test.FACTS | changes
  with workdir.opened(path, task, {"seed": 0}):
    report.write_results(path, tables_test.suite(), facts)
  return path


def _refusal(path, *runs):
  with pytest.raises(main.EXPECTED) as error:
    tasks.run("report", {"runs": tuple(map(str, runs))}, path)
  return str(error.value)


@pytest.mark.parametrize("task", ["evaluate", "finetune"])
def test_a_report_is_made_anew_and_equals_the_first(task, tmp_path, capsys):
  path = _run(tmp_path / "run", task)
  before = {name: (path / name).read_bytes() for name in _WRITTEN}
  assert b"<svg" in before["report.html"]
  for name in _WRITTEN:
    (path / name).unlink()
  tasks.run("report", {"runs": ()}, path)
  assert before == {name: (path / name).read_bytes() for name in _WRITTEN}
  assert before["table.txt"].decode() in capsys.readouterr().out


def test_a_comparison_has_a_directory_of_its_own():
  assert tasks.reads("report", {"runs": ()}) == "search"
  assert not tasks.reads("report", {"runs": ("a",)})


def test_runs_are_compared(tmp_path, capsys):
  here, there = _run(tmp_path / "first"), _run(tmp_path / "second")
  out = tmp_path / "report"
  tasks.run("report", {"runs": (str(here), str(there))}, out)
  said = capsys.readouterr().out
  assert "warning" not in said and said.count("fastv") == 2
  for name in _WRITTEN:
    text = (out / name).read_text(encoding="utf-8")
    assert all(run in text for run in ("first", "second"))
  assert "accuracy against cost" in text and "<svg" in text
  # The same directory serves other runs.
  questions = {"accuracy": {"asked": 8, "digest": "other"}}
  other = _run(tmp_path / "other" / "first", questions=questions)
  tasks.run("report", {"runs": (str(here), str(other))}, out)
  said = capsys.readouterr().out
  assert f"(30 in {here}, 8 in {other} questions): these numbers are" in said
  assert "second" not in (out / "table.txt").read_text(encoding="utf-8")


def test_runs_without_results_are_all_named(tmp_path):
  good, bad = _run(tmp_path / "a"), _run(tmp_path / "b")
  with workdir.opened(tmp_path / "c", "pretrain", {}):
    pass
  value = files.read_json(bad / "results.json")
  (bad / "results.json").write_text(json.dumps(value | {"model": "x"}))
  out = tmp_path / "report"
  said = _refusal(out, good, bad, tmp_path / "c", tmp_path / "none")
  lines = said.splitlines()
  assert len(lines) == 4
  assert f"{bad} has no results to compare" in lines[1]
  assert "do not match their digest" in lines[1]
  assert f"{tmp_path / 'c'} has no results to compare" in lines[2]
  assert "run the pretrain there to its end, or leave it out" in lines[2]
  assert f"{tmp_path / 'none'} holds no run of eos_jax" in lines[3]
  assert not out.exists()
  assert "give each once" in _refusal(out, good, good)


def test_what_has_no_report_says_so(tmp_path):
  with workdir.opened(tmp_path / "a", "pretrain", {}):
    pass
  said = _refusal(tmp_path / "a")
  assert (
    "a run of the task 'pretrain', which has no report; give one of" in said
  )
  for task in ("compile", "evaluate", "search", "timing"):
    with workdir.opened(tmp_path / task, task, {}):
      pass
    said = _refusal(tmp_path / task)
    assert f"the report of {tmp_path / task} cannot be made" in said
    assert f"run the {task} there to its end first" in said


def test_results_of_an_older_version_are_refused(tmp_path):
  path = _run(tmp_path / "run")
  value = files.read_json(path / "results.json")
  value["results"] = [{"name": "dense", "accuracy": {}, "mean": 0.5}]
  value["digest"] = results_lib._digest(value)
  (path / "results.json").write_text(json.dumps(value))
  assert "cannot be made (KeyError: 'scores')" in _refusal(path)


def test_the_report_of_compiled_programs_is_made_anew(tmp_path, capsys):
  program = compile_test.program(2**30)
  with workdir.opened(tmp_path, "compile", {}):
    compile_task.write(tmp_path, "tiny in bfloat16", [program], ["dense: no"])
  before = (tmp_path / "compile.md").read_bytes()
  (tmp_path / "compile.md").unlink()
  tasks.run("report", {"runs": ()}, tmp_path)
  assert (tmp_path / "compile.md").read_bytes() == before
  said = capsys.readouterr().out
  assert "## tiny in bfloat16" in said and "Not compiled: dense: no" in said


def test_the_report_of_measurements_is_made_anew(tmp_path, capsys):
  rates = {"smolvlm": {"1": {"median": 1234.5}, "2": {"median": 2345.6}}}
  value = files.sealed({"rates": rates})
  with workdir.opened(tmp_path, "timing", {}):
    files.write_json(tmp_path / "pictures.json", value)
  tasks.run("report", {"runs": ()}, tmp_path)
  said = capsys.readouterr().out
  assert "smolvlm       1234.5       2345.6" in said
  value["rates"]["smolvlm"]["1"]["median"] = 1.0
  files.write_json(tmp_path / "pictures.json", value)
  assert "do not match its digest" in _refusal(tmp_path)
