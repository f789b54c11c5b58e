"""Answers on which the field's scorers are easily got wrong.

The expected scores are those of the code that each protocol is named after.
"""

import types

import pytest

from eos_jax.evaluation.scoring import benchmarks, letters

_TWO = {"A": "apple", "B": "banana"}


# Benchmark, protocol, text, right answer, score; then what else a sample has.
@pytest.mark.parametrize(
  "name, protocol, text, answer, value, sample",
  [
    # The wide space is folded, but nothing is in formulae.
    ("ocrbench", "lmms_eval", "ａ\u3000b", "a b", 1, {"dataset": "ct80"}),
    ("ocrbench", "llava", "ａ\u3000b", "a b", 0, {"dataset": "ct80"}),
    ("ocrbench", "lmms_eval", "Ａ+b", "A+b", 0, {"dataset": "HME100k"}),
    ("ocrbench", "lmms_eval", "Ａ+b", "A+b", 1, {"dataset": "ct80"}),
    # The harness strips answers, and GQA's spaces inside count.
    ("gqa", "lmms_eval", " red car. \n", "red car", 100, {}),
    ("gqa", "lmms_eval", "redcar", "red car", 0, {}),
    ("gqa", "llava", " red car", "red car", 0, {}),
    ("chartqa", "lmms_eval", "Yes \n", "yes", 100, {}),
    ("chartqa", "llava", "Yes \n", "yes", 0, {}),
    ("ai2d", "lmms_eval", "B \n", "B", 100, {}),
    # Letters beyond the four options are no letters.
    ("mmstar", "lmms_eval", "E: it is B", "B", 100, {}),
    ("realworldqa", "lmms_eval", "F. No, C", "C", 100, {}),
    ("realworldqa", "lmms_eval", "it is E", "E", 0, {}),
    ("realworldqa", "lmms_eval", "E.", "e", 100, {}),
  ],
)
def test_scores(name, protocol, text, answer, value, sample):
  groups = sample | {"type": "x", "l2_category": "x"}
  asked = types.SimpleNamespace(
    id="1", answers=[answer], choices={}, groups=groups
  )
  found = benchmarks.SCORES[name]([(asked, text)], protocol)
  assert found.value == pytest.approx(value)


@pytest.mark.parametrize(
  "protocol, text, answer, value",
  [
    # Not inferred: the extractor reads it, or it is wrong.
    ("lmms_eval", "It is [A], surely", "A", 100),
    ("llava", "It may be either", "A", 0),
    # An option that is not there is the text "nan" in lmms-eval's rows: two
    # options are contained, and the extractor finds no letter.
    ("lmms_eval", "banana", "B", 0),
    ("lmms_eval", "apple", "A", 100),
    ("llava", "banana", "B", 100),
  ],
)
def test_mmbench_without_a_judge(protocol, text, answer, value):
  asked = types.SimpleNamespace(
    id="1", answers=[answer], choices=_TWO, groups={}
  )
  assert benchmarks.mmbench([(asked, text)], protocol).value == value


def test_a_long_answer_is_measured_in_lower_case():
  # "İ" has two characters in lower case: 15 are more than twice seven.
  choices = {"A": "cat", "B": "bird"}
  assert letters.mmbench_vlmevalkit("a cat iiiiiiii", choices) == "A"
  assert letters.mmbench_vlmevalkit("a cat iiiiiiİ", choices) == "A"
  assert letters.mmbench_vlmevalkit("a cat iiiiiiiİ", choices) is None
