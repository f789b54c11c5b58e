"""Counts per layer, and plans that meet a budget."""

import hypothesis
from hypothesis import strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eos_jax import cost, ops

TINY = dict(tokens=144, layers=6, vision_layers=4, model="tiny")
LLAVA = dict(tokens=576, layers=32, vision_layers=23, model="llava")


def _plan(name, limit, **model):
  return cost.budget_plan(ops.PRESETS[name], limit=limit, **model)


def test_layer_counts_by_hand():
  spec = ops.presets.PRUNE
  sites = (
    ops.PlannedSite("vision.2", 100, ops.presets.TOME),
    ops.PlannedSite("decoder.2", 40, spec),
    ops.PlannedSite("decoder.5", 7, spec),
  )
  plan = ops.ReductionPlan("p", "tiny", 144, 6, sites)
  counts = cost.layer_counts(plan)
  assert counts == (100, 100, 40, 40, 40, 7)
  assert cost.final_count(counts) == 7
  assert cost.layer_average(counts) == pytest.approx(327 / 6)
  shape = cost.ModelShape(4, 8, 16, 2, 12, 145, 0, 6, 24, 6, 2, 4, 40, 50)
  assert cost.vision_row_counts(plan, shape) == (145, 145, 101, 101)
  empty = ops.ReductionPlan("p", "tiny", 144, 3)
  assert cost.layer_counts(empty) == (144, 144, 144)


def test_layer_average_is_differentiable():
  counts = jnp.array([9.0, 5.0, 1.0, 1.0])
  assert float(cost.layer_average(counts)) == 4
  np.testing.assert_allclose(jax.grad(cost.layer_average)(counts), 0.25)
  np.testing.assert_allclose(jax.grad(cost.final_count)(counts), [0, 0, 0, 1])


@pytest.mark.parametrize("limit", [48, 32, 16, 4])
@pytest.mark.parametrize("name", sorted(ops.PRESETS))
def test_plans_meet_the_budget_or_say_why(name, limit):
  try:
    plan = _plan(name, limit, **TINY)
  except cost.UnreachableBudget as error:
    assert error.smallest > limit and error.why
    # What reads the layer before it cannot act before the second one.
    late = name in ("dart", "fastv") or name.startswith("sparsevlm")
    assert (late and limit < 29) or (name, limit) in {
      ("tome", 4),
      ("tome_port", 4),
    }
    return
  average = cost.layer_average(cost.layer_counts(plan))
  fixed = name in ("matryoshka", "tome_kth")  # the stride gives the count
  assert limit * (0.5 if fixed else 1) - 1 < average <= limit
  assert plan.note == ("moved" if name == "pyramiddrop" else "")


def test_stages_share_a_budget_in_their_published_proportions():
  plan = _plan("pyramiddrop", 270, **LLAVA)
  assert [(s.site, s.keep) for s in plan.sites] == [
    ("decoder.8", 288),
    ("decoder.16", 144),
    ("decoder.24", 72),
  ]
  plan = _plan("sparsevlm_1_5", 206.5, **LLAVA)
  # Layers as executed; its authors count the pruning layer as reduced: 192.
  assert [s.site for s in plan.sites] == [
    "decoder.3",
    "decoder.7",
    "decoder.16",
  ]
  for site, published in zip(plan.sites, (309, 204, 113), strict=True):
    assert abs(site.keep - published) <= 2
  first = plan.sites[0]
  alone = round(first.spec.kappa * first.keep)
  assert first.keep - alone == ops.count.clusters(576 - alone)


def test_fastv_acts_after_two_of_thirty_two_layers():
  plan = _plan("fastv", 192, **LLAVA)
  assert [(s.site, s.keep) for s in plan.sites] == [("decoder.2", 166)]
  # (2 x 576 + 30 x 166) / 32 = 191.6; 167 would make it 192.6.
  average = cost.layer_average(cost.layer_counts(plan))
  assert average == pytest.approx(191.625)


