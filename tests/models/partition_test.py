import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eos_jax import models
from eos_jax.models import partition
from tests.models import small


def test_default_mesh_puts_all_devices_on_data():
  mesh = partition.make_mesh()
  assert dict(mesh.shape) == {"data": 8, "fsdp": 1, "tensor": 1}


def test_mesh_that_leaves_devices_out_is_refused():
  with pytest.raises(ValueError, match="needs 4 devices, but 8 are present"):
    partition.make_mesh((2, 2, 1))


@dataclasses.dataclass(frozen=True)
class _Chip:
  """What a mesh looks at of a device of one of several slices."""

  id: int
  slice_index: int
  platform: str = "gpu"
  device_kind: str = "GPU"
  process_index: int = 0


def test_slices_lie_along_data():
  chips = [_Chip(i, i // 4) for i in range(8)]
  mesh = partition.mesh_of(chips, (2, 2, 2))
  for index, held in enumerate(mesh.devices):
    assert {chip.slice_index for chip in held.flat} == {index}
  mesh = partition.mesh_of(chips, (4, 1, 2))
  assert [row[0, 0].slice_index for row in mesh.devices] == [0, 0, 1, 1]
  params = {"blocks": {"q": {"kernel": jnp.zeros((2, 16, 4))}}}
  assert dict(partition.mesh_of(chips, (), params).shape) == {
    "data": 2,
    "fsdp": 4,
    "tensor": 1,
  }
  with pytest.raises(ValueError, match="let that axis be a multiple of 2"):
    partition.mesh_of(chips, (1, 8, 1))


def test_uneven_batch_is_refused_with_a_size_that_works():
  with pytest.raises(ValueError, match="multiple of 8, for example 16"):
    partition.check_batch(partition.make_mesh(), 12)


@pytest.mark.slow
def test_specs_of_the_model():
  mesh = partition.make_mesh((1, 2, 4))
  cfg = small.config(width=16, mlp=24, heads=4, kv_heads=4)
  tree = small.init(cfg, jax.random.key(0))
  specs = partition.param_shardings(mesh, tree)
  spec = jax.sharding.PartitionSpec
  blocks = specs["decoder"]["blocks"]
  assert blocks["q"]["kernel"].spec == spec(None, "fsdp", "tensor")
  assert blocks["down"]["kernel"].spec == spec(None, "tensor", "fsdp")
  assert specs["decoder"]["embed"].spec == spec(None, "fsdp")
  assert specs["decoder"]["norm"]["scale"].spec == spec()


def test_shapes_that_do_not_divide_are_all_listed():
  mesh = partition.make_mesh((1, 8, 1))
  tree = {"blocks": {"q": {"kernel": jnp.zeros((2, 12, 4))}}}
  with pytest.raises(
    ValueError, match=r"q.kernel \(2, 12, 4\) by .*: axis 1 of 12.*; 4 would"
  ):
    partition.param_shardings(mesh, tree)


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(8, 1, 1), (2, 2, 2), (1, 2, 4)])
def test_sharded_forward_equals_unsharded(shape):
  cfg = small.config()
  params, image, text = small.params(cfg), small.pictures(8), small.text(8)
  expected = small.apply(cfg, params, image, text).logits
  mesh = partition.make_mesh(shape)
  placed = jax.device_put(params, partition.param_shardings(mesh, params))
  cut = partition.batch_sharding(mesh)
  run = jax.jit(lambda p, i, t: models.apply(cfg, p, i, t).logits)
  got = run(placed, jax.device_put(image, cut), jax.device_put(text, cut))
  # Sums run in another order: 2e-4 of the largest logit.
  worst = np.abs(np.asarray(got) - np.asarray(expected)).max()
  assert worst < 2e-4 * np.abs(np.asarray(expected)).max()
