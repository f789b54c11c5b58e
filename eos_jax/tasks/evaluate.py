"""Judges one plan on test questions."""

import pathlib

from eos_jax import cost, models
from eos_jax.tasks import common, results
from eos_jax.training import partition, settings


def check(job: settings.EvaluateJob) -> None:
  """Refuses a plan or weights that do not fit the model."""
  _, cfg = common.model()
  common.fitting_plan(cfg, job.plan, "config.plan")
  common.read_weights(cfg, job.weights_path)
  faults = common.batch_faults(
    partition.make_mesh(), {"evaluation.batch": job.evaluation.batch}
  )
  faults += common.shipped_data_faults(
    job.data,
    {"evaluation.questions": (job.evaluation.questions, "test")},
  )
  if faults:
    raise settings.ConfigError(faults)


def run(job: settings.EvaluateJob, folder: pathlib.Path) -> None:
  """Judges one plan on test questions, and the dense model."""
  words, cfg = common.model()
  plan = common.fitting_plan(cfg, job.plan, "config.plan")
  params = common.read_weights(cfg, job.weights_path)
  fingerprint = models.weights.fingerprint(params)
  judge = common.make_evaluator(cfg, params, words, job.data, job.evaluation)
  limit = float(cost.layer_average(cost.layer_counts(plan)))
  todo = results.with_presets(
    [(plan.name, limit, plan)], job.evaluation.presets
  )
  data = common.data_facts(job.data)
  known = results.depends(fingerprint, data, job.evaluation)
  found = results.judged(judge, todo, known, folder)
  text = results.write(folder, found, judge, known)
  print(text, flush=True)
  print(
    f"\n{len(judge.questions)} test questions; +- is one standard error. Look"
    f" at {folder}/table.txt and results.json",
    flush=True,
  )
