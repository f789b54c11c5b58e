import hypothesis
from hypothesis import strategies as st
import jax
import numpy as np
import pytest

from eos_jax import cost, ops, search
from eos_jax.search import policy, space


def _space(sites=("decoder.0", "decoder.1", "decoder.3"), **changes):
  base = {"tokens": 144, "layers": 5, "spec": ops.presets.HYBRID}
  return space.SearchSpace(sites=sites, **base | changes)


def _layers_behind(where):
  """Decoder layers between each site and the next one."""
  return np.diff([*where.first_layer, where.layers])


def _average(counts, where):
  early = where.first_layer[0] * where.tokens
  return (early + float(_layers_behind(where) @ counts)) / where.layers


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
  counts = search.whole_counts(
    relaxed, where, constraints=search.limits(layer_average=limit)
  )
  average = _average(counts, where)
  assert average <= limit + 1e-9
  assert all(
    1 <= after <= before
    for before, after in zip([where.tokens, *counts], counts, strict=False)
  )
  wanted = np.maximum(relaxed, 1.0)
  ample = np.minimum(np.ceil(np.maximum(1.1 * relaxed, 1.0)), tokens)
  if _average(np.minimum.accumulate(ample), where) <= limit:
    # Slack: the nearest whole numbers, and nothing that fills the limit up.
    assert np.all(np.abs(counts - wanted) <= 0.5 + 1e-6)
    return
  # As near as one more token at some site, or everything is kept.
  step = max(_layers_behind(where)) / where.layers
  full = _average([where.tokens] * len(counts), where)
  near = min(limit, full, 1.1 * _average(wanted, where))
  assert average > near - step - 1e-9


@pytest.mark.slow
@pytest.mark.parametrize("layers", [5, 6])
@pytest.mark.parametrize("limit", [48.0, 32.0, 16.0, 4.0])
def test_budgets_of_the_tiny_model(layers, limit):
  where = _space(tuple(f"decoder.{i}" for i in range(layers)), layers=layers)
  start = policy.init_policy(
    where,
    constraints=search.limits(layer_average=limit),
    multiple=1.3,
    decay=0.7,
  )
  plan = search.discretize(
    start, where, constraints=search.limits(layer_average=limit), model="tiny"
  )
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
    np.array([80.0, 35.0, 10.0]),
    where,
    constraints=search.limits(layer_average=(80 + 70 + 20) / 5),
  )
  assert counts == [80, 35, 10]


def test_fractional_limits_are_used_in_full():
  where = _space()
  for total in range(5, 300, 7):
    counts = search.whole_counts(
      np.array([60.0, 30.0, 10.0]) * total / 140,
      where,
      constraints=search.limits(layer_average=total / 5),
    )
    # The first site feeds one layer only, so it takes any remainder.
    assert counts[0] + 2 * counts[1] + 2 * counts[2] == total


def test_slack_goes_where_rounding_took_most():
  where = _space(("decoder.0", "decoder.4"))
  # 4 * 10 + 1.9 < 42: the second count rises, the first cannot.
  counts = search.whole_counts(
    np.array([10.0, 1.9]),
    where,
    constraints=search.limits(layer_average=42 / 5),
  )
  assert counts == [10, 2]


def test_constant_sites_keep_their_counts():
  where = _space(frozen_sites=("decoder.0",), counts=(60, 30, 10))
  counts = search.whole_counts(
    np.array([60.0, 20.0, 10.0]),
    where,
    constraints=search.limits(layer_average=30.0),
  )
  assert counts[0] == 60
  assert _average(counts, where) <= 30


