"""A few test images and what a plan did to them, kept for the report."""

from collections.abc import Sequence
import dataclasses
import pathlib
import typing

import numpy as np

from eos_jax import data, files, ops
from eos_jax.data import tiny_rows
from eos_jax.evaluation import evaluator


@dataclasses.dataclass(frozen=True)
class Examples:
  """Pictures under one plan; E of them.

  Attributes:
    images: `[E, height, width, 3]` uint8.
    questions: the questions.
    expected: the right answers.
    answers: those given under the plan.
    owner: `[E, V]`, see `token_flow.follow`.
    left_at: `[E, V]`, likewise.
    sites: names of the plan's sites.
  """

  images: np.ndarray
  questions: tuple[str, ...]
  expected: tuple[str, ...]
  answers: tuple[str, ...]
  owner: np.ndarray
  left_at: np.ndarray
  sites: tuple[str, ...]


def choose(tasks: Sequence[str], pictures: Sequence[int]) -> list[int]:
  """One question of each task, each about another image where possible."""
  chosen: dict[str, int] = {}
  shown: set[int] = set()
  for place, (task, picture) in enumerate(zip(tasks, pictures, strict=True)):
    if task not in chosen and picture not in shown:
      chosen[task] = place
      shown.add(picture)
  for place, task in enumerate(tasks):
    chosen.setdefault(task, place)
  return [chosen[task] for task in sorted(chosen)]


def collect(
  asked: data.QuestionSet, answers: evaluator.Answers, plan: ops.ReductionPlan
) -> Examples:
  """Returns examples of an evaluated plan.

  Args:
    asked: the questions, whose images can be drawn on.
    answers: of `Evaluator.predict` under the plan.
    plan: the plan.
  """
  places = choose(asked.tasks, asked.image_ids)
  shown = [asked.items[place] for place in places]
  return Examples(
    images=np.stack([tiny_rows.small(item.images[0]) for item in shown]),
    questions=tuple(item.question for item in shown),
    expected=tuple(item.answer for item in shown),
    answers=tuple(answers.texts[place] for place in places),
    owner=answers.owner[places],
    left_at=answers.left_at[places],
    sites=tuple(site.site for site in plan.sites),
  )


def save(path: pathlib.Path, examples: Examples) -> None:
  """Writes examples as one npz file, whole or not at all."""
  with files.whole(path) as file:
    np.savez_compressed(file, **dataclasses.asdict(examples))


def load(path: pathlib.Path) -> Examples:
  """Reads what `save` wrote.

  Raises:
    ValueError: the file cannot be read.
  """
  try:
    with open(path, "rb") as file, np.load(file) as table:
      values = {
        field.name: tuple(table[field.name].tolist())
        if typing.get_origin(field.type) is tuple
        else table[field.name]
        for field in dataclasses.fields(Examples)
      }
  # Whatever damage makes NumPy, zipfile and zlib raise.
  except Exception as error:
    raise ValueError(
      f"{path} cannot be read as examples ({type(error).__name__}: {error})"
    ) from error
  found = Examples(**values)
  lengths = {len(found.images), len(found.owner), len(found.left_at)}
  lengths |= {
    len(texts) for texts in (found.questions, found.expected, found.answers)
  }
  if len(lengths) != 1:
    raise ValueError(f"{path} has fields of different lengths, {lengths}")
  return found
