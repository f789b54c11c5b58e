"""Training of projector and decoder under a fixed plan."""

from collections.abc import Callable, Mapping
import pathlib
from typing import Any

import jax
import numpy as np
import optax

from eos_jax import models, ops, search
from eos_jax.models import fits, partition
from eos_jax.training import loop, losses, record, speed, trained
from eos_jax.training import settings as settings_lib


def make_optimizer(
  job: Any,
) -> optax.GradientTransformation:
  """AdamW with warm-up and cosine decay, gradients clipped."""
  rate = optax.warmup_cosine_decay_schedule(
    0.0, job.learning_rate, job.warmup, job.steps, 0.1 * job.learning_rate
  )
  return optax.chain(
    optax.clip_by_global_norm(1.0),
    optax.adamw(rate, b2=0.98, weight_decay=job.weight_decay),
  )


def make_step(
  cfg: models.VLMConfig, plan: ops.ReductionPlan | None, job: Any
) -> Callable[..., tuple[Any, dict[str, Any]]]:
  """`step(state, batch, params) -> state, metrics`, tokens dropped.

  The state has "params" (projector and decoder, in float32) and "opt". `params`
  gives the vision encoder, which stays as it is, and the dtypes that the model
  computes in.
  """
  transform = make_optimizer(job)

  def step(state, batch, params):
    def loss_fn(moved, batch, key):
      del key  # nothing is drawn
      loss, aux = losses.task_loss(
        cfg,
        trained.merged(params, moved),
        batch,
        plan,
        remat=job.remat,
      )
      return loss, {"loss": loss, "exact": aux["exact"].mean()}

    gradient = search.mean_grad(loss_fn, job.micro_batch)
    grads, values = gradient(state["params"], batch, jax.random.key(0))
    updates, opt = transform.update(grads, state["opt"], state["params"])
    after = {"params": optax.apply_updates(state["params"], updates)}
    values |= {"gradient_norm": optax.tree.norm(grads)}
    return after | {"opt": opt}, values

  return step


def first_state(params: Any, job: Any) -> Any:
  """Returns the state before the first step, not placed on devices."""
  moved = trained.copies(params)
  return {"params": moved, "opt": make_optimizer(job).init(moved)}


def shardings(mesh: jax.sharding.Mesh, state: Any, job: Any) -> Any:
  """Returns where a state lies: moments like the parameters they belong to."""
  cuts = partition.param_shardings(mesh, state["params"])
  return {
    "params": cuts,
    "opt": optax.tree.map_params(
      make_optimizer(job),
      lambda _, cut: cut,
      state["opt"],
      cuts,
      transform_non_params=lambda _: partition.replicated(mesh),
    ),
  }


def memory(files: models.ModelFiles, mesh: jax.sharding.Mesh) -> dict[str, int]:
  """Returns the bytes on each device in addition to the model's parameters."""
  moved = trained.parts(files.shapes)
  held = fits.held_bytes(moved, partition.param_shardings(mesh, moved))
  whole = held * 4 // files.dtype.itemsize  # in float32
  return {"trained copy, gradients and moments": 4 * whole}


def run(
  model: models.Model,
  plan: ops.ReductionPlan,
  job: Any,
  iterator: Any,
  checks: Any,
  workdir: pathlib.Path,
  work: speed.Work,
  *,
  searched_on: Mapping[str, Any],
) -> Any:
  """Trains or resumes; returns the whole model's parameters, last or best.

  Args:
    model: at the start.
    plan: acts in every forward pass.
    job: the settings, `finetune_settings.FinetuneJob`.
    iterator: batches of questions.
    checks: fixed validation questions.
    workdir: gets checkpoints and metrics.
    work: of a step.
    searched_on: what the questions depend on; a checkpoint of others is
      refused.
  """
  mesh, params = model.mesh, model.params
  everywhere, cut = partition.replicated(mesh), partition.batch_sharding(mesh)
  state = first_state(params, job)
  placed = shardings(mesh, state, job)
  state = jax.tree.map(jax.device_put, state, placed)
  compiled = loop.compile_step(
    make_step(model.cfg, plan, job),
    placed,
    cut,
    everywhere,
    constants=(partition.param_shardings(mesh, params),),
  )
  merged = lambda state: trained.merged(params, state["params"])
  checker = _checker(model.cfg, plan, checks, job.check_batch, cut)
  facts = {
    "weights": model.fingerprint,
    "plan": plan.digest,
    "data": dict(searched_on),
    "settings": settings_lib.binding(job),
  }
  with record.Record(
    workdir, facts, keep=job.checkpoints_to_keep, best=job.best
  ) as book:
    state, iterator, start = book.resume(state, iterator, job.steps)
    checked: dict[int, float] = {}

    def check(done, state):
      checked[done] = checker(merged(state))
      book.writer.write(done, {"check/hard": checked[done]})

    def save(done, state):
      book.save(done, state, checked.get(done))

    state = loop.run(
      lambda _, state, batch: compiled(
        state, jax.device_put(batch, cut), params
      ),
      state,
      iterator,
      start=start,
      stop=job.steps,
      label="finetune",
      meter=speed.Meter(work, workdir, book.writer, trace=job.trace_steps),
      log=book.log,
      log_every=job.log_every,
      save=save,
      save_every=job.save_every,
      check=check,
      check_every=job.check_every,
      setting=f"config.learning_rate={job.learning_rate:g}",
    )
    if job.best:
      state, step = book.best(state)
      print(f"the best of the checks was after step {step}", flush=True)
  return merged(state)


def _checker(cfg, plan, questions, batch, cut):
  """Accuracy of parameters under a plan on fixed questions."""

  @jax.jit
  def exact(params, batch):
    return losses.task_loss(cfg, params, batch, plan)[1]["exact"]

  def check(params):
    right, total = 0.0, 0
    for host in questions.batches(batch):
      valid = host.pop("valid")
      del host["index"]
      found = np.asarray(exact(params, jax.device_put(host, cut)))
      right, total = right + found[valid].sum(), total + valid.sum()
    return float(right / total)

  return check