def test_numbers_are_the_decoded_ones():
  where = _space()
  start = policy.init_policy(
    where, constraints=search.limits(layer_average=48.0), multiple=1.2
  )
  start["gamma"] = start["gamma"] + np.float32([0.0, -1.0, -2.0])
  params = policy.decode(start, where)
  plan = search.discretize(
    start, where, constraints=search.limits(layer_average=48.0), model="tiny"
  )
  for index, planned in enumerate(plan.sites):
    assert planned.site == where.sites[index]
    numbers = jax.tree.leaves(planned.spec.params())
    for got, leaf in zip(numbers, jax.tree.leaves(params), strict=True):
      np.testing.assert_array_equal(got, leaf[index])
    assert len(str(planned.spec.gamma)) <= 12  # no digits beyond float32
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
    start = policy.init_policy(
      where, constraints=search.limits(layer_average=limit)
    )
    plan = search.discretize(
      start, where, constraints=search.limits(layer_average=limit), model="tiny"
    )
    assert tuple(site.site for site in plan.sites) == sites


def test_class_token_is_not_counted_at_vision_sites():
  where = _space(("vision.1", "decoder.2"), counts=(60, 20), free=("transfer",))
  start = policy.init_policy(
    where, constraints=search.limits(layer_average=36.0)
  )
  plan = search.discretize(
    start, where, constraints=search.limits(layer_average=36.0), model="tiny"
  )
  assert [site.keep for site in plan.sites] == [60, 20]


def test_unreachable_limit():
  where = _space(("decoder.1",))
  with pytest.raises(cost.UnreachableBudget, match="decoder.1"):
    search.whole_counts(
      np.array([10.0]), where, constraints=search.limits(layer_average=29.0)
    )
  assert search.whole_counts(
    np.array([10.0]), where, constraints=search.limits(layer_average=29.6)
  ) == [1]


def test_every_limit_is_met_and_one_of_them_used_up():
  where = _space()
  relaxed = np.array([80.0, 35.0, 10.0])
  ours = {"squares": lambda counts: sum(n * n for n in counts)}
  limits = search.limits(layer_average=30.0, final_count=7, squares=4000)
  counts = search.whole_counts(
    relaxed, where, constraints=limits, measures=ours
  )
  values = search.measure(tuple(counts), where, limits, ours)
  assert all(values[c.name] <= c.limit for c in limits)
  more = [tuple(c + (i == j) for j, c in enumerate(counts)) for i in range(3)]
  assert all(search.exceeded(c, where, limits, ours) for c in more[:2])
  for drop in range(3):  # each of them alone allows more
    rest = limits[:drop] + limits[drop + 1 :]
    looser = search.whole_counts(
      relaxed, where, constraints=rest, measures=ours
    )
    assert sum(looser) >= sum(counts)


def test_slack_limits_change_nothing():
  where = _space()
  relaxed = np.array([40.2, 20.4, 9.7])
  counts = search.whole_counts(
    relaxed, where, constraints=search.limits(layer_average=60.0)
  )
  assert counts == [40, 20, 10]
  assert counts == search.whole_counts(relaxed, where, constraints=())


def test_a_ceiling_caps_every_site():
  where = _space()
  counts = search.whole_counts(
    np.array([80.0, 35.0, 10.0]),
    where,
    constraints=search.limits(layer_average=34.0),
    ceiling=(60, 60, 8),
  )
  assert counts[0] <= 60 and counts[2] <= 8


def test_multipliers_say_whether_a_limit_binds():
  where = _space()
  relaxed, limits = (
    np.array([40.0, 20.0, 10.0]),
    search.limits(layer_average=30.0, final_count=99),
  )
  plain = search.whole_counts(relaxed, where, constraints=limits)
  assert plain == [40, 20, 10]  # 22, far below 30: it seems to be slack
  for pull, counts in ((0.0, plain), (0.1, None)):
    found = search.whole_counts(
      relaxed,
      where,
      constraints=limits,
      multipliers={"layer_average": pull, "final_count": 0.0},
    )
    if counts is None:
      assert 29.5 < _average(found, where) <= 30.0
      assert found[0] == pytest.approx(2 * found[1], abs=2)
    else:
      assert found == counts
