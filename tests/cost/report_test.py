"""Budgets in the four ways, of plans by hand and of every preset."""

import json

import pytest

from eos_jax import cost, ops

TINY = cost.ModelShape(
  vision_layers=4,
  vision_width=128,
  vision_mlp=512,
  vision_heads=4,
  patch_dim=192,
  vision_tokens=145,
  projector_hidden=256,
  layers=6,
  width=128,
  heads=4,
  kv_heads=2,
  head_dim=32,
  mlp=384,
  vocab=500,
)
PLAN = ops.ReductionPlan(
  "mine",
  "tiny",
  144,
  6,
  (
    ops.PlannedSite("vision.2", 100, ops.presets.TOME),
    ops.PlannedSite("decoder.2", 40, ops.presets.FASTV),
  ),
)
COUNTS = (100, 100, 40, 40, 40, 40)


def test_four_ways_of_a_plan():
  got = cost.budget_of(PLAN, TINY, text_tokens=20, dtype="int8")
  assert got.sites == (("vision.2", 100), ("decoder.2", 40))
  assert got.layer_average == 60.0
  rows = (145, 145, 101, 101)
  assert got.model_flops == cost.prefill_flops(TINY, COUNTS, 20, rows)
  assert got.operator_flops == cost.plan_operator_flops(TINY, PLAN, 20)
  assert got.total_flops == got.model_flops + got.operator_flops
  assert got.kv_bytes == cost.kv_cache_bytes(TINY, COUNTS, 20, dtype="int8")
  assert (got.tokens, got.text_tokens, got.dtype) == (144, 20, "int8")


def test_the_text_says_all_four_with_units():
  text = str(cost.budget_of(PLAN, TINY, text_tokens=20))
  assert text.startswith(
    "mine: 100 after vision.2, 40 after decoder.2 of 144 visual tokens;"
    " layer average 60;"
  )
  assert "468 MFLOPs + operators 5.22 MFLOPs (1.11%);" in text
  # 256 bytes a token, 480 tokens.
  assert "KV cache 120 KiB (bfloat16); 20 text tokens" in text


def test_the_dense_model_has_a_budget_too():
  got = cost.budget_of(None, TINY, text_tokens=20)
  assert got.name == "dense" and got.sites == () and got.layer_average == 144
  assert got.operator_flops == 0
  assert got.model_flops == cost.prefill_flops(TINY, (144,) * 6, 20)
  assert str(got).startswith("dense: all kept of 144 visual tokens")
  nothing = ops.ReductionPlan("empty", "tiny", 144, 6)
  assert (
    cost.budget_of(nothing, TINY, text_tokens=20).model_flops == got.model_flops
  )


@pytest.mark.parametrize("name", sorted(ops.PRESETS))
def test_every_preset_has_a_budget_below_the_dense_one(name):
  plan = cost.budget_plan(
    ops.PRESETS[name],
    limit=60,
    tokens=144,
    layers=6,
    vision_layers=4,
    model="tiny",
  )
  got, dense = (
    cost.budget_of(which, TINY, text_tokens=20) for which in (plan, None)
  )
  assert got.layer_average <= 60
  assert got.model_flops < dense.model_flops
  assert got.kv_bytes < dense.kv_bytes
  # The cost of selecting does not eat what is saved.
  assert got.total_flops < dense.total_flops
  # Plain values: a line of a report as it stands.
  assert json.loads(json.dumps(vars(got)))["name"] == plan.name


def test_a_plan_of_another_model_is_refused():
  plan = ops.ReductionPlan("p", "other", 576, 32)
  with pytest.raises(ValueError) as error:
    cost.budget_of(plan, TINY, text_tokens=20)
  text = str(error.value)
  assert "layers is 32 in the plan and 6 in the model" in text
  assert "tokens is 576 in the plan and 144 in the model" in text


@pytest.mark.parametrize(
  "flops, text",
  [(0, "0 FLOPs"), (999, "999 FLOPs"), (999_600, "1 MFLOPs")],
)
def test_numbers_carry_to_the_next_prefix(flops, text):
  budget = cost.Budget("b", 4, (), 4.0, 10**12, flops, 0, "int8", 1)
  assert f"operators {text} (" in str(budget)
