"""The programs of a model, from shapes alone, for chips that are not here."""

from collections.abc import Callable, Mapping
import dataclasses
import functools
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import optax

from eos_jax import models, ops
from eos_jax.evaluation import evaluator
from eos_jax.models import families, loading
from eos_jax.tasks import published_model, subjects
from eos_jax.training import (
  ahead,
  compile_settings,
  fits,
  losses,
  partition,
  settings,
)
from eos_jax.training import search as search_lib

_OPTIMIZER = optax.adamw(1e-5)


@dataclasses.dataclass(frozen=True)
class Subject:
  """What is compiled.

  Attributes:
    job: the settings.
    cfg: shape of the model, with the room for pictures that the job wants.
    published: whether pictures come normalised, with their places in the text.
  """

  job: compile_settings.CompileJob
  cfg: models.VLMConfig
  published: bool


def subject(job: compile_settings.CompileJob) -> Subject:
  """The model that a job names.

  Raises:
    settings.ConfigError: it is not known, or needs another room.
  """
  if job.model in ("tiny", "llava_1_5_7b"):
    cfg = subjects.config(job.model)
    return Subject(job, cfg, published=job.model != "tiny")
  try:
    description = families.read(pathlib.Path(job.model))
    cfg = published_model.with_room(description, job)
  except ValueError as error:
    raise settings.ConfigError([f"config.model: {error}"]) from error
  return Subject(job, cfg, published=True)


def batch(found: Subject) -> dict[str, Any]:
  """Shapes of a batch; see `models.inputs`."""
  job, cfg = found.job, found.cfg
  rows, text = job.search.batch, job.text_length
  shape = jax.ShapeDtypeStruct
  words = {
    "tokens": shape((rows, text), jnp.int32),
    "mask": shape((rows, text), jnp.bool_),
    "prompt_length": shape((rows,), jnp.int32),
    "loss_mask": shape((rows, text), jnp.bool_),
  }
  size = cfg.vision.size
  if not found.published:
    return words | {"image": shape((rows, *size, 3), jnp.uint8)}
  many = (rows, job.pictures)
  words["slots"] = shape(many, jnp.int32)
  if cfg.tiles is None:
    return words | {
      "image": shape((*many, *size, 3), jnp.float32),
      "present": shape((*many, cfg.tokens), jnp.bool_),
    }
  each = (*many, cfg.tokens)
  return words | {
    "image": shape((*many, cfg.crops, *size, 3), jnp.float32),
    "layout": {
      "index": shape((*each, 4), jnp.int32),
      "weight": shape((*each, 4), jnp.float32),
      "newline": shape(each, jnp.bool_),
      "valid": shape(each, jnp.bool_),
    },
  }


def compile_for(found: Subject, name: str, where: ahead.Chips) -> ahead.Program:
  """Compiles a program of `compile_settings.PROGRAMS`.

  Args:
    found: what is compiled.
    name: of the program.
    where: for which chips.

  Raises:
    ValueError: mesh and batch or parameters do not fit one another.
  """
  for rows in (found.job.search.batch, found.job.search.micro_batch):
    partition.check_batch(where.mesh, rows)
  shapes = jax.tree.map(
    lambda leaf: jax.ShapeDtypeStruct(leaf.shape, jnp.dtype(found.job.dtype)),
    loading.shapes(found.cfg),
  )
  cuts = partition.param_shardings(where.mesh, shapes)
  params = ahead.abstract(shapes, cuts)
  whole = partition.batch_sharding(where.mesh)
  given = batch(found)
  given = ahead.abstract(given, jax.tree.map(lambda _: whole, given))
  make = functools.partial(
    ahead.compiled,
    name,
    where=where,
    parameter_bytes=fits.held_bytes(shapes, cuts),
    # Half the rate of bfloat16 is not printed for all chips.
    dtype="bfloat16",
  )
  return _MAKERS[name](found, make, params, given, where.mesh)


def _everywhere(mesh, tree):
  rep = partition.replicated(mesh)
  return ahead.abstract(tree, jax.tree.map(lambda _: rep, tree))


def _search(found, make, params, given, mesh):
  chosen = found.job.search
  problem = search_lib.Problem(
    found.cfg, params, search_lib.make_space(found.cfg, chosen), chosen
  )
  sites = len(problem.space.sites)
  number = jax.ShapeDtypeStruct((), jnp.float32)
  state, key, number, keep = _everywhere(
    mesh,
    (
      search_lib.first_state(problem),
      jax.eval_shape(lambda: jax.random.key(0)),
      number,
      jax.ShapeDtypeStruct((sites,), jnp.float32),
    ),
  )
  args = (state, given, params, key, number, number, number, keep)
  step = search_lib.make_step(problem)
  return make(step, args, donate=(0,), out=partition.replicated(mesh))


def _evaluate(found, make, params, given, mesh):
  del mesh
  plan = start_plan(found)

  def answer(params, given):
    seen = models.inputs.see(found.cfg, params, given, plan)
    return models.answer(
      found.cfg,
      params,
      seen,
      models.inputs.prompt(given),
      plan,
      steps=found.job.answer_length,
      stop=(2,),
    ).ids

  loops = found.job.answer_length - 1
  return make(answer, (params, given), loops=loops)


def start_plan(found: Subject) -> ops.ReductionPlan:
  """The operator that the search starts from, at its largest budget."""
  chosen = found.job.search
  return evaluator.preset_plan(
    found.cfg, ops.PRESETS[chosen.start], max(chosen.budgets)
  )


def _dense(found, make, params, given, mesh):
  """What the search would do without operators: gradients by the pictures."""
  del mesh

  def gradients(params, given):
    seen = models.inputs.see(found.cfg, params, given)

    def loss(visual):
      return losses.task_loss(
        found.cfg,
        params,
        given,
        None,
        seen=dataclasses.replace(seen, visual=visual),
        remat=found.job.search.remat,
      )[0]

    return jax.value_and_grad(loss)(seen.visual)

  return make(gradients, (params, given))


def _finetune(found, make, params, given, mesh):
  """All parameters move, with Adam's two moments of each."""
  state = jax.eval_shape(_OPTIMIZER.init, params)
  cuts = optax.tree.map_params(
    _OPTIMIZER,
    lambda _, leaf: leaf.sharding,
    state,
    params,
    transform_non_params=lambda _: partition.replicated(mesh),
  )
  state = ahead.abstract(state, cuts)

  def step(params, state, given):
    loss, grads = jax.value_and_grad(
      lambda params: losses.task_loss(
        found.cfg, params, given, None, remat=found.job.search.remat
      )[0]
    )(params)
    updates, state = _OPTIMIZER.update(grads, state, params)
    return optax.apply_updates(params, updates), state, loss

  shardings = jax.tree.map(lambda leaf: leaf.sharding, (params, state))
  out = (*shardings, partition.replicated(mesh))
  return make(step, (params, state, given), donate=(0, 1), out=out)


_MAKERS: Mapping[str, Callable[..., ahead.Program]] = {
  "search": _search,
  "evaluate": _evaluate,
  "dense": _dense,
  "finetune": _finetune,
}
