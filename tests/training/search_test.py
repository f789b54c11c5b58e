"""The search over the VLM, on a model and data small enough for seconds."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eos_jax import models, ops, search
from eos_jax.training import partition, search_loop, settings
from eos_jax.training import search as search_lib
from tests.models import small

CFG = small.config()
CHOSEN = settings.SearchSettings(
  seed=0,
  data=settings.DataSettings("tiny", ""),
  weights=(1.0,),
  budgets=(8.0, 3.0),
  sites=(),
  start="hybrid",
  free=("where", "how_many", "transfer", "temperature", "scores"),
  mode="frozen",
  steps=4,
  batch=8,
  learning_rate=0.05,
  model_learning_rate=1e-3,
  multiplier_learning_rate=0.5,
  penalty=5.0,
  align=0.3,
  start_multiple=1.2,
  start_decay=0.8,
  temperature_start=0.5,
  temperature_end=0.05,
  anneal_share=0.8,
  check_every=2,
  check_questions=8,
  check_batch=8,
  log_every=1,
  save_every=2,
)


def _problem(**changes):
  chosen = dataclasses.replace(CHOSEN, **changes)
  return search_lib.Problem(
    CFG, small.params(CFG), search_lib.make_space(CFG, chosen), chosen
  )


def _batch(seed=0):
  text = small.text(8, seed=seed)
  image = 127.5 * (small.pictures(8, seed=seed + 1) + 1)
  return {
    "image": image.astype(jnp.uint8),
    "tokens": text.tokens,
    "mask": text.mask,
    "prompt_length": text.prompt_length,
    "loss_mask": jnp.arange(7)[None] >= jnp.full((8, 1), 4),
  }


@functools.cache
def _stepped(mode):
  problem = _problem(mode=mode)
  policy = search.init_policy(
    problem.space, constraints=search.limits(layer_average=8.0), multiple=1.2
  )
  state = search_lib.initial_state(problem, 8.0, policy)
  step = jax.jit(search_lib.make_step(problem))
  after, metrics = step(
    state, _batch(), problem.params, jax.random.key(0), 8.0, 0.5
  )
  return problem, state, after, metrics


def _moved(before, after):
  return max(
    float(np.abs(np.asarray(a) - np.asarray(b)).max())
    for a, b in zip(
      jax.tree.leaves(before), jax.tree.leaves(after), strict=True
    )
  )


def test_frozen_mode_moves_policy_and_multiplier_alone():
  _, state, after, metrics = _stepped("frozen")
  assert "model" not in after.variables
  for name, value in state.variables["policy"].items():
    assert _moved(value, after.variables["policy"][name]) > 0, name
  assert float(metrics["violation/layer_average"]) > 0
  assert float(after.variables["multiplier"]["layer_average"]) > 0
  assert np.isfinite(float(metrics["total"]))
  assert float(metrics["alignment"]) > 0


def test_joint_mode_moves_the_model_by_its_own_optimizer():
  problem, state, after, _ = _stepped("joint")
  assert set(after.variables["model"]) == {"projector", "decoder"}
  moved = _moved(state.variables["model"], after.variables["model"])
  # Adam's first step is one learning rate, up to the decay of the weights.
  assert 0.5e-3 < moved < 2e-3
  assert _moved(state.variables["policy"], after.variables["policy"]) > 0.01


def test_next_budget_keeps_operators_and_scales_counts():
  problem, _, after, _ = _stepped("frozen")
  state = search_lib.next_state(problem, after, 8.0, 3.0)
  space = problem.space
  old = search.decode(after.variables["policy"], space)
  new = search.decode(state.variables["policy"], space)
  np.testing.assert_array_equal(old.gamma, new.gamma)
  np.testing.assert_array_equal(old.pi, new.pi)
  before, now = (
    float(search.layer_average(search.site_counts(p, space), space))
    for p in (old, new)
  )
  assert now < before
  assert now > 3.0  # above the limit, so that the search has to decide
  assert float(state.variables["multiplier"]["layer_average"]) == 0.0


def test_alignment_is_relative_and_has_no_gradient_in_its_target():
  mask = jnp.array([[True, True, False]])
  target = jnp.array([[[3.0], [4.0], [100.0]]])
  hidden = jnp.array([[[3.0], [3.0], [0.0]]])
  assert float(search_lib.alignment(hidden, target, mask)) == pytest.approx(
    1 / 25
  )
  gradient = jax.grad(search_lib.alignment, argnums=1)(hidden, target, mask)
  np.testing.assert_array_equal(gradient, 0.0)


class _Questions:
  """A fixed set of eight questions, as the checks read it."""

  def batches(self, batch):
    assert batch == 8
    host = {n: np.asarray(v) for n, v in _batch(5).items()}
    yield {**host, "valid": np.arange(8) < 6, "index": np.arange(8)}


def test_hard_check_equals_the_plan_with_tokens_dropped():
  problem, _, after, _ = _stepped("frozen")
  checker = search_loop.Checker(problem, _Questions(), 8, partition.make_mesh())
  _, hard = checker(after, problem.params, 8.0, 0.05)
  plan = search.discretize(
    after.variables["policy"],
    problem.space,
    constraints=search.limits(layer_average=8.0),
    model="small",
  )
  assert isinstance(plan, ops.ReductionPlan)
  batch = _batch(5)
  text = models.Text(batch["tokens"], batch["mask"], batch["prompt_length"])
  image = batch["image"].astype(jnp.float32) / 127.5 - 1.0
  logits = small.apply(CFG, problem.params, image, text, plan).logits[:, :-1]
  wrong = batch["loss_mask"][:, 1:] & (
    jnp.argmax(logits, -1) != batch["tokens"][:, 1:]
  )
  exact = 1.0 - np.any(np.asarray(wrong), axis=1)
  assert hard == pytest.approx(float(exact[:6].mean()))
