"""Training under a plan, on a model small enough for seconds."""

import jax
import jax.numpy as jnp
import numpy as np

from eos_jax import ops
from eos_jax.training import finetune, finetune_settings
from tests.models import small

CFG = small.config()
JOB = finetune_settings.FinetuneJob(
  plan="plan.json",
  steps=20,
  batch=8,
  learning_rate=3e-3,
  warmup=2,
  check_every=10,
  check_questions=8,
  check_batch=8,
  log_every=1,
  save_every=10,
)


def test_it_learns_under_the_plan_and_leaves_the_encoder_alone():
  plan = ops.ReductionPlan(
    name="p",
    model=CFG.name,
    tokens=CFG.vision.tokens,
    layers=CFG.decoder.layers,
    sites=(ops.PlannedSite("decoder.1", 4, ops.presets.FASTV),),
  )
  params = small.params(CFG)
  text = small.text(8)
  batch = {
    "image": (127.5 * (small.pictures(8) + 1)).astype(jnp.uint8),
    "tokens": text.tokens,
    "mask": text.mask,
    "prompt_length": text.prompt_length,
    "loss_mask": jnp.arange(7)[None] >= jnp.full((8, 1), 4),
  }
  trained = {name: params[name] for name in ("projector", "decoder")}
  state = {
    "params": trained,
    "opt": finetune.make_optimizer(JOB).init(trained),
  }
  step = jax.jit(finetune.make_step(CFG, plan, JOB))
  losses = []
  for _ in range(JOB.steps):
    state, values = step(state, batch, params)
    losses.append(float(values["loss"]))
  assert losses[-1] < 0.5 * losses[0]
  assert set(state["params"]) == {"projector", "decoder"}
  changed = jax.tree.map(
    lambda a, b: float(np.abs(a - b).max()), state["params"], trained
  )
  assert min(jax.tree.leaves(changed["projector"])) > 0
