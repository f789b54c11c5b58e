"""Which operators lie in the continuous space, and which preset is nearest."""

import pathlib

import pytest

from eos_jax import ops
from eos_jax.ops import reachable

README = pathlib.Path(ops.__file__).parent / "README.md"


def test_the_readme_has_the_generated_table():
  assert reachable.table() in README.read_text(encoding="utf-8")


def test_readings_of_every_preset_are_stored():
  stored = reachable._stored()
  for name, spec in ops.PRESETS.items():
    if ops.presets.RECORDS[name].doc:  # tests register others
      assert reachable._fingerprint(spec) in stored, name


def test_discrete_parts_are_named():
  assert ops.discrete_parts(ops.presets.TOME) == ("select=bipartite",)
  assert ops.discrete_parts(ops.presets.PRUNE) == ()


def test_who_is_a_point_of_the_continuous_space():
  points = {
    name for name, spec in ops.PRESETS.items() if not ops.reach(spec).kernels
  }
  # Those that the design of the space names, and no published operator else.
  assert points == {
    "evit_drop",
    "fastv",
    "grid",
    "hybrid",
    "merge",
    "merge_proportional",
    "pool_soft",
    "prune",
    "pyramiddrop",
    "random",
    "reweight",
    "sparsevlm_2_0",
    "vision_selector",
    "visionzip_prune",
  }
  assert ops.reach(ops.presets.TOME).kernels == (
    "select=bipartite",
    "assign=selected",
  )
  assert ops.reach(ops.presets.DIVPRUNE).left_out.startswith("the same token")


@pytest.mark.full
def test_presets_are_nearest_to_themselves():
  for name in ("tome", "visionzip", "merge"):
    found = ops.nearest_preset(ops.PRESETS[name])
    assert (found.name, found.distance, found.stages) == (name, 0, ())


@pytest.mark.full
def test_the_stages_that_differ_are_named():
  found = ops.nearest_preset(ops.presets.PRUNE.replace(rho=0.05))
  assert found.name == "prune"
  assert 0 < found.distance < 0.2
  assert found.stages == ("combine",)
  # tau has no effect where nothing moves.
  found = ops.nearest_preset(ops.presets.PRUNE.replace(tau=3.0))
  assert (found.name, found.distance, found.stages) == ("prune", 0, ())
  found = ops.nearest_preset(
    ops.presets.MERGE.replace(scores=("norm",), pi=(1.0,), delta=0.9)
  )
  assert "score" in found.stages
