"""Eight devices, however they are arranged, do what one does."""

import dataclasses
import functools
import json
import math
import pathlib
import re

import jax
import numpy as np
import pytest

from eos_jax import models, ops
from eos_jax.models import families, loading, partition
from eos_jax.training import search as search_lib
from tests.models import public_configs, small
from tests.training import search_test

MESHES = [(8, 1, 1), (2, 4, 1), (2, 2, 2)]
SPECS = pathlib.Path(__file__).parents[1] / "goldens" / "specs.json"
# Keys and layers that no other axis is as long as.
CFG = small.config(layers=5, width=16, mlp=24, kv_heads=4)
PLAN = ops.ReductionPlan(
  "plan",
  CFG.name,
  16,
  5,
  (
    ops.PlannedSite("decoder.0", 9, ops.presets.PRUNE),
    ops.PlannedSite("decoder.2", 4, ops.presets.FASTV),
  ),
)


def _mesh(shape):
  """Of all devices; None: of one."""
  if shape is not None:
    return partition.make_mesh(shape)
  return jax.make_mesh(
    (1, 1, 1),
    partition.AXES,
    axis_types=(jax.sharding.AxisType.Auto,) * 3,
    devices=jax.devices()[:1],
  )


def _placed(mesh, params):
  return jax.device_put(params, partition.param_shardings(mesh, params))


@functools.cache
def _problem(micro_batch=0):
  chosen = dataclasses.replace(
    search_test.CHOSEN,
    remat="layers",
    sites=search_test.ONE,
    micro_batch=micro_batch,
  )
  params = small.params(CFG)
  return search_lib.Problem(
    CFG, params, search_lib.make_space(CFG, chosen), chosen
  )


@functools.cache
def _searched(shape, micro_batch=0):
  """Two steps: variables and metrics, and the compiled text."""
  mesh, problem = _mesh(shape), _problem(micro_batch)
  params = _placed(mesh, problem.params)
  everywhere, cut = partition.replicated(mesh), partition.batch_sharding(mesh)
  step = search_lib.make_step(problem)
  state = jax.device_put(search_lib.first_state(problem), everywhere)
  leaves, tree = jax.tree.flatten(state)

  def flat(leaves, *given):  # the type checker cannot look into a lowered one
    after, metrics = step(tree.unflatten(leaves), *given)
    return jax.tree.leaves(after), metrics

  rest = (params, jax.random.key(0), 8.0, 0.5, 0.5)
  rest += (np.zeros(len(problem.space.sites), np.float32),)
  with jax.set_mesh(mesh):
    batch = jax.device_put(search_test._batch(), cut)
    program = jax.jit(flat, out_shardings=everywhere)
    program = program.lower(leaves, batch, *rest).compile()
    for seed in range(2):
      batch = jax.device_put(search_test._batch(seed), cut)
      leaves, metrics = program(leaves, batch, *rest)
  variables = tree.unflatten(leaves).variables
  return jax.device_get((variables, metrics)), program.as_text()


@pytest.mark.slow
@pytest.mark.parametrize(
  ("shape", "micro_batch"),
  [
    pytest.param(MESHES[0], 0, marks=pytest.mark.full),
    pytest.param(MESHES[1], 0, marks=pytest.mark.full),
    (MESHES[2], 0),
    pytest.param(MESHES[2], 4, marks=pytest.mark.full),
  ],
)
def test_a_search_step_is_that_of_one_device(shape, micro_batch):
  want, got = _searched(None, micro_batch), _searched(shape, micro_batch)
  # Sums run in another order.
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(b, a, rtol=2e-3, atol=2e-5),
    want[0],
    got[0],
  )


@pytest.mark.slow
@pytest.mark.parametrize("shape", MESHES[1:])
def test_no_stack_of_frozen_weights_is_gathered(shape):
  """A device has the whole of one layer at a time, within that layer."""
  blocks = _problem().params["decoder"]["blocks"]
  whole = {
    leaf.shape for leaf in jax.tree.leaves(blocks) if len(leaf.shape) == 3
  }
  gathered = re.findall(
    r"= \(?\w+\[([\d,]+)\][^=]* all-gather(?:-start)?\(", _searched(shape)[1]
  )
  shapes = {tuple(map(int, found.split(","))) for found in gathered}
  assert shapes, "nothing is gathered: weights are not cut"
  assert not shapes & whole
  # Nor in another order of its axes.
  stacked = {math.prod(found) for found in whole}
  long = [s for s in shapes if CFG.decoder.layers in s]
  assert not [s for s in long if math.prod(s) in stacked]


@functools.cache
def _answered(shape):
  """Tokens and logits of generation under a plan, in a batch of eight."""
  mesh = _mesh(shape)
  # Under seed 0 the attention of two tokens differs in the last digits alone,
  # and ranks decide.
  params = _placed(mesh, small.params(CFG, seed=1))
  cut = partition.batch_sharding(mesh)
  image = jax.device_put(small.pictures(8), cut)
  text = jax.device_put(small.text(8), cut)

  @jax.jit
  def answer(params, image, text):
    seen = models.see(CFG, params, image, PLAN)
    out = models.answer(CFG, params, seen, text, PLAN, steps=4, stop=())
    return out.ids

  @jax.jit
  def logits(params, image, text):
    return models.apply(CFG, params, image, text, PLAN).logits

  with jax.set_mesh(mesh):
    given = params, image, text
    return jax.device_get((answer(*given), logits(*given)))


@pytest.mark.full
@pytest.mark.parametrize("shape", MESHES)
def test_evaluation_and_generation_are_those_of_one_device(shape):
  want, got = _answered(None), _answered(shape)
  np.testing.assert_array_equal(got[0], want[0])
  worst = np.abs(got[1] - want[1]).max()
  assert worst < 2e-4 * np.abs(want[1]).max()


def _public():
  """Configs of every family at full size, by name."""
  found = {
    name: families.describe(model.config).cfg
    for name, model in public_configs.MODELS.items()
  }
  return found | {"llava_1_5_7b": models.llava_1_5_7b()}


def _specs(cfg):
  found = {}
  for name, leaf, spec in partition.with_specs(loading.shapes(cfg)):
    cut = [axis or "-" for axis in spec]
    found[name] = (
      f"{'x'.join(map(str, leaf.shape))}: {' '.join(cut) or 'whole'}"
    )
  return found


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(_public()))
def test_specs_of_families_stay_as_they_are(name):
  """Write them anew, when they are meant to change: `python -m THIS_MODULE`."""
  want = json.loads(SPECS.read_text(encoding="utf-8"))
  assert _specs(_public()[name]) == want[name]
  # Nearly all of a model is cut.
  leaves = list(partition.with_specs(loading.shapes(_public()[name])))
  cut = sum(leaf.size for _, leaf, spec in leaves if "fsdp" in spec)
  assert cut > 0.95 * sum(leaf.size for _, leaf, _ in leaves)


@pytest.mark.parametrize("name", sorted(_public()))
@pytest.mark.parametrize("count", [1, 2, 4, 6, 8, 16, 32])
def test_the_default_mesh_fits_every_family(name, count):
  shapes = loading.shapes(_public()[name])
  data, fsdp, tensor = partition.default_shape(count, shapes)
  assert data * fsdp * tensor == count
  for _, leaf, spec in partition.with_specs(shapes):
    for axis, cut in enumerate(spec):
      assert cut != "fsdp" or leaf.shape[axis] % fsdp == 0
  if count in (2, 4, 8):
    assert fsdp == count


if __name__ == "__main__":
  value = {name: _specs(cfg) for name, cfg in sorted(_public().items())}
  SPECS.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")
