"""The main job: searches plans and compares them with hand-made operators."""

import contextlib
import pathlib
import time

from eos_jax import cost, models
from eos_jax.data import loader
from eos_jax.evaluation import evaluator
from eos_jax.evaluation import report as report_lib
from eos_jax.search import check_reachable
from eos_jax.tasks import common, comparison, messages, report
from eos_jax.training import (
  partition,
  search,
  search_loop,
  settings,
)


def _make_space(cfg, job):
  """The search space of a job.

  Raises:
    settings.ConfigError: what does not fit this model or these devices.
  """
  faults = []
  mesh = partition.make_mesh()
  for name, batch in (
    ("batch", job.batch),
    ("check_batch", job.check_batch),
    ("evaluation.batch", job.evaluation.batch),
  ):
    try:
      partition.check_batch(mesh, batch)
    except ValueError as error:
      faults.append(f"config.{name}: {error}")
  faults += [
    f"config.sites has {site!r}; {settings.nearest(site, cfg.sites)}"
    for site in job.sites
    if site not in cfg.sites
  ]
  space = None
  try:
    space = None if faults else search.make_space(cfg, job)
  except ValueError as error:
    faults.append(f"config.sites: {error}")
  for site in space.sites if space else ():
    if fault := common.lacking(site, space.spec):
      faults.append(
        f"config.start: {fault}; choose another start or other sites"
      )
  for limit in job.budgets if space else ():
    try:
      check_reachable(space, search.constraints(limit))
    except cost.UnreachableBudget as error:
      faults.append(f"config.budgets has {limit:g}: {error}")
  if faults:
    raise settings.ConfigError(faults)
  return space


def check(job: settings.SearchJob) -> None:
  """Refuses what does not fit the model, before anything is built."""
  _, cfg = common.model()
  _make_space(cfg, job)
  common.read_weights(cfg, job.weights_path)


def run(job: settings.SearchJob, folder: pathlib.Path) -> None:
  """Searches plans, compares them with hand-made operators, writes both."""
  started = time.time()
  words, cfg = common.model()
  params = common.read_weights(cfg, job.weights_path)
  fingerprint = models.weights.fingerprint(params)
  problem = search.Problem(cfg, params, _make_space(cfg, job), job)
  validation = common.open_sources("validation", job.data)
  checks = loader.evaluation_set(
    validation, words, count=job.check_questions, seed=job.seed
  )
  print(messages.describe_search(problem, validation, checks), flush=True)
  found, compilations = search_loop.run(
    problem, validation, checks, words, fingerprint, folder
  )
  searched = time.time()
  judge = common.make_evaluator(cfg, params, words, job.data, job.evaluation)
  with contextlib.closing(
    comparison.open_ledger(folder, fingerprint, job.data, job.evaluation)
  ) as book:
    plans = [(evaluator.SEARCHED, item.limit, item.plan) for item in found]
    results = comparison.compare(
      judge, plans, job.evaluation.presets, book, folder
    )
  seconds = {
    "data and search": round(searched - started, 1),
    "evaluation": round(time.time() - searched, 1),
  }
  gaps = {f"{f.limit:g}": f.soft - f.hard for f in found}
  facts = {"gaps": gaps, "seconds": seconds}
  text = comparison.write(folder, results, judge, fingerprint, facts)
  report_lib.plot(folder / "accuracy_cost.png", results)
  report.write(folder)
  print(text, flush=True)
  print(
    "",
    messages.found_lines(results, found, len(judge.questions)),
    f"This process compiled the search step {compilations} time(s); data and"
    f" search took {seconds['data and search']:.0f} s, evaluation"
    f" {seconds['evaluation']:.0f} s.",
    messages.where_to_look(found, folder),
    sep="\n",
    flush=True,
  )
