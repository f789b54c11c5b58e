"""Evaluates plans and presets side by side, each once, and writes it down."""

import dataclasses
from typing import Any

import tqdm

import eos_jax
from eos_jax import cost, files, ops
from eos_jax.evaluation import evaluator, examples, ledger, report
from eos_jax.training import workdir


def compare(judge, plans, presets, book, folder):
  """Results of dense, of (name, limit, plan), and of presets beside each."""
  todo: list[Any] = [("dense", None, None)]
  for name, limit, plan in plans:
    todo.append((name, limit, plan))
    todo += [(preset, limit, ops.PRESETS[preset]) for preset in presets]
  return judged(judge, todo, book, folder)


def judged(judge, todo, book, folder):
  """Results of (name, limit, plan or operator or None) under one model."""
  results = []
  for name, limit, plan in tqdm.tqdm(
    todo, desc="evaluation", dynamic_ncols=True
  ):
    if isinstance(plan, ops.OperatorSpec):
      try:
        plan = judge.preset_plan(plan, limit)
      except cost.UnreachableBudget as error:
        results.append(evaluator.Result(name, limit, None, reason=str(error)))
        continue
    # The report shows pictures under the plans that were found.
    shown = None
    if name == evaluator.SEARCHED and judge.questions.drawn:
      shown = folder / "examples" / f"{limit:g}.npz"
    result = book.find(name, limit, plan)
    if result is None or not (shown is None or _is_sound(shown)):
      answers, known = judge.predict(plan), result
      result = known or judge.judge(name, limit, plan, answers)
      if shown is not None:
        shown.parent.mkdir(exist_ok=True)
        examples.save(shown, examples.collect(judge.questions, answers, plan))
      if known is None:
        book.add(result)
    results.append(result)
  return results


def _is_sound(path):
  """Whether examples can be read; those that are damaged are made again."""
  try:
    return path.exists() and bool(examples.load(path))
  except ValueError as error:
    print(f"warning: {error}; it is made again", flush=True)
    return False


def write(folder, results, judge, fingerprint, extra, data):
  """Writes table.txt and results.json of a run; returns the table.

  Args:
    folder: directory of the run.
    results: of `compare`.
    judge: the evaluator that they come from.
    fingerprint: of the model's weights.
    extra: facts of this task beside those of every comparison.
    data: what the questions depend on.
  """
  run = workdir.read(folder)
  facts = {
    **extra,
    "config": run["config"],
    "versions": run["versions"],
    "weights": fingerprint,
    **data,
    "questions": len(judge.questions),
    "drawn": judge.questions.drawn,
  }
  text = report.table(results)
  files.write_text(folder / "table.txt", text + "\n")
  report.write_json(folder / "results.json", results, facts)
  return text


def open_ledger(folder, fingerprint, data, chosen):
  """The evaluations of a run; presets are no circumstance of any one plan.

  Args:
    folder: directory of the run.
    fingerprint: of the model's weights.
    data: what the questions depend on.
    chosen: `shared_settings.EvaluationSettings`.
  """
  circumstances = {
    "version": eos_jax.__version__,
    "weights": fingerprint,
    **data,
    **dataclasses.asdict(dataclasses.replace(chosen, presets=())),
  }
  return ledger.Ledger(folder / "evaluation.jsonl", circumstances)
