"""The main job: searches plans and compares them with presets."""

import dataclasses
import pathlib
import time

import jax

from eos_jax import cost, files, processes
from eos_jax.data import question_sets
from eos_jax.evaluation import evaluator
from eos_jax.evaluation import results as results_lib
from eos_jax.ops import plan as plan_lib
from eos_jax.search import check_reachable
from eos_jax.tasks import common, messages, opening, results
from eos_jax.training import (
  limits,
  search,
  search_loop,
  search_settings,
  settings,
  speed,
)


def _make_problem(found, params, job):
  """The search problem of a job.

  Raises:
    settings.ConfigError: what does not fit this model or these devices.
  """
  cfg = found.cfg
  streams = {"train": f"mode={job.mode!r}"} if job.trains_model else {}
  faults = opening.question_faults(
    found,
    batches=job.batch_sizes,
    asked={
      "check_questions": (job.check_questions, "validation"),
      "evaluation.questions": (job.evaluation.questions, "test"),
    },
    streams=streams,
  )
  faults += [
    f"config.sites has {site!r}; {settings.nearest(site, cfg.sites)}"
    for site in job.sites
    if site not in cfg.sites
  ]
  space, measures = None, {}
  try:
    space = None if faults else search.make_space(cfg, job)
  except ValueError as error:
    faults.append(f"config: {error}")
  for site in space.sites if space else ():
    if fault := common.lacking(site, space.spec):
      faults.append(
        f"config.start: {fault}; choose another start or other sites"
      )
  if space:
    try:
      shape = evaluator.model_shape(cfg)
      measures = limits.measures(shape, space, job.limits, len(cfg.prefix))
    except settings.ConfigError as error:
      faults += [f"config.{fault}" for fault in error.faults]
      space = None
  problem = search.Problem(cfg, params, space, job, measures)
  for limit in job.budgets if space else ():
    try:
      check_reachable(space, problem.constraints(limit), measures)
    except cost.UnreachableBudget as error:
      faults.append(f"config.budgets has {limit:g}: {error}")
  if space and not faults:
    faults = _start_faults(problem)
  if faults:
    raise settings.ConfigError(faults)
  return problem


def _start_faults(problem):
  """Why the first step or the last plan cannot be made."""
  job, sites = problem.settings, len(problem.space.sites)
  if job.ranges.rho:
    high = problem.space.range_of("rho")[1]
    if sites * plan_lib.growth(high) > plan_lib.MOST_GROWTH:
      return [
        f"config.ranges.rho is {job.ranges.rho}, which at {sites} sites"
        " multiplies features by more than float32 can hold; use a lower end"
      ]
  budgets = problem.knots.budgets if problem.knots else (max(job.budgets),)
  for budget in budgets:
    wider = tuple(
      dataclasses.replace(c, limit=job.start_multiple * c.limit)
      for c in problem.constraints(budget)
    )
    try:
      check_reachable(problem.space, wider, problem.measures)
    except cost.UnreachableBudget as error:
      return [
        f"config.start_multiple is {job.start_multiple:g}, so the search would"
        f" start from lower limits than can be reached: {error}"
      ]
  return []


def check(job: search_settings.SearchJob) -> None:
  """Refuses what does not fit the model, before anything is built."""
  opening.forget()
  found = opening.opened(job)
  _make_problem(found, None, job.for_model(found.cfg))
  opening.check_rows(found, opening.fixed_sets, job)


def run(job: search_settings.SearchJob, folder: pathlib.Path) -> None:
  """Searches plans, compares them with presets, writes both.

  Args:
    job: the settings.
    folder: directory of the run.
  """
  started = time.time()
  found = opening.opened(job)
  job = job.for_model(found.cfg)
  with jax.set_mesh(found.mesh):  # for `models.target.spread`
    _run(job, folder, found, started)


def _run(job, folder, found, started):
  ways = found.mesh.shape["data"] * found.mesh.shape["fsdp"]
  batch = job.batch * found.row_bytes()
  model = found.load({"a batch": batch // ways})
  problem = _make_problem(found, model.params, job)
  checks, tests = opening.fixed_sets(found, job)
  parts = _parts(job)
  print(messages.describe_search(problem, found, parts, checks), flush=True)
  work = _work(problem, checks)
  plans, course = search_loop.run(
    problem,
    _stream(job, found, parts),
    checks,
    model,
    folder,
    work,
    searched_on=_searched_on(job, found, parts, checks),
  )
  searched = time.time()
  judge = opening.evaluator_of(found, model, tests, job.evaluation)
  known = {**found.questions.identity, "tests": tests.digest()}
  made = _compare(job, model, known, judge, plans, folder)
  facts = {
    "gaps": {f"{f.limit:g}": f.soft - f.hard for f in plans},
    "cost": _cost(problem, work),
    "seconds": {
      "data and search": round(searched - started, 1),
      "evaluation": round(time.time() - searched, 1),
    },
  }
  depends = results.depends(model.fingerprint, known, job.evaluation)
  print(results.write(folder, made, judge, depends, **facts), flush=True)
  print(
    messages.cost_lines(facts, course),
    messages.where_to_look(plans, folder, job),
    sep="\n",
    flush=True,
  )


def _parts(job):
  """The part that is searched on, and the part that the model is trained on."""
  return {
    "frozen": ("validation",),
    "joint": ("train",),
    "bilevel": ("validation", "train"),
  }[job.mode]


def _stream(job, found, parts):
  """Batches to search on, pairs of them in a bilevel search."""
  return question_sets.batches(
    *(found.questions.dataset(part, job.seed) for part in parts),
    **processes.share(job.batch),
  )


def _searched_on(job, found, parts, checks):
  """What plans depend on in addition to the weights and the settings."""
  table = job.limits.latency_table if job.limits.latency else ""
  text = pathlib.Path(table).read_text(encoding="utf-8") if table else ""
  return {
    **opening.depends(found, parts, checks),
    "latency_table": files.digest(text),
  }


def _compare(job, model, known, judge, plans, folder):
  """Results of all plans, each with the presets at its budget.

  Where the search trained the model, plans are judged with the weights that
  belong to them, and plan and weights without each other.
  """

  def judged(model, todo):
    depends = results.depends(model.fingerprint, known, job.evaluation)
    one = judge.with_params(model.params)
    return results.judged(one, todo, depends, folder)

  name = results_lib.PLAN_ALONE if job.trains_model else results_lib.SEARCHED
  todo = results.with_presets(
    [(name, item.limit, item.plan) for item in plans], job.evaluation.presets
  )
  made = judged(model, todo)
  for item in plans if job.trains_model else ():
    trained = model.files.renamed(str(item.weights)).load(model.mesh)
    todo = [
      (results_lib.SEARCHED, item.limit, item.plan),
      (results_lib.WEIGHTS_ALONE, item.limit, None),
    ]
    made += judged(trained, todo)
  return made


def _work(problem, checks):
  """What a step of a search is."""
  job, cfg = problem.settings, problem.cfg
  text, images = len(cfg.prefix) + checks.text_length, checks.rows.max_images
  shape = evaluator.model_shape(cfg)
  return speed.Work(
    tokens=_examples(job) * (text + images * cfg.tokens),
    flops=search.step_flops(problem, shape, text, pictures=images),
  )


def _examples(job):
  """Questions of a step."""
  return job.batch * (2 if job.mode == "bilevel" else 1)


def _cost(problem, work):
  """What a whole search takes, whoever runs it: steps, examples, FLOPs."""
  return {
    "steps": problem.steps,
    "examples": problem.steps * _examples(problem.settings),
    "flops": problem.steps * work.flops,
  }
