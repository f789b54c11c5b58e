"""A published model and the user's instructions, as the case of a search."""

import dataclasses
import functools
import hashlib
import pathlib

import jax

from eos_jax import files, models, processes
from eos_jax.data import faults as faults_lib
from eos_jax.data import (
  fingerprints,
  instruction_batches,
  instruction_rows,
  instructions,
  processors,
  sources,
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
  checks: instruction_batches.InstructionSet
  tests: instruction_batches.InstructionSet
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
  return common.batch_faults(_open(job).mesh, job.batch_sizes)


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
    checks=found.checks,
    pictures=rows.room.pictures,
    batch_bytes=batch_bytes,
    data=_data_line(job, found.data),
    judge=lambda: evaluator.Evaluator(
      found.cfg,
      params,
      found.tests,
      batch=job.evaluation.batch,
      seed=job.evaluation.seed,
      steps=job.data.answer_length,
      placement=partition.batch_sharding(mesh),
    ),
    place=lambda tree: processes.place(
      tree, partition.param_shardings(mesh, tree)
    ),
    facts={"instructions": {**known, "tests": _digest(found.tests)}},
    searched_on={
      **known,
      "checks": _digest(found.checks),
      "images": fingerprints.sizes([*searched, *(beside or ())]),
    },
    evaluated=False,
  )


def _data_facts(data, found):
  """What answers depend on but questions, wherever the files lie."""
  facts = dataclasses.asdict(data)
  facts["set apart"] = [str(fault) for fault in found.data.faults]
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
  rows = found = None
  if cfg is not None:
    rows = attempt(
      "model.path", lambda: published_model.rows(processor, cfg, job.data)
    )
  if rows is not None:
    found = attempt("data.path", lambda: _usable(job, data, rows))
  attempt.check()
  data, checks, tests, example = found
  row_bytes = sum(leaf.nbytes for leaf in jax.tree.leaves(example))
  return _Opened(source, cfg, mesh, data, checks, tests, rows, row_bytes)


def _usable(job, data, rows):
  """Instructions whose rows can be made, the fixed sets, and one row.

  The sets are checked before the search begins; if rows are to be set apart,
  all instructions are.

  Raises:
    sources.DataError: there are rows that cannot be made.
  """
  if job.data.apart:
    data = instruction_batches.usable(data, rows)
  checks, tests = (
    instruction_batches.chosen(data.parts[part], rows, count=count, seed=seed)
    for part, count, seed in (
      ("validation", job.check_questions, job.seed),
      ("test", job.evaluation.questions or None, job.evaluation.seed),
    )
  )
  if not job.data.apart:
    items = dict.fromkeys((*checks.items, *tests.items))
    faults = instruction_batches.unusable(tuple(items), rows.row)
    if faults:
      raise sources.DataError(faults_lib.listed(tuple(faults.values())))
  return data, checks, tests, rows.row(checks.items[0])


def _instructions(data):
  path = pathlib.Path(data.path)
  return instructions.load(
    path,
    data.images or path.parent,
    data.shares,
    apart=data.apart,
    images_anywhere=data.images_anywhere,
  )
