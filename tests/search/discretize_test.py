import hypothesis
from hypothesis import strategies as st
import numpy as np
import pytest

from eos_jax import cost, ops, search
from eos_jax.search import expected, policy, space


def _space(sites=("decoder.0", "decoder.1", "decoder.3"), **changes):
  base = {"tokens": 144, "layers": 5, "spec": ops.presets.HYBRID}
  return space.SearchSpace(sites=sites, **base | changes)


def _average(counts, where):
  weights = expected.layer_weights(where)
  return float(weights @ np.array([where.tokens, *counts])) / where.layers


@st.composite
def _problems(draw):
  layers = draw(st.integers(1, 6))
  tokens = draw(st.integers(4, 144))
  vision = draw(st.lists(st.integers(0, 4), unique=True, max_size=2))
  decoder = draw(
    st.lists(st.integers(0, layers - 1), unique=True, min_size=1, max_size=6)
  )
  sites = [f"vision.{i}" for i in sorted(vision)]
  sites += [f"decoder.{i}" for i in sorted(decoder)]
  share = draw(
    st.lists(st.floats(0.01, 1.0), min_size=len(sites), max_size=len(sites))
  )
  tightness = draw(st.floats(0.0, 1.0))
  return tuple(sites), tokens, layers, share, tightness


@hypothesis.settings(max_examples=150, deadline=None)
@hypothesis.given(_problems())
def test_counts_are_legal_and_near_the_limit(problem):
  sites, tokens, layers, share, tightness = problem
  where = _space(sites, tokens=tokens, layers=layers)
  relaxed = tokens * np.cumprod(share)
  least = _average([1] * len(sites), where)
  limit = least + tightness * (tokens - least)
  counts = search.whole_counts(relaxed, where, limit=limit)
  average = _average(counts, where)
  assert average <= limit + 1e-9
  assert all(
    1 <= after <= before
    for before, after in zip([where.tokens, *counts], counts, strict=False)
  )
  # As near as one more token at some site, or everything is kept.
  step = max(expected.layer_weights(where)[1:]) / where.layers
  full = _average([where.tokens] * len(counts), where)
  assert average > min(limit, full) - step - 1e-9


@pytest.mark.parametrize("layers", [5, 6])
@pytest.mark.parametrize("limit", [48.0, 32.0, 16.0, 4.0])
def test_budgets_of_the_tiny_model(layers, limit):
  where = _space(tuple(f"decoder.{i}" for i in range(layers)), layers=layers)
  start = policy.init_policy(where, limit=limit, multiple=1.3, decay=0.7)
  plan = search.discretize(start, where, limit=limit, model="tiny")
  average = float(cost.layer_average(cost.layer_counts(plan)))
  assert 0.95 * limit <= average <= limit
  assert plan.tokens == 144 and plan.layers == layers and plan.model == "tiny"
  keeps = [site.keep for site in plan.sites]
  assert all(b <= a for a, b in zip([144, *keeps], keeps, strict=False))
  again = ops.ReductionPlan.from_json(plan.to_json())
  assert again == plan


def test_whole_counts_that_fit_stay():
  where = _space()
  counts = search.whole_counts(
    np.array([80.0, 35.0, 10.0]), where, limit=(80 + 70 + 20) / 5
  )
  assert counts == [80, 35, 10]


def test_fractional_limits_are_used_in_full():
  where = _space()
  for total in range(5, 300, 7):
    counts = search.whole_counts(
      np.array([60.0, 30.0, 10.0]), where, limit=total / 5
    )
    # The first site feeds one layer only, so it takes any remainder.
    assert counts[0] + 2 * counts[1] + 2 * counts[2] == total


def test_slack_goes_where_rounding_took_most():
  where = _space(("decoder.0", "decoder.4"))
  # 4 * 10 + 1.9 < 42: the second count rises, the first cannot.
  counts = search.whole_counts(np.array([10.0, 1.9]), where, limit=42 / 5)
  assert counts == [10, 2]


def test_constant_sites_keep_their_counts():
  where = _space(frozen_sites=("decoder.0",), counts=(60, 30, 10))
  counts = search.whole_counts(np.array([60.0, 20.0, 10.0]), where, limit=30.0)
  assert counts[0] == 60
  assert _average(counts, where) <= 30


def test_numbers_are_the_decoded_ones():
  where = _space()
  start = policy.init_policy(where, limit=48.0, multiple=1.2)
  start["gamma"] = start["gamma"] + np.float32([0.0, -1.0, -2.0])
  params = policy.decode(start, where)
  plan = search.discretize(start, where, limit=48.0, model="tiny")
  for index, planned in enumerate(plan.sites):
    assert planned.site == where.sites[index]
    assert planned.spec.gamma == pytest.approx(float(params.gamma[index]))
    assert planned.spec.pi == pytest.approx(params.pi[index].tolist())
    assert planned.spec.name == "searched"


def test_idle_sites_are_dropped_unless_they_reweight():
  plain = ops.presets.HYBRID.replace(rho=0.0, rho_attn=0.0)
  counts = (60, 60, 10)
  kwargs = {"free": ("transfer",), "counts": counts}
  limit = (60 * 3 + 10 * 2) / 5
  for spec, sites in (
    (plain, ("decoder.0", "decoder.3")),
    (plain.replace(rho=0.5), ("decoder.0", "decoder.1", "decoder.3")),
  ):
    where = _space(spec=spec, **kwargs)
    start = policy.init_policy(where, limit=limit)
    plan = search.discretize(start, where, limit=limit, model="tiny")
    assert tuple(site.site for site in plan.sites) == sites


def test_class_token_is_not_counted_at_vision_sites():
  where = _space(("vision.1", "decoder.2"), counts=(60, 20), free=("transfer",))
  start = policy.init_policy(where, limit=36.0)
  plan = search.discretize(start, where, limit=36.0, model="tiny")
  assert [site.keep for site in plan.sites] == [60, 20]


def test_unreachable_limit():
  where = _space(("decoder.1",))
  with pytest.raises(cost.UnreachableBudget, match="decoder.1"):
    search.whole_counts(np.array([10.0]), where, limit=29.0)
  assert search.whole_counts(np.array([10.0]), where, limit=29.6) == [1]
