"""The programs of a model, from shapes alone, for chips that are not here."""

from collections.abc import Callable, Mapping
import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp

from eos_jax import models, ops
from eos_jax.compilation import ahead
from eos_jax.evaluation import evaluator
from eos_jax.models import fits, partition
from eos_jax.tasks import common, opening
from eos_jax.training import (
  compile_settings,
  finetune,
  finetune_settings,
  limits,
  losses,
)
from eos_jax.training import search as search_lib


@dataclasses.dataclass(frozen=True)
class Subject:
  """What is compiled.

  Attributes:
    job: the settings, with what follows from the model filled in.
    files: the model, of which no weights are read.
  """

  job: compile_settings.CompileJob
  files: models.ModelFiles

  @property
  def cfg(self) -> models.VLMConfig:
    """Shape of the model, with the static shape of images."""
    return self.files.cfg


def subject(job: compile_settings.CompileJob) -> Subject:
  """Opens the model that a job names.

  Raises:
    settings.ConfigError: it is not known, or needs another static shape.
  """
  attempt = opening.Attempts()

  def make():
    tiny = job.model == models.TINY
    files = models.open_files(
      job.model,
      dtype="" if tiny else job.dtype or "bfloat16",
      random_weights=True,
    )
    return files.with_shape(**job.image_shape)

  files = attempt("model", make)
  attempt.check()
  search = job.search.for_model(files.cfg)
  return Subject(dataclasses.replace(job, search=search), files)


def batch(found: Subject) -> dict[str, Any]:
  """Returns the shapes of a batch."""
  return models.inputs.batch_shapes(
    found.cfg,
    found.job.search.batch,
    max_images=found.files.max_images,
    text_length=found.job.text_length,
    raw=found.files.family == models.TINY,
  )


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
  shapes = found.files.shapes
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
  chosen, cfg = found.job.search, found.cfg
  space = search_lib.make_space(cfg, chosen)
  shape = evaluator.model_shape(cfg)
  measures = limits.measures(shape, space, chosen.limits, len(cfg.prefix))
  problem = search_lib.Problem(cfg, params, space, chosen, measures)
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
  return common.preset_plan(found.cfg, chosen.start, max(chosen.budgets))


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
        remat=_remat(found),
      )[0]

    return jax.value_and_grad(loss)(seen.visual)

  return make(gradients, (params, given))


def _finetune(found, make, params, given, mesh):
  """A step of fine-tuning the unreduced model, as the task runs it."""
  job = finetune_settings.FinetuneJob(
    plan="none", micro_batch=found.job.search.micro_batch, remat=_remat(found)
  )
  state = jax.eval_shape(
    functools.partial(finetune.first_state, job=job), params
  )
  cuts = finetune.shardings(mesh, state, job)
  state = ahead.abstract(state, cuts)
  step = finetune.make_step(found.cfg, None, job)
  out = (cuts, partition.replicated(mesh))
  return make(step, (state, given, params), donate=(0,), out=out)


def _remat(found):
  return found.job.search.remat


_MAKERS: Mapping[str, Callable[..., ahead.Program]] = {
  "search": _search,
  "evaluate": _evaluate,
  "dense": _dense,
  "finetune": _finetune,
}