def test_fastv_moves_where_its_layer_is_too_late():
  plan = _plan("fastv", 20, **LLAVA)
  assert plan.sites[0].site == "decoder.1" and plan.note == "moved"
  with pytest.raises(cost.UnreachableBudget) as error:
    _plan("fastv", 16, **LLAVA)
  assert error.value.smallest == pytest.approx((576 + 31) / 32)


def test_tome_spreads_over_the_blocks_and_halves_at_most():
  plan = _plan("tome", 48, **TINY)
  kept = [s.keep for s in plan.sites]
  assert kept == [120, 96, 72, 48]
  plan = _plan("tome", 16, **TINY)
  before = 144
  for site in plan.sites:
    assert site.keep >= before - before // 2
    before = site.keep
  assert before == 16
  with pytest.raises(cost.UnreachableBudget) as error:
    _plan("tome", 4, **TINY)
  assert error.value.smallest == 9


def test_bipartite_in_the_decoder_halves_at_most():
  spec, first = ops.presets.TOME.replace(protect=0), ops.Placement()
  with pytest.raises(cost.UnreachableBudget) as error:
    cost.budget_plan(spec, limit=48, placement=first, **TINY)
  assert error.value.smallest == 72


def test_several_decoder_layers_need_a_plan():
  spec, late = ops.presets.PRUNE, ops.Placement(layers=(2, 6, 15))
  with pytest.raises(ValueError, match="write the ReductionPlan"):
    cost.budget_plan(spec, limit=48, placement=late, **TINY)


def test_operators_that_are_no_presets_act_at_the_decoder_input():
  spec = ops.presets.PYRAMIDDROP.replace(name="mine")
  sites = cost.budget_plan(spec, limit=48, **LLAVA).sites
  assert [(s.site, s.keep) for s in sites] == [("decoder.0", 48)]
  inside = ops.Placement(site="vision", layers=(4, 8), depth=12)
  sites = cost.budget_plan(spec, limit=48, placement=inside, **LLAVA).sites
  assert [s.site for s in sites] == ["vision.8", "vision.15"]
  # Numbers of a preset may change, its placement stays.
  spec = ops.presets.FASTV.replace(protect=1)
  (site,) = cost.budget_plan(spec, limit=192, **LLAVA).sites
  assert site.site == "decoder.2"


def test_limits_must_be_positive():
  with pytest.raises(ValueError, match="limit is 0"):
    _plan("prune", 0, **TINY)


def test_a_limit_above_all_tokens_keeps_them():
  assert _plan("prune", 1000, **TINY).sites[0].keep == 144


@hypothesis.settings(max_examples=25, deadline=None, derandomize=True)
@hypothesis.given(
  limit=st.floats(1, 200),
  layers=st.integers(1, 40),
  tokens=st.integers(1, 600),
  published=st.integers(0, 31),
)
def test_no_budget_is_exceeded_and_none_is_wasted(
  limit, layers, tokens, published
):
  plan = cost.budget_plan(
    ops.presets.PRUNE,
    placement=ops.Placement(layers=(published,)),
    limit=limit,
    tokens=tokens,
    layers=layers,
    vision_layers=2,
    model="m",
  )
  counts = cost.layer_counts(plan)
  average = cost.layer_average(counts)
  assert average <= limit + 1e-6
  (site,) = plan.sites
  _, layer = ops.site_index(site.site)
  more = average + (layers - layer) / layers
  assert more > limit - 1e-6 or site.keep == tokens


def test_vision_operators_move_where_the_encoder_has_no_sites():
  model = TINY | {"vision_layers": 0}
  plan = _plan("tome", 80, **model)
  assert [(site.site, site.keep) for site in plan.sites] == [("decoder.0", 80)]
  assert plan.note == "moved"
  with pytest.raises(cost.UnreachableBudget, match="leaves at least 72 of 144"):
    _plan("tome", 48, **model)
  plan = _plan("tome_kth", 48, **model)
  assert [(site.site, site.keep) for site in plan.sites] == [("decoder.0", 48)]
  assert plan.note == "moved"
