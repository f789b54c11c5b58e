"""Results are found again under the same circumstances, and only then."""

import dataclasses

import pytest

from eos_jax import ops
from eos_jax.evaluation import evaluator, ledger

PLAN = ops.ReductionPlan(
  name="prune@4",
  model="tiny",
  tokens=16,
  layers=2,
  sites=(ops.PlannedSite("decoder.0", 4, ops.presets.PRUNE),),
)
RESULT = evaluator.Result(
  name="prune",
  limit=4.0,
  plan=PLAN,
  accuracy={"text": 1 / 3, "chart": 0.1},
  mean=0.21666666666666667,
  error=0.01,
  layer_average=4.0,
  final=4,
  flops=123456789012,
  kv_bytes=512,
)
DENSE = dataclasses.replace(RESULT, name="dense", limit=None, plan=None)


def _open(path, **circumstances):
  return ledger.Ledger(path, {"weights": "abc", **circumstances})


def test_results_come_back_to_the_last_bit(tmp_path):
  path = tmp_path / "evaluation.jsonl"
  book = _open(path)
  assert book.find("prune", 4.0, PLAN) is None
  book.add(RESULT)
  book.add(DENSE)
  assert book.find("prune", 4.0, PLAN) == RESULT
  book.close()
  again = _open(path)
  assert again.find("prune", 4.0, PLAN) == RESULT
  assert again.find("dense", None, None) == DENSE
  again.close()


def test_other_circumstances_and_other_plans_are_not_found(tmp_path):
  path = tmp_path / "evaluation.jsonl"
  book = _open(path)
  book.add(RESULT)
  fewer = dataclasses.replace(
    PLAN, sites=(dataclasses.replace(PLAN.sites[0], keep=3),)
  )
  assert book.find("prune", 4.0, fewer) is None
  assert book.find("dense", None, None) is None
  book.close()
  other = _open(path, questions=10)
  assert other.find("prune", 4.0, PLAN) is None
  other.add(RESULT)
  other.close()
  assert _open(path).find("prune", 4.0, PLAN) == RESULT


def test_a_line_cut_short_is_dropped_and_nothing_else(tmp_path):
  path = tmp_path / "evaluation.jsonl"
  book = _open(path)
  book.add(RESULT)
  book.add(DENSE)
  book.close()
  path.write_text(path.read_text()[:-30])
  again = _open(path)
  assert again.find("prune", 4.0, PLAN) == RESULT
  assert again.find("dense", None, None) is None
  again.add(DENSE)
  again.close()
  assert _open(path).find("dense", None, None) == DENSE


@pytest.mark.parametrize(
  "damage",
  [
    lambda line: line.replace("0.1}", "0.2}"),
    lambda line: line.replace('"digest"', '"digset"'),
    lambda line: "null",
    lambda line: "{}",
    lambda line: "[1]",
    lambda line: line.replace('"mean": 0.2166', '"mean": NaN, "x": 0.2166'),
    lambda line: "[" * 100_000,
    lambda line: line[:50],
  ],
)
def test_a_damaged_entry_is_computed_again(tmp_path, damage, capsys):
  path = tmp_path / "evaluation.jsonl"
  book = _open(path)
  book.add(RESULT)
  book.add(DENSE)
  book.close()
  first, second = path.read_text().splitlines()
  assert damage(first) != first
  path.write_text(f"{damage(first)}\n{second}\n")
  again = _open(path)
  assert again.find("prune", 4.0, PLAN) is None
  assert again.find("dense", None, None) == DENSE
  again.add(RESULT)
  again.close()
  assert str(path) in capsys.readouterr().out
  assert sorted(path.read_text().splitlines()) == sorted([first, second])


def test_a_line_that_is_not_utf_8_is_dropped(tmp_path, capsys):
  path = tmp_path / "evaluation.jsonl"
  book = _open(path)
  book.add(RESULT)
  book.close()
  path.write_bytes(b'{"key": "\xff"}\n' + path.read_bytes())
  assert _open(path).find("prune", 4.0, PLAN) == RESULT
  assert "line 1 is no JSON object" in capsys.readouterr().out
