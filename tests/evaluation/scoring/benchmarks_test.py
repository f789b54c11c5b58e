"""Scores of the miniatures, worked out by hand, under both protocols."""

import pytest

from eos_jax.data import benchmarks
from eos_jax.data.benchmarks import prompts
from eos_jax.evaluation.scoring import benchmarks as scoring
from tests.data.benchmarks import minis

# By benchmark: texts in the order of the questions, and by protocol the value
# and some of the parts.
CASES = {
  # LLaVA submits normalised texts, so that "Yes" becomes the people's "yes",
  # where nothing is normalised; "two" is "2", which three of ten said: .9.
  "vqav2": (
    ["Yes.", "two", "A red"],
    {
      "llava": (
        100 * (1 + 0.9 + 1) / 3,
        {"answer type: number": 90.0, "question type: is it": 100.0},
      ),
      "lmms_eval": (100 * (1 + 0.9 + 1) / 3, {}),
    },
  ),
  # Only lmms-eval takes the exclamation mark off.
  "gqa": (
    ["Yes.", "bed!"],
    {
      "llava": (50.0, {"answers: binary": 100.0, "answers: open": 0.0}),
      "lmms_eval": (100.0, {"answers: open": 100.0}),
    },
  ),
  # Three and four of ten people said so.
  "textvqa": (
    ["Nokia", "the Nokia"],
    {"llava": (95.0, {}), "lmms_eval": (95.0, {})},
  ),
  "textvqa_ocr": (
    ["Nokia", "Motorola"],
    {"llava": (45.0, {}), "lmms_eval": (45.0, {})},
  ),
  # Adversarial, popular, random. LLaVA takes "Sure" for a yes; there
  # precision is 1/2 in the first split, and F1 2/3, 1 and 0.
  "pope": (
    ["Yes", "Sure", "yes", "no", "No", "No"],
    {
      "llava": (
        100 * (2 / 3 + 1 + 0) / 3,
        {
          "adversarial fp": 1.0,
          "adversarial precision": 50.0,
          "random recall": 0.0,
          "random yes_ratio": 0.0,
        },
      ),
      # One list: two of three yes are found, none is wrong.
      "lmms_eval": (80.0, {"random yes_ratio": 50.0}),
    },
  ),
  # code_reasoning/c, then existence/a and b: half of one picture, both of
  # the next, and again a half, but for lmms-eval, which reads "y".
  "mme": (
    ["Yes", "Yes", "Yes", "No", "y", "No"],
    {
      "llava": (50 + 75 + 50, {"cognition": 50.0, "perception": 125.0}),
      "lmms_eval": (50 + 100 + 100, {"existence": 200.0}),
    },
  ),
  # The second question is right in its first pass alone.
  "mmbench": (
    ["A", "B.", "the cat", "(B)"],
    {
      "llava": (50.0, {"vanilla": 100.0, "category: color": 0.0}),
      "lmms_eval": (50.0, {"vanilla": 100.0, "l2-category: fine": 0.0}),
    },
  ),
  "seed": (
    ["B.", "A"],
    {
      "llava": (50.0, {"type: Scene": 0.0, "type: Identity": 100.0}),
      "lmms_eval": (100.0, {}),
    },
  ),
  # The first two are of one subject. MMStar's own code does not know brackets
  # of this kind; lmms-eval takes the mean over subjects.
  "mmstar": (
    ["a", "B: blue", "[C]"],
    {
      "llava": (100 * 2 / 3, {"l2_category: geometry": 100.0}),
      "lmms_eval": (75.0, {"l2_category: geometry": 50.0}),
    },
  ),
  "ocrbench": (
    ["ＣＯＦＦＥＥ house", "a+b=c"],
    {
      "llava": (1.0, {"type: Irregular Text Recognition": 0.0}),
      "lmms_eval": (2.0, {"type: Irregular Text Recognition": 1.0}),
    },
  ),
  "scienceqa": (
    ["A.", "The answer is B."],
    {
      "llava": (50.0, {"grade: grade2": 50.0}),
      "lmms_eval": (50.0, {}),
    },
  ),
  # The file of made questions comes first: 52 % is within a twentieth of 50 %.
  "chartqa": (
    ["52%", "10.6", "yes"],
    {
      "llava": (100 * 2 / 3, {"part: augmented": 100.0, "part: human": 50.0}),
      "lmms_eval": (100 * 2 / 3, {}),
    },
  ),
  "ai2d": (
    ["A. red", "c"],
    {"llava": (100.0, {}), "lmms_eval": (100.0, {})},
  ),
  "realworldqa": (
    ["The answer is B", "Two."],
    {"llava": (100.0, {}), "lmms_eval": (100.0, {})},
  ),
}


def test_every_benchmark_has_a_case():
  assert set(CASES) == set(scoring.SCORES)
  assert set(benchmarks.READERS) - set(CASES) == {"mmvet"}


@pytest.mark.parametrize("protocol", prompts.PROTOCOLS)
@pytest.mark.parametrize("name", CASES)
def test_scores_by_hand(name, protocol, tmp_path):
  told, wanted = CASES[name]
  samples = benchmarks.read(name, minis.write(name, tmp_path), protocol).samples
  answered = list(zip(samples, told, strict=True))
  found = scoring.SCORES[name](answered, protocol)
  value, parts = wanted[protocol]
  assert found.value == pytest.approx(value)
  for part, number in parts.items():
    assert found.parts[part] == pytest.approx(number), part


def test_marks_of_a_judge_are_summed_up(tmp_path):
  samples = benchmarks.read("mmvet", minis.write("mmvet", tmp_path), "llava")
  marks = {"v1_0": {"score": [0.4, 0.6]}, "v1_1": 1.0}
  found = scoring.mmvet(samples.samples, marks)
  assert found.value == pytest.approx(75)
  assert found.parts == pytest.approx({"rec": 100, "ocr": 50, "math": 50})
  for mark in (None, 2, [], "1"):
    with pytest.raises(ValueError, match="the mark of 'v1_1' is"):
      scoring.mmvet(samples.samples, marks | {"v1_1": mark})


def test_half_of_a_picture_of_mme_is_refused(tmp_path):
  samples = benchmarks.read(
    "mme", minis.write("mme", tmp_path), "llava"
  ).samples
  with pytest.raises(ValueError, match="has 1 questions; MME has two for each"):
    scoring.mme([(samples[0], "Yes")], "llava")
