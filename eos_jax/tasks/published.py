"""A published model and the user's instructions, as the case of a search."""

import dataclasses
import functools
import hashlib
import pathlib

import jax

from eos_jax import files, models, processes
from eos_jax.data import (
  fingerprints,
  instruction_batches,
  instruction_rows,
  instructions,
  processors,
)
from eos_jax.evaluation import evaluator
from eos_jax.models import loading
from eos_jax.tasks import cases, common, published_model
from eos_jax.training import partition, search_settings


@dataclasses.dataclass(frozen=True)
class _Opened:
  """Everything that can be known before weights are read."""

  source: published_model.Source
  cfg: models.VLMConfig
  mesh: jax.sharding.Mesh
  data: instructions.Instructions
  rows: instruction_rows.Rows
  row_bytes: int


def config(job: search_settings.PublishedSearchJob) -> models.VLMConfig:
  """The shape of the model, with the room for pictures that the job wants.

  Raises:
    settings.ConfigError: model, data and job do not fit one another.
  """
  _open.cache_clear()  # files may have changed since
  return _open(job).cfg


def faults(job: search_settings.PublishedSearchJob) -> list[str]:
  """What is wrong with the batch sizes."""
  sizes = {
    "batch": job.batch,
    "micro_batch": job.micro_batch,
    "check_batch": job.check_batch,
    "evaluation.batch": job.evaluation.batch,
  }
  return common.batch_faults(_open(job).mesh, sizes)


def check_weights(job: search_settings.PublishedSearchJob) -> None:
  """Nothing: `config` has compared all names and shapes with the model."""
  del job


def opened(job: search_settings.PublishedSearchJob) -> cases.Case:
  """Says what the model takes, refuses what does not fit, and reads it all.

  Raises:
    fits.TooLarge: there is no room for the model.
  """
  found = _open(job)
  mesh, rows = found.mesh, found.rows
  ways = mesh.shape["data"] * mesh.shape["fsdp"]
  batch_bytes = found.row_bytes * job.batch
  besides = {"a batch": batch_bytes // ways}
  params, fingerprint = published_model.load(found.source, mesh, besides)
  parts = found.data.parts
  searched, beside = parts["validation"], None
  if job.mode == "joint":
    searched = parts["train"]
  if job.mode == "bilevel":
    beside = parts["train"]
  tests = instruction_batches.chosen(
    parts["test"],
    rows,
    count=job.evaluation.questions or None,
    seed=job.evaluation.seed,
  )
  checks = instruction_batches.chosen(
    parts["validation"], rows, count=job.check_questions, seed=job.seed
  )
  known = _data_facts(job.data, found)
  return cases.Case(
    cfg=found.cfg,
    params=params,
    fingerprint=fingerprint,
    mesh=mesh,
    iterator=instruction_batches.batches(
      searched,
      rows,
      beside=beside,
      seed=job.seed,
      **processes.share(job.batch),
    ),
    checks=checks,
    pictures=rows.room.pictures,
    batch_bytes=batch_bytes,
    data=_data_line(job, found.data),
    judge=lambda: evaluator.Evaluator(
      found.cfg,
      params,
      tests,
      batch=job.evaluation.batch,
      seed=job.evaluation.seed,
      steps=job.data.answer_length,
      placement=partition.batch_sharding(mesh),
    ),
    place=lambda tree: processes.place(
      tree, partition.param_shardings(mesh, tree)
    ),
    facts={"instructions": {**known, "tests": _digest(tests)}},
    searched_on={
      **known,
      "checks": _digest(checks),
      "images": fingerprints.sizes([*searched, *(beside or ())]),
    },
    evaluated=False,
  )


def _data_facts(data, found):
  """What answers depend on but questions, wherever the files lie."""
  facts = dataclasses.asdict(data)
  del facts["images"]
  with open(facts.pop("path"), "rb") as file:
    digest = hashlib.file_digest(file, "sha256").hexdigest()
  return facts | {
    "sha256": digest,
    "model": files.digest(dataclasses.asdict(found.cfg)),
    "inputs": files.digest(fingerprints.inputs(found.rows)),
  }


def _digest(asked):
  """What is asked, shown and expected in a fixed set of questions."""
  return files.digest(fingerprints.instruction_questions(asked.items))


def _data_line(job, data):
  counts = ", ".join(
    f"{len(items):,} for {name}" for name, items in data.parts.items()
  )
  without = ""
  if data.without_picture:
    without = f"; {data.without_picture:,} without a picture are left out"
  if data.faults:
    without += f"; {len(data.faults):,} cannot be used and are set apart"
  return f"data: instructions in {job.data.path}, {counts}{without}"


@functools.lru_cache(maxsize=1)  # checked once, then run
def _open(job):
  """All that a job names but the weights; every fault is listed."""
  attempt = common.Attempts()
  source = attempt("model.path", lambda: published_model.source(job.model))
  shapes = source and loading.shapes(source.description.cfg)
  mesh = attempt("mesh", lambda: partition.make_mesh(job.mesh, shapes))
  processor = attempt("model.path", lambda: processors.load(job.model.path))
  data = attempt("data.path", lambda: _instructions(job.data))
  attempt.check()
  attempt("mesh", lambda: partition.param_shardings(mesh, shapes))
  cfg = attempt(
    "data",
    lambda: published_model.with_room(source.description, job.data, processor),
  )
  rows = example = None
  if cfg is not None:
    rows = attempt(
      "model.path", lambda: published_model.rows(processor, cfg, job.data)
    )
  if rows is not None:
    first = next(iter(data.parts.values()))[0]
    example = attempt("data.path", lambda: rows.row(first))
  attempt.check()
  row_bytes = sum(leaf.nbytes for leaf in jax.tree.leaves(example))
  return _Opened(source, cfg, mesh, data, rows, row_bytes)


def _instructions(data):
  path = pathlib.Path(data.path)
  return instructions.load(
    path, data.images or path.parent, data.shares, apart=data.apart
  )
