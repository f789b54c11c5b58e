import math

from eos_jax.evaluation import metrics


def test_exact_match_ignores_case_and_outer_space_only():
  got = metrics.exact_match(
    ["Yes", " top left", "2 ", ""], ["yes", "top left", "two", "no"]
  )
  assert got == [True, True, False, False]


def test_standard_error_of_a_mean_over_tasks():
  # Two tasks of 4 and 16 questions, half of them right in each.
  right = [True, False] * 2 + [True, False] * 8
  tasks = ["a"] * 4 + ["b"] * 16
  expected = math.sqrt(0.25 / 4 + 0.25 / 16) / 2
  assert abs(metrics.standard_error(right, tasks) - expected) < 1e-12
