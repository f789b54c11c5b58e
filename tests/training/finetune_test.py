"""Training under a plan, on a model small enough for seconds."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

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
).for_model(CFG)


def _batch():
  text = small.text(8)
  return {
    "image": (127.5 * (small.pictures(8) + 1)).astype(jnp.uint8),
    "tokens": text.tokens,
    "mask": text.mask,
    "prompt_length": text.prompt_length,
    "loss_mask": jnp.arange(7)[None] >= jnp.full((8, 1), 4),
  }


@pytest.mark.slow
def test_it_learns_under_the_plan_and_leaves_the_encoder_alone():
  plan = ops.ReductionPlan(
    name="p",
    model=CFG.name,
    tokens=CFG.vision.tokens,
    layers=CFG.decoder.layers,
    sites=(ops.PlannedSite("decoder.1", 4, ops.presets.FASTV),),
  )
  params = small.params(CFG)
  batch = _batch()
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


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_a_model_of_any_dtype_is_trained_in_float32(dtype):
  params = small.params(CFG)
  params = jax.tree.map(lambda leaf: leaf.astype(dtype), params)
  before = jax.device_get(params)
  state = finetune.first_state(params, JOB)
  step = jax.jit(finetune.make_step(CFG, None, JOB), donate_argnums=0)
  for _ in range(2):  # the rate of the first step is 0
    state, values = step(state, _batch(), params)
  assert np.isfinite(float(values["loss"]))
  kept = jax.tree.leaves((state["params"], state["opt"]))
  floats = [leaf for leaf in kept if jnp.issubdtype(leaf.dtype, jnp.floating)]
  # A copy and two moments of each trained parameter.
  assert {leaf.dtype for leaf in floats} == {jnp.dtype(jnp.float32)}
  count = len(jax.tree.leaves(state["params"]))
  assert len(floats) == 3 * count
  # The buffers of the state were reused, those of the model were not.
  jax.tree.map(np.testing.assert_array_equal, jax.device_get(params), before)
  assert not np.array_equal(
    state["params"]["decoder"]["embed"],
    before["decoder"]["embed"].astype(np.float32),
  )
