"""Judges plans, each once, and writes what their reports are made of."""

from collections.abc import Mapping, Sequence
import contextlib
import dataclasses
import pathlib
from typing import Any

import tqdm

import eos_jax
from eos_jax import data, files, ops
from eos_jax.data import sources
from eos_jax.evaluation import evaluator, examples, store
from eos_jax.evaluation import results as results_lib
from eos_jax.evaluation.scoring import benchmarks as scoring
from eos_jax.tasks import common, report
from eos_jax.training import shared_settings


def with_presets(
  plans: Sequence[tuple[str, float, ops.ReductionPlan]], presets: Sequence[str]
) -> list[Any]:
  """Returns dense, (name, limit, plan) and presets at each limit, to judge."""
  todo: list[Any] = [("dense", None, None)]
  for name, limit, plan in plans:
    todo.append((name, limit, plan))
    todo += [(preset, limit, preset) for preset in presets]
  return todo


def depends(
  fingerprint: str,
  questions: Mapping[str, Any],
  chosen: shared_settings.EvaluationSettings,
) -> dict[str, Any]:
  """Returns what a result depends on; presets do not depend on one another.

  Args:
    fingerprint: of the model's weights.
    questions: what the questions depend on.
    chosen: which questions.
  """
  return {
    "version": eos_jax.__version__,
    "weights": fingerprint,
    **questions,
    **dataclasses.asdict(dataclasses.replace(chosen, presets=())),
  }


def judged(
  judge: evaluator.Evaluator,
  todo: Sequence[tuple[str, float | None, Any]],
  known: Mapping[str, Any],
  folder: pathlib.Path,
) -> list[results_lib.Result]:
  """Returns results of plans under one model; each is computed once.

  Args:
    judge: asks the questions.
    todo: name, limit and plan, operator or None.
    known: what the results depend on, see `depends`.
    folder: of the run.
  """
  path, found = folder / "evaluation.jsonl", []
  with contextlib.closing(store.Store(path)) as entries:
    for item in tqdm.tqdm(todo, desc="evaluation", dynamic_ncols=True):
      found.append(_judged(judge, *item, known, entries, folder))
  return found


def _judged(judge, name, limit, plan, known, entries, folder):
  if isinstance(plan, str):
    found = common.preset_candidate(judge.cfg, plan, limit)
    if found.reason:
      return results_lib.Result(name, limit, reason=found.reason)
    plan = found.plan
  # The report shows images under the plans that were searched.
  shown = None
  if name == results_lib.SEARCHED and judge.questions.drawn:
    shown = folder / "examples" / f"{limit:g}.npz"
  content = {"depends": known, "plan": plan and plan.digest}
  entry = entries.find(content)
  if entry is None or not (shown is None or _is_sound(shown)):
    answers = judge.predict(plan)
    if shown is not None:
      shown.parent.mkdir(exist_ok=True)
      examples.save(shown, examples.collect(judge.questions, answers, plan))
    if entry is None:
      result = judge.judge(name, limit, plan, answers)
      entry = {**result.to_dict(), "weights": known["weights"]}
      entries.add(content, entry)
  return results_lib.Result.from_dict({**entry, "name": name, "limit": limit})


def _is_sound(path):
  """Whether examples can be read; those that are damaged are made again."""
  try:
    return path.exists() and bool(examples.load(path))
  except ValueError as error:
    print(f"warning: {error}; it is made again", flush=True)
    return False


def write(
  folder: pathlib.Path,
  results: Sequence[results_lib.Result],
  judge: evaluator.Evaluator,
  known: Mapping[str, Any],
  **extra: Any,
) -> str:
  """Writes `results.json` of a run and its report; returns the table.

  Args:
    folder: of the run.
    results: of `judged`.
    judge: the evaluator that they come from.
    known: what they depend on, see `depends`.
    **extra: facts of this task.
  """
  asked = judge.questions
  protocol = {
    name: value
    for name, value in known.items()
    if name not in ("version", "weights", "batch")
  }
  found = {results_lib.ACCURACY: question_facts(asked)}
  facts = {
    **extra,
    "model": judge.cfg.name,
    "weights": known["weights"],
    "protocol": protocol,
    "questions": found,
    "drawn": asked.drawn,
  }
  return report.write_results(folder, results, facts)


def question_facts(
  asked: data.QuestionSet, protocol: str = ""
) -> dict[str, Any]:
  """Returns what is said of a set of questions.

  Scores are comparable where the digests are equal.

  Args:
    asked: the questions.
    protocol: by which answers are scored, where there are several.
  """
  known = [protocol, files.plain(asked.rows.facts()), asked.digests]
  return {"asked": len(asked), "digest": files.digest(known)}


def scored(
  protocol: str,
  sets: Sequence[data.QuestionSet],
  answers: Mapping[str, store.Answers],
  folder: pathlib.Path,
) -> dict[str, results_lib.Score]:
  """Returns scores of answers, of benchmarks whose right answers are known.

  Args:
    protocol: whose scores.
    sets: the benchmarks.
    answers: by benchmark.
    folder: with the submissions of the plan, and the marks of MM-Vet's judge.
  """
  scores = {}
  marks = folder / "mmvet_marks.json"
  for asked in sets:
    if asked.name == "mmvet" and marks.is_file():
      scores["mmvet"] = _marked(marks, asked.items)
    if asked.name in scoring.SCORES and all(s.answers for s in asked.items):
      pairs = list(zip(asked.items, answers[asked.name].texts, strict=True))
      score = scoring.SCORES[asked.name]
      scores[asked.name] = score(pairs, protocol)
  return scores


def _marked(path, samples):
  """The score of MM-Vet from the marks that a judge gave."""
  try:
    return scoring.mmvet(samples, files.read_json(path))
  except ValueError as error:
    raise sources.DataError(f"{path}: {error}") from error
