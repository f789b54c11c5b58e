"""The plans that come with the tiny model."""

import dataclasses
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eos_jax import cost, models, ops
from eos_jax.data import packing, suite
from eos_jax.tasks import common, opening

BUDGETS = (48, 32, 16, 4)
FINAL_TEMPERATURE = 0.001  # of the soft top-k, as configs/search.py anneals it
QUESTIONS = 500


@pytest.mark.parametrize("limit", BUDGETS)
def test_they_fit_the_model_and_meet_their_budgets(limit):
  plan = common.shipped_plan("tiny", limit)
  assert common.plan_faults(models.tiny_config(), plan, "plan") == []
  average = cost.layer_average(cost.layer_counts(plan))
  assert 0.95 * limit <= average <= limit


def test_the_file_of_the_first_format_has_the_same_operators():
  path = pathlib.Path(__file__).parents[1] / "goldens/plans/eos_16.v1.json"
  first = ops.ReductionPlan.from_json(path.read_bytes())
  plan = common.shipped_plan("tiny", 16)
  assert dataclasses.replace(first, sites=()) == dataclasses.replace(
    plan, sites=()
  )
  numbers = [field.name for field in dataclasses.fields(ops.OperatorParams)]
  for a, b in zip(first.sites, plan.sites, strict=True):
    for x, y in zip(
      *(jax.tree.leaves(s.spec.params()) for s in (a, b)), strict=True
    ):
      np.testing.assert_array_equal(x, y)
    same = b.spec.replace(**{n: getattr(a.spec, n) for n in numbers})
    assert dataclasses.replace(b, spec=same) == a


def _soft(plan):
  """The relaxation that a plan was rounded from, with the plan's counts."""
  stacked = [site.spec.params() for site in plan.sites]
  return models.SoftReduction(
    params=jax.tree.map(lambda *leaves: jnp.stack(leaves), *stacked),
    temperature=jnp.float32(FINAL_TEMPERATURE),
    keep=jnp.array([float(site.keep) for site in plan.sites]),
    sites=tuple(site.site for site in plan.sites),
    spec=plan.sites[0].spec.replace(name="soft"),
  )


@pytest.mark.full
def test_soft_and_hard_give_the_same_answers():
  model = models.load(models.TINY)
  cfg, params = model.cfg, model.params
  rows = model.files.rows(packing.DEFAULT_TEXT_LENGTH)
  (questions,) = suite.Suite(rows, suite="held_out").choose(
    "validation", count=QUESTIONS, seed=3
  )

  def answer(seen, batch, reduction):
    slots = jnp.arange(batch["tokens"].shape[1])[None]
    text = models.Text(
      batch["tokens"],
      slots < batch["prompt_length"][:, None],
      batch["prompt_length"],
    )
    out = models.answer(
      cfg,
      params,
      seen,
      text,
      reduction,
      steps=opening.SUITE_ANSWER,
      stop=rows.end_ids,
    )
    return out.ids

  hard = jax.jit(answer, static_argnums=2)
  soft = jax.jit(answer)
  see = jax.jit(
    lambda image: models.see(cfg, params, models.inputs.normalize(image))
  )
  batches = [
    (see(raw["image"]), {n: raw[n] for n in ("tokens", "prompt_length")}, raw)
    for raw in questions.batches(100)
  ]
  for limit in BUDGETS:
    plan = common.shipped_plan("tiny", limit)
    same = []
    for seen, batch, raw in batches:
      pair = hard(seen, batch, plan), soft(seen, batch, _soft(plan))
      equal = np.all(np.asarray(pair[0]) == np.asarray(pair[1]), axis=1)
      same.append(equal[raw["valid"]])
    assert sum(map(len, same)) == QUESTIONS
    assert np.mean(np.concatenate(same)) >= 0.98, limit
