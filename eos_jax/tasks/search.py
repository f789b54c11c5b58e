"""The main job: searches plans and compares them with hand-made operators.

For the shipped model and its data, or for a published model and instructions of
the user.
"""

import dataclasses
import pathlib
import time

import jax

from eos_jax import cost, files, models
from eos_jax.evaluation import evaluator
from eos_jax.evaluation import results as results_lib
from eos_jax.ops import plan as plan_lib
from eos_jax.search import check_reachable
from eos_jax.tasks import common, messages, published, results, shipped
from eos_jax.training import (
  limits,
  search,
  search_loop,
  search_settings,
  settings,
  speed,
)


def _about(job):
  """Where the model and the questions of a job come from."""
  if isinstance(job, search_settings.PublishedSearchJob):
    return published
  return shipped


def _make_problem(cfg, params, job):
  """The search problem of a job.

  Raises:
    settings.ConfigError: what does not fit this model or these devices.
  """
  faults = _about(job).faults(job)
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


def check(job: search_settings.SearchSettings) -> None:
  """Refuses what does not fit the model, before anything is built."""
  about = _about(job)
  _make_problem(about.config(job), None, job)
  about.check_weights(job)


def run(job: search_settings.SearchSettings, folder: pathlib.Path) -> None:
  """Searches plans, compares them with hand-made operators, writes both.

  Args:
    job: a `SearchJob` or a `PublishedSearchJob`.
    folder: directory of the run.
  """
  started = time.time()
  case = _about(job).opened(job)
  with jax.set_mesh(case.mesh):  # for `models.target.spread`
    _run(job, folder, case, started)


def _run(job, folder, case, started):
  problem = _make_problem(case.cfg, case.params, job)
  print(messages.describe_search(problem, case), flush=True)
  work = _work(problem, case)
  found, course = search_loop.run(
    problem,
    case.iterator,
    case.checks,
    case.fingerprint,
    folder,
    work,
    case.mesh,
    searched_on=_searched_on(job, case),
  )
  searched = time.time()
  judge = case.judge()
  judged = _compare(job, case, judge, found, folder)
  facts = {
    "gaps": {f"{f.limit:g}": f.soft - f.hard for f in found},
    "cost": _cost(problem, work),
    "seconds": {
      "data and search": round(searched - started, 1),
      "evaluation": round(time.time() - searched, 1),
    },
  }
  known = results.depends(case.fingerprint, case.facts, job.evaluation)
  text = results.write(folder, judged, judge, known, **facts)
  print(text, flush=True)
  print(
    messages.cost_lines(facts, course),
    messages.where_to_look(found, folder, case.evaluated),
    sep="\n",
    flush=True,
  )


def _searched_on(job, case):
  """What plans depend on beside the model's weights and the settings."""
  table = job.limits.latency_table if job.limits.latency else ""
  text = pathlib.Path(table).read_text(encoding="utf-8") if table else ""
  return {**case.searched_on, "latency_table": files.digest(text)}


def _compare(job, case, judge, found, folder):
  """Results of all plans, each beside the hand-made operators.

  Where the search trained the model, plans are judged with the weights that
  belong to them; what plan and weights are worth alone stands beside.
  """

  def known(fingerprint):
    return results.depends(fingerprint, case.facts, job.evaluation)

  name = results_lib.SEARCHED
  if job.trains_model:
    name = results_lib.PLAN_ALONE
  plans = [(name, item.limit, item.plan) for item in found]
  todo = results.with_presets(plans, job.evaluation.presets)
  judged = results.judged(judge, todo, known(case.fingerprint), folder)
  for item in found if job.trains_model else ():
    trained = judge.with_params(case.place(item.params))
    todo = [
      (results_lib.SEARCHED, item.limit, item.plan),
      (results_lib.WEIGHTS_ALONE, item.limit, None),
    ]
    fingerprint = models.weights.fingerprint(item.params)
    judged += results.judged(trained, todo, known(fingerprint), folder)
  return judged


def _work(problem, case):
  """What a step of a search is."""
  job, cfg = problem.settings, problem.cfg
  text = len(cfg.prefix) + case.checks.text_length
  shape = evaluator.model_shape(cfg)
  return speed.Work(
    tokens=_examples(job) * (text + case.pictures * cfg.tokens),
    flops=search.step_flops(problem, shape, text, pictures=case.pictures),
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
