"""Scores of generated answers."""

from collections.abc import Sequence
import math


def exact_match(
  predicted: Sequence[str], expected: Sequence[str]
) -> list[bool]:
  """Whether answers are equal, apart from case, white space and a full stop.

  >>> exact_match(["Red ", "2"], ["red.", "3"])
  [True, False]
  """
  return [
    normalized(guess) == normalized(truth)
    for guess, truth in zip(predicted, expected, strict=True)
  ]


def normalized(answer: str) -> str:
  """An answer without what does not count.

  >>> normalized(" A  red Cat. ")
  'a red cat'
  """
  return " ".join(answer.lower().split()).removesuffix(".")


def accuracy_by_task(
  right: Sequence[bool], tasks: Sequence[str]
) -> dict[str, float]:
  """Share of right answers in each task, by name of the task.

  >>> accuracy_by_task([True, False, True], ["a", "a", "b"])
  {'a': 0.5, 'b': 1.0}
  """
  scores: dict[str, list[bool]] = {}
  for hit, task in zip(right, tasks, strict=True):
    scores.setdefault(task, []).append(hit)
  return {task: sum(hits) / len(hits) for task, hits in sorted(scores.items())}


def standard_error(right: Sequence[bool], tasks: Sequence[str]) -> float:
  """Standard error of the mean over tasks, each task a binomial sample.

  >>> round(standard_error([True, False] * 50, ["a"] * 100), 3)
  0.05
  """
  accuracy = accuracy_by_task(right, tasks)
  variance = 0.0
  for task, share in accuracy.items():
    count = sum(name == task for name in tasks)
    variance += share * (1 - share) / count
  return math.sqrt(variance) / len(accuracy)
