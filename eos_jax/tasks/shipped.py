"""The shipped model and its data, as the case of a search."""

import functools

from eos_jax import models, processes
from eos_jax.data import loader
from eos_jax.models import loading
from eos_jax.tasks import cases, common, messages
from eos_jax.training import partition, search_settings


def config(job: search_settings.SearchJob) -> models.VLMConfig:
  """The shape of the model; no job changes it."""
  del job
  return common.model()[1]


def faults(job: search_settings.SearchJob) -> list[str]:
  """What is wrong with the data that a job names, and with the batch sizes."""
  try:
    mesh = partition.make_mesh(job.mesh)
    partition.param_shardings(mesh, loading.shapes(config(job)))
  except ValueError as error:
    return [f"config.mesh: {error}"]
  found = common.batch_faults(mesh, job.batch_sizes)
  if job.trains_model:
    found += common.split_faults(job.data, "train", f"mode={job.mode!r}")
  return found + common.shipped_data_faults(
    job.data,
    {
      "check_questions": (job.check_questions, "validation"),
      "evaluation.questions": (job.evaluation.questions, "test"),
    },
    job.weights,
  )


def check_weights(job: search_settings.SearchJob) -> None:
  """Refuses weights that cannot be read, or are of another model."""
  common.read_weights(config(job), job.weights_path)


def opened(job: search_settings.SearchJob) -> cases.Case:
  """Reads weights and data."""
  words, cfg = common.model()
  params = common.read_weights(cfg, job.weights_path)
  validation = common.open_sources("validation", job.data)
  sources, beside = validation, None
  if job.trains_model:
    sources = common.open_sources("train", job.data)
  if job.mode == "bilevel":  # the policy learns on other questions
    sources, beside = validation, sources
  iterator = loader.question_batches(
    sources,
    words,
    beside=beside,
    seed=job.seed,
    weights=job.weights,
    **processes.share(job.batch),
  )
  checks = loader.evaluation_set(
    validation, words, count=job.check_questions, seed=job.seed
  )
  height, width = cfg.vision.size
  mesh = partition.make_mesh(job.mesh)
  return cases.Case(
    cfg=cfg,
    params=params,
    fingerprint=models.weights.fingerprint(params),
    mesh=mesh,
    iterator=iterator,
    checks=checks,
    pictures=1,
    batch_bytes=job.batch * 3 * height * width,
    data=messages.data_line([*sources, *(beside or ())]),
    judge=functools.partial(
      common.make_evaluator,
      cfg,
      params,
      words,
      job.data,
      job.evaluation,
      mesh=mesh,
    ),
    place=functools.partial(common.placed, mesh=mesh),
    facts=common.data_facts(job.data),
    searched_on=common.data_facts(job.data),
    evaluated=True,
  )
