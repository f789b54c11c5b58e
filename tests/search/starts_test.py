"""Every preset starts a search, or is refused by name with the reason."""

import jax
import jax.numpy as jnp
import pytest

from eos_jax import ops, search

# Kernels that cannot keep any number of tokens.
RIGID = {"matryoshka", "tome", "tome_kth", "tome_port"}


def _space(name, **changes):
  fields = dict(sites=("decoder.0", "decoder.2"), tokens=144, layers=5)
  free = tuple(search.GROUPS)
  spec = ops.PRESETS[name]
  return search.SearchSpace(**fields | dict(spec=spec, free=free) | changes)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(set(ops.PRESETS) - RIGID))
def test_a_preset_starts_a_search(name):
  space = _space(name)
  limits = search.limits(layer_average=32.0)
  policy = search.init_policy(space, constraints=limits)
  assert set(policy) == set(space.fields)
  assert ("pi" in policy) == bool(space.spec.scores)
  for leaf in jax.tree.leaves(policy):
    assert leaf.shape[0] == 2 and bool(jnp.all(jnp.isfinite(leaf)))
  average = search.layer_average(
    search.site_counts(search.decode(policy, space), space), space
  )
  assert float(average) == pytest.approx(32, rel=1e-3)
  plan = search.discretize(policy, space, constraints=limits, model="m")
  again = ops.ReductionPlan.from_json(plan.to_json())
  assert again == plan
  kept = search.plan_counts(plan, space)
  assert search.layer_average(kept, space) <= 32
  assert {site.spec.select for site in plan.sites} == {space.spec.select}


@pytest.mark.parametrize("name", sorted(RIGID))
def test_a_preset_of_fixed_counts_is_refused_with_the_reason(name):
  select = ops.PRESETS[name].select
  with pytest.raises(
    ValueError, match=f"spec '{name}' cannot start .* select='{select}' "
  ):
    _space(name)
  # Where counts are given it serves.
  space = _space(name, free=("transfer",), counts=(80, 60))
  params = search.decode(search.init_policy(space), space)
  counts = search.site_counts(params, space)
  assert counts.round().tolist() == [80, 60]
