"""A published model and the user's instructions, as the case of a search."""

from collections.abc import Callable
import dataclasses
import functools
import hashlib
import json
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import tqdm

from eos_jax import models
from eos_jax.data import (
  instruction_batches,
  instruction_rows,
  instructions,
  processors,
  rooms,
)
from eos_jax.evaluation import evaluator
from eos_jax.models import families, loading
from eos_jax.tasks import cases, common
from eos_jax.training import (
  converted,
  fits,
  partition,
  search_settings,
  settings,
)


@dataclasses.dataclass(frozen=True)
class _Source:
  """A model's folder, before its weights are read.

  Attributes:
    description: what its config says.
    dtype: that its parameters will have.
    host: bytes of the host that reading takes beside them.
    load: reads the weights, given shardings.
  """

  description: families.Description
  dtype: Any
  host: int
  load: Callable[[Callable[[Any], Any]], Any]


@dataclasses.dataclass(frozen=True)
class _Opened:
  """Everything that can be known before weights are read."""

  source: _Source
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
  return _open(job).cfg


def faults(job: search_settings.PublishedSearchJob) -> list[str]:
  """What is wrong with the batch sizes."""
  sizes = {
    "batch": job.batch,
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
  need = fits.measure(
    found.source.description,
    found.source.dtype,
    mesh,
    besides={"a batch": batch_bytes // ways},
    host=found.source.host,
  )
  room = fits.room()
  print(fits.report(need, room), flush=True)
  fits.check(need, room)
  place = functools.partial(partition.param_shardings, mesh)
  params = found.source.load(place)
  sums = json.dumps(converted.sums(params), sort_keys=True)
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
  return cases.Case(
    cfg=found.cfg,
    params=params,
    fingerprint=hashlib.sha256(sums.encode()).hexdigest(),
    mesh=mesh,
    iterator=instruction_batches.batches(
      searched, rows, beside=beside, batch=job.batch, seed=job.seed
    ),
    checks=instruction_batches.chosen(
      parts["validation"], rows, count=job.check_questions, seed=job.seed
    ),
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
    place=lambda tree: jax.device_put(tree, place(tree)),
    facts={"instructions": _data_facts(job.data)},
    evaluated=False,
  )


def _data_facts(data):
  """What the questions depend on, wherever the files lie."""
  facts = dataclasses.asdict(data)
  del facts["images"]
  with open(facts.pop("path"), "rb") as file:
    return facts | {"sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def _data_line(job, data):
  counts = ", ".join(
    f"{len(items):,} for {name}" for name, items in data.parts.items()
  )
  without = ""
  if data.without_picture:
    without = f"; {data.without_picture:,} without a picture are left out"
  return f"data: instructions in {job.data.path}, {counts}{without}"


@functools.lru_cache(maxsize=1)  # checked once, then run
def _open(job):
  """All that a job names but the weights; every fault is listed."""
  found: list[str] = []

  def attempt(field, make):
    try:
      return make()
    except ValueError as error:
      found.append(f"config.{field}: {error}")
      return None

  mesh = attempt("mesh", lambda: partition.make_mesh(job.mesh or None))
  source = attempt("model.path", lambda: _source(job))
  processor = attempt("model.path", lambda: processors.load(job.model.path))
  data = attempt("data.path", lambda: _instructions(job.data))
  if found:
    raise settings.ConfigError(found)
  shapes = loading.shapes(source.description.cfg)
  attempt("mesh", lambda: partition.param_shardings(mesh, shapes))
  cfg = attempt("data", lambda: _with_room(source.description, job.data))
  rows = example = None
  if cfg is not None:
    rows = attempt("model.path", lambda: _rows(processor, cfg, job.data))
  if rows is not None:
    first = next(iter(data.parts.values()))[0]
    example = attempt("data.path", lambda: rows.row(first))
  if found:
    raise settings.ConfigError(found)
  row_bytes = sum(leaf.nbytes for leaf in jax.tree.leaves(example))
  return _Opened(source, cfg, mesh, data, rows, row_bytes)


def _source(job):
  """A folder in Hugging Face's layout, or one that was converted from it."""
  folder, dtype = pathlib.Path(job.model.path), job.model.dtype
  if converted.finished(folder):
    description, mark = converted.check(folder)
    if dtype not in ("", mark["dtype"]):
      raise ValueError(
        f"{folder} was converted to {mark['dtype']}, and dtype is {dtype!r};"
        " use config.model.dtype='', or convert it again"
      )
    load = lambda place: converted.restore(folder, shardings=place)[1]
    return _Source(description, jnp.dtype(mark["dtype"]), 0, load)
  contents = loading.inspect(folder)
  dtype = jnp.dtype(dtype or loading.stored_dtype(contents.description))

  def load(place):
    with tqdm.tqdm(
      desc="reading", unit="B", unit_scale=True, dynamic_ncols=True
    ) as bar:
      watch = functools.partial(common.advance, bar)
      return loading.load(folder, dtype=dtype, shardings=place, watch=watch)[1]

  passing = loading.passing(contents, dtype)
  return _Source(contents.description, dtype, passing, load)


def _instructions(data):
  path = pathlib.Path(data.path)
  return instructions.load(path, data.images or path.parent, data.shares)


def _with_room(description, data):
  """The model with the room that the data are given."""
  cfg, family = description.cfg, description.family
  tiled, any_size = cfg.tiles is not None, cfg.vision.rotary
  for name, wanted in (("tiles", tiled), ("size", any_size)):
    value = getattr(data, name)
    if bool(value) != wanted:
      what = "rows and columns of tiles" if name == "tiles" else "pixels"
      raise ValueError(
        f"{name} is {value}, and models of the family {family}"
        f" {'need it: give ' + what if wanted else 'have none: use ()'}"
      )
  if tiled:
    cfg = dataclasses.replace(cfg, tiles=tuple(data.tiles))
  if any_size:
    vision = dataclasses.replace(cfg.vision, image_size=tuple(data.size))
    cfg = dataclasses.replace(cfg, vision=vision)
  return cfg


def _rows(processor, cfg, data):
  room = rooms.Room(data.pictures, cfg.tokens, cfg.vision.size, cfg.tiles)
  return instruction_rows.Rows(processor, cfg.prefix, room, data.text_length)
