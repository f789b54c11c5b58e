"""Published numbers stand beside ours where both mean the same."""

import pytest

from eos_jax.data import benchmarks
from eos_jax.evaluation import published_numbers, results

LLAVA = {
  "layers": 32,
  "width": 4096,
  "tokens": 576,
  "protocol": "llava",
  "style": "vicuna",
  "aspect": "pad",
}


def _line(name, tokens, **scores):
  found = {n: results.Score(value, "%") for n, value in scores.items()}
  return results.Result(name, layer_average=tokens, scores=found)


def test_only_whole_benchmarks_are_comparable():
  asked = {"gqa": 12578, "pope": 100, "mmbench": 7, "ai2d": 9}
  assert published_numbers.comparable(asked, **LLAVA) == (
    ["gqa", "mmbench"],
    "",
  )
  names, reason = published_numbers.comparable({"pope": 3}, **LLAVA)
  assert not names and reason.startswith("only gqa, mme, pope")


@pytest.mark.parametrize(
  "change, said",
  [
    ({"width": 5120}, "of LLaVA-1.5-7B, the model is another"),
    ({"protocol": "lmms_eval"}, "these of lmms_eval, vicuna, pad"),
    ({"style": "llava"}, "these of llava, llava, pad"),
    ({"aspect": "crop"}, "these of llava, vicuna, crop"),
  ],
)
def test_other_circumstances_say_why_there_is_none(change, said):
  asked = {"gqa": 12578}
  names, reason = published_numbers.comparable(asked, **LLAVA | change)
  assert not names and reason.endswith(said)


def test_budgets_that_a_line_comes_near_to():
  lines = [
    _line("dense", 576.0, gqa=61.5, pope=85.0),
    _line("mine", 62.5, gqa=58.0, pope=84.0),
    _line("other", 100.0, gqa=59.0, pope=85.0),
  ]
  head, *rows = published_numbers.table(lines, ["gqa", "pope"])
  assert head == ["tokens", "method", "lineage", "source", "gqa", "pope"]
  assert rows[0] == ["576.0", "dense", "here", "", "61.5", "85.0"]
  assert rows[1][:3] == ["576", "vanilla", "A"] and rows[1][4:] == [
    *("61.9", "85.9"),
  ]
  assert rows[2][:3] == ["62.5", "mine", "here"]
  assert {row[0] for row in rows} == {"576.0", "576", "62.5", "64"}
  assert {row[2] for row in rows[3:]} == {"A", "B"}
  gone = published_numbers.table(lines[2:], ["gqa"])
  assert len(gone) == 1


def test_rows_name_benchmarks_that_are_read():
  known = published_numbers.known()
  for row in known["rows"]:
    assert set(row["scores"]) <= set(known["questions"])
    assert row["lineage"] in known["lineages"]
  assert set(known["questions"]) <= set(benchmarks.READERS)
  keys = [(r["budget"], r["method"], r["lineage"]) for r in known["rows"]]
  assert len(set(keys)) == len(keys)
