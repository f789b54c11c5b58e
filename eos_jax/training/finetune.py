"""Training of projector and decoder under a fixed plan."""

from collections.abc import Callable
import pathlib
from typing import Any

import jax
import numpy as np
import optax

from eos_jax import models, ops, search
from eos_jax.training import loop, losses, partition, record, speed
from eos_jax.training import search as search_lib
from eos_jax.training import settings as settings_lib


def make_optimizer(
  job: settings_lib.FinetuneJob,
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
  cfg: models.VLMConfig, plan: ops.ReductionPlan, job: settings_lib.FinetuneJob
) -> Callable[..., tuple[Any, dict[str, Any]]]:
  """`step(state, batch, params) -> state, metrics`, tokens dropped.

  The state has "params" (projector and decoder) and "opt"; `params` gives the
  vision encoder, which stays as it is.
  """
  transform = make_optimizer(job)

  def step(state, batch, params):
    def loss_fn(trained, batch, key):
      del key  # nothing is drawn
      loss, aux = losses.task_loss(cfg, {**params, **trained}, batch, plan)
      return loss, {"loss": loss, "exact": aux["exact"].mean()}

    gradient = search.mean_grad(loss_fn, job.micro_batch)
    grads, values = gradient(state["params"], batch, jax.random.key(0))
    updates, opt = transform.update(grads, state["opt"], state["params"])
    after = {"params": optax.apply_updates(state["params"], updates)}
    values |= {"gradient_norm": optax.tree.norm(grads)}
    return after | {"opt": opt}, values

  return step


def run(
  cfg: models.VLMConfig,
  params: Any,
  plan: ops.ReductionPlan,
  job: settings_lib.FinetuneJob,
  iterator: Any,
  check_questions: Any,
  fingerprint: str,
  workdir: pathlib.Path,
  work: speed.Work,
) -> Any:
  """Trains or resumes; returns the whole model's parameters, last or best.

  Args:
    cfg: shape of the model.
    params: its parameters at the start.
    plan: acts in every forward pass.
    job: the settings.
    iterator: batches of questions.
    check_questions: fixed validation questions.
    fingerprint: of `params`; a checkpoint of others is refused.
    workdir: gets checkpoints and metrics.
    work: of a step.
  """
  mesh = partition.make_mesh()
  everywhere, cut = partition.replicated(mesh), partition.batch_sharding(mesh)
  placed = partition.param_shardings(mesh, params)
  params = jax.device_put(params, placed)
  trained = {name: params[name] for name in search_lib.TRAINED}
  spread = {name: placed[name] for name in search_lib.TRAINED}
  opt = make_optimizer(job).init(trained)
  state = {
    "params": trained,
    "opt": optax.tree.map_params(
      make_optimizer(job),
      lambda leaf, where: jax.device_put(leaf, where),
      opt,
      spread,
      transform_non_params=lambda leaf: jax.device_put(leaf, everywhere),
    ),
  }
  compiled = loop.compile_step(
    make_step(cfg, plan, job),
    jax.tree.map(lambda leaf: leaf.sharding, state),
    cut,
    everywhere,
    constants=(placed,),
  )
  checker = _checker(cfg, plan, check_questions, job.check_batch, cut)
  facts = {
    "weights": fingerprint,
    "plan": plan.digest,
    "settings": settings_lib.binding(job),
  }
  with record.Record(workdir, facts, keep=job.keep, best=job.best) as book:
    state, iterator, start = book.resume(state, iterator, job.steps)
    checked: dict[int, float] = {}

    def check(done, state):
      checked[done] = checker({**params, **state["params"]})
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
      print(f"the best of the checks was behind step {step}", flush=True)
  return jax.device_get({**params, **state["params"]})


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
