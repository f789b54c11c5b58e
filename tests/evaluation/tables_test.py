"""Tables show every number of a run."""

import types

import pytest

from eos_jax.evaluation import charts, results, tables
from tests.evaluation import results_test

COSTS = types.SimpleNamespace(
  layer_average=4.0, final=4, total_flops=10**7, kv_bytes=2048
)


def suite():
  """Results of a plan and of presets on questions with tasks."""

  def measured(name, limit, mean, **costs):
    score = results.Score(mean, results.FRACTION, 0.02, {"a": mean, "b": mean})
    plan = results_test.PLAN if limit else None
    found = types.SimpleNamespace(**vars(COSTS) | costs)
    return results.measured(name, limit, plan, {"accuracy": score}, found)

  return [
    measured("dense", None, 0.9, layer_average=144.0, total_flops=10**8),
    measured("prune", 4.0, 0.4),
    measured("eos", 4.0, 0.6),
    results.Result("fastv", 4.0, reason="smallest is 28.8"),
    measured("merge", 16.0, 0.7),
  ]


FACTS = {"questions": {"accuracy": {"asked": 30, "digest": "d"}}}


def test_budgets_rank_by_accuracy_and_say_what_cannot_be_reached():
  (section,) = tables.sections(FACTS, suite())
  head, *rows = section.table
  assert list(head) == [
    *("plan", "budget", "accuracy", "+-", "a", "b", "tokens", "final"),
    *("MFLOPs", "KV KiB", "kept", "note"),
  ]
  assert [row[0] for row in rows] == ["dense", "merge", "eos", "prune", "fastv"]
  assert rows[2] == (
    *("eos", "4", "0.600", "0.020", "0.600", "0.600", "4.00", "4"),
    *("10", "2", "4", "moved"),
  )
  assert set(rows[-1]) == {
    *("fastv", "4", ""),
    "cannot reach it: smallest is 28.8",
  }
  assert "30 test questions; +- is one standard error" in section.notes[0]


def _benchmarks():
  def measured(name, limit, **scores):
    found = {n: results.Score(v, "%") for n, v in scores.items()}
    return results.measured(name, limit, None, found, COSTS)

  return [
    measured("dense", None, gqa=60.0, scienceqa=70.0, pope=80.0),
    measured("mine", 4.0, gqa=30.0, scienceqa=70.0, pope=60.0),
    results.Result("fastv@4", 4.0, reason="no"),
  ]


@pytest.mark.parametrize("whole", [True, False])
def test_benchmarks_compare_with_dense_and_with_published_numbers(whole):
  known = {"asked": 12578, "files": ["from x"], "whole": whole}
  known |= {"left out": {"no image": 3}, "skipped": []}
  facts = {
    "questions": {
      "gqa": known,
      "scienceqa": known | {"skipped": ["a"]},
      "pope": known,
      "vqav2": known,
    },
    "protocol": {"protocol": "llava"},
    "published": {"layers": 32, "width": 4096, "tokens": 576}
    | {"protocol": "llava", "style": "vicuna", "aspect": "pad"},
  }
  section, published = tables.sections(facts, _benchmarks())
  head, dense, mine, fastv = section.table
  assert dict(zip(head, mine, strict=True)) == {
    **{"plan": "mine", "budget": "4", "gqa": "30.00", "scienceqa": "70.00"},
    **{"pope": "60.00", "vqav2": "-", "% of dense": "62.5", "tokens": "4.00"},
    **{"final": "4", "MFLOPs": "10", "KV KiB": "2", "note": ""},
  }
  assert dense[head.index("% of dense")] == "100.0"
  assert fastv[2:-1] == ("",) * (len(head) - 3)
  said = "\n".join(section.notes)
  assert "% of dense: mean over gqa, pope." in said
  assert "scienceqa is not in it: a model without" in said
  assert "pope: 12,578 questions, 3 left out: no image, from x" in said
  assert "no image, 1 rows cannot be used, left out, from x" in said
  assert "vqav2: the right answers are not here" in said
  if whole:
    assert list(published.table[0][4:]) == ["gqa"]
  else:
    assert published.notes[0].startswith("There are none to compare with: only")


def test_a_plot_is_an_image(tmp_path):
  path = tmp_path / "plot.png"
  charts.write_png(path, charts.accuracy_cost(suite()))
  assert path.read_bytes()[:4] == b"\x89PNG"


def test_names_are_no_formulas_of_a_chart():
  names = ["a$\\frac$b", "_hidden", "$x$", "a$b"]
  score = {"accuracy": results.Score(0.5, results.FRACTION, 0.1)}
  rows = [
    results.Result(name, limit, scores=score, flops=10**7)
    for name, limit in zip(names, (4.0, 4.0, 4.0, None), strict=True)
  ]
  drawn = charts.svg(charts.accuracy_cost(rows))
  assert all(name in drawn for name in names)


def test_a_search_shows_its_plans_and_the_best_presets():
  facts = FACTS | {"gaps": {"4": 0.012}}
  _, section = tables.sections(facts, suite())
  head, mine, preset = section.table
  gap = head.index("soft - hard, points")
  assert (mine[0], mine[gap]) == ("eos", "+1.2")
  assert (preset[0], preset[gap]) == ("prune", "")
