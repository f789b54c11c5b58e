"""What a run says at its beginning and at its end."""

import jax

from eos_jax import models
from eos_jax.search import init_policy


def kept(plan):
  """What a plan keeps at each site, in words."""
  return ", ".join(f"{s.keep} from {s.site} on" for s in plan.sites) or "all"


def describe_search(problem, found, parts, checks):
  """What a search is about to do, for its first lines."""
  cfg, job, space = problem.cfg, problem.settings, problem.space
  numbers = sum(leaf.size for leaf in jax.tree.leaves(init_policy(space)))
  numbers *= max(job.knots, 1)
  state = "projector, decoder trained too" if job.trains_model else "frozen"
  return "\n".join(
    [
      f"search: {cfg.tokens} visual tokens, {cfg.decoder.layers} decoder layers"
      f" ({state}); policy of {numbers} numbers at {', '.join(space.sites)}",
      f"{found.questions.summary(parts)}; {len(checks)} questions for the"
      " checks",
      f"budgets: {', '.join(f'{b:g}' for b in job.budgets)} visual tokens"
      f" (layer average), {_steps(job)}, from {job.start!r}",
    ]
  )


def _steps(job):
  """How long a search is, in words."""
  if job.knots:
    return (
      f"one policy with {job.knots} knots for all, {job.steps} steps of"
      f" {job.batch} questions"
    )
  calibrated = ""
  if job.calibration_steps:
    calibrated = f" and {job.calibration_steps} of calibration"
  return f"{job.steps} steps of {job.batch} questions each{calibrated}"


def cost_lines(facts, course):
  """What a search and its evaluation took."""
  whole, seconds = facts["cost"], facts["seconds"]
  lines = (
    f"Cost of the search: {whole['steps']} steps, {whole['examples']:,}"
    f" questions, {whole['flops'] / 1e12:.1f} TFLOPs by the cost model"
  )
  if course.steps:
    lines += (
      f"; this process took {course.steps} of the steps in"
      f" {course.seconds:.0f} s, checks included, and compiled"
      f" {course.compilations} program(s) for them"
    )
  lines += (
    f". Data and search {seconds['data and search']:.0f} s, evaluation"
    f" {seconds['evaluation']:.0f} s."
  )
  return f"{lines} {course.speed.in_words()}" if course.speed else lines


def where_to_look(found, folder, job):
  """The files of a finished search.

  Args:
    found: the plans.
    folder: of the run.
    job: the settings.
  """
  last = min(found, key=lambda item: item.limit)
  model = last.weights or job.model
  again = f" --config.model={model}" if model != models.TINY else ""
  if job.data.path:
    again += f" --config.data.path={job.data.path}"
  return "\n".join(
    [
      f"Look at {folder}/",
      "  report.html              start here",
      "  plans/                   the plans, a JSON file each",
      *["  weights/                 the model as trained with each"]
      * job.trains_model,
      "  table.txt, results.json  all numbers",
      "  metrics.jsonl            the course of the search; also tensorboard/",
      "  speed.jsonl              how fast its steps were",
      "To judge a plan on the whole test split:",
      f"  python -m eos_jax.main --config=configs/evaluate.py{again}"
      f" --config.plans=\"('{folder}/plans/{last.limit:g}.json',)\"",
    ]
  )
