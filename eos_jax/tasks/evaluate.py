"""Judges one plan on test questions."""

import contextlib
import pathlib

from eos_jax import cost, models, ops
from eos_jax.tasks import common, comparison
from eos_jax.training import settings


def _read_plan(cfg, path):
  """The plan in a file; refuses one that this model cannot run."""
  try:
    text = pathlib.Path(path).read_text(encoding="utf-8")
  except OSError as error:
    raise settings.ConfigError(
      [
        f"config.plan: {path} cannot be read ({error.strerror}); give the JSON"
        " file of a plan, such as runs/search/plans/16.json"
      ]
    ) from error
  try:
    plan = ops.ReductionPlan.from_json(text)
  except ValueError as error:
    raise settings.ConfigError([f"config.plan: {path}: {error}"]) from error
  faults = [
    f"config.plan: {path} is of another model: {field} is {theirs!r} there"
    f" and {ours!r} here; use a plan that was searched for {cfg.name!r}"
    for field, theirs, ours in (
      ("model", plan.model, cfg.name),
      ("tokens", plan.tokens, cfg.vision.tokens),
      ("layers", plan.layers, cfg.decoder.layers),
    )
    if theirs != ours
  ]
  faults += [
    f"config.plan: {path} has the site {site.site!r};"
    f" {settings.nearest(site.site, cfg.sites)}"
    for site in plan.sites
    if site.site not in cfg.sites
  ]
  faults += [
    f"config.plan: {path}: {fault}; use another operator or site"
    for site in plan.sites
    if (fault := common.lacking(site.site, site.spec))
  ]
  if faults:
    raise settings.ConfigError(faults)
  return plan


def check(job: settings.EvaluateJob) -> None:
  """Refuses a plan or weights that do not fit the model."""
  _, cfg = common.model()
  _read_plan(cfg, job.plan)
  common.read_weights(cfg, job.weights_path)


def run(job: settings.EvaluateJob, folder: pathlib.Path) -> None:
  """Judges one plan on test questions, beside the dense model."""
  words, cfg = common.model()
  plan = _read_plan(cfg, job.plan)
  params = common.read_weights(cfg, job.weights_path)
  fingerprint = models.weights.fingerprint(params)
  judge = common.make_evaluator(cfg, params, words, job.data, job.evaluation)
  limit = float(cost.layer_average(cost.layer_counts(plan)))
  with contextlib.closing(
    comparison.open_ledger(folder, fingerprint, job.data, job.evaluation)
  ) as book:
    results = comparison.compare(
      judge, [(plan.name, limit, plan)], job.evaluation.presets, book, folder
    )
  text = comparison.write(folder, results, judge, fingerprint, {})
  print(text, flush=True)
  print(
    f"\n{len(judge.questions)} test questions; +- is one standard error. Look"
    f" at {folder}/table.txt and results.json",
    flush=True,
  )
