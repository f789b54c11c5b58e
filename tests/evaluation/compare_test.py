"""Runs that are compared say in what they differ."""

import copy
import dataclasses

import pytest

from eos_jax.evaluation import compare
from tests.evaluation import tables_test

FACTS = {
  "model": "tiny",
  "protocol": {"suite": "tiny", "seed": 0},
  "versions": {"jax": "1"},
  "questions": {"accuracy": {"asked": 30, "digest": "d"}},
}


def _runs(weights="abc", **changes):
  """Two runs, the second with changes."""
  runs = {}
  for name, fingerprint in (("a", "abc"), ("runs/b", weights)):
    found = [
      dataclasses.replace(result, weights=fingerprint * 10)
      for result in tables_test.suite()
    ]
    runs[name] = copy.deepcopy(FACTS), found
  runs["runs/b"][0].update(copy.deepcopy(changes))
  return runs


def test_runs_that_asked_the_same_stand_in_one_table():
  section = compare.section(_runs())
  head, *rows = section.table
  assert list(head[:5]) == ["run", "plan", "budget", "accuracy", "+-"]
  assert [row[0] for row in rows] == ["a"] * 5 + ["runs/b"] * 5
  assert rows[0][1:] == rows[5][1:]
  assert section.notes == [
    "+- is one standard error; accuracy is a mean over tasks."
  ]


@pytest.mark.parametrize(
  "changes, said",
  [
    (
      {"weights": "xyz"},
      "warning: the weights differ, see their fingerprints",
    ),
    (
      {"questions": {"accuracy": {"asked": 8, "digest": "e"}}},
      "warning: accuracy: the questions, or how they were asked, are not the"
      " same (30 in a, 8 in runs/b questions)",
    ),
    (
      {"protocol": {"suite": "held_out", "seed": 0}},
      "protocol.suite is 'tiny' in a and 'held_out' in runs/b.",
    ),
    ({"model": "other"}, "model is 'tiny' in a and 'other' in runs/b."),
    ({"versions": {"jax": "2"}}, "versions.jax is '1' in a and '2' in runs/b."),
    (
      {"questions": {"pope": {"asked": 3, "digest": "e"}}},
      "accuracy was not asked in runs/b.",
    ),
  ],
)
def test_a_difference_is_not_silent(changes, said):
  runs = _runs(**changes)
  section = compare.section(runs)
  assert any(note.startswith(said) for note in section.notes)
  page = compare.page(runs)
  assert "accuracy against cost" in page and "<svg" in page
  column = [row[1] for row in section.table if "weights" in section.table[0]]
  assert bool(column) == ("weights" in changes)
  if column:
    assert (
      column[:2] == ["weights", "abcabcabcabc"] and "xyzxyzxyzxyz" in column
    )
