"""What models take, by hand, and what is said of those that do not fit."""

import types

import jax
import numpy as np
import pytest

from eos_jax.models import families, fits, partition
from tests.models import checkpoints

_7B = families.describe(checkpoints.PUBLIC_7B)

# Of LLaVA-1.5-7B: what is cut along fsdp and tensor, and along fsdp alone.
_BLOCKS = 32 * (4 * 4096**2 + 3 * 4096 * 11_008) + 23 * (
  4 * 1024**2 + 2 * 1024 * 4096
)
_EMBED_AND_HEAD = 2 * 32_064 * 4096
_TOTAL = 7_050_828_800  # less than stored: one vision layer is not run


def _need(dtype="bfloat16", mesh=(1, 4, 2), **more):
  return fits.measure(_7B, dtype, partition.make_mesh(mesh), **more)


def _room(free, host=2**40):
  return fits.Room("TPU v5 lite", free, host)


@pytest.mark.parametrize("dtype, size", [("bfloat16", 2), ("float32", 4)])
def test_bytes_under_a_mesh_are_those_of_the_parts(dtype, size):
  need = _need(dtype)
  assert (need.name, need.family, need.dtype) == (
    "llava_1_5_7b",
    "llava_1_5",
    dtype,
  )
  assert sum(need.parameters.values()) == _TOTAL
  assert list(need.parameters) == ["decoder", "projector", "vision"]
  assert need.total == size * _TOTAL
  whole = _TOTAL - _BLOCKS - _EMBED_AND_HEAD
  assert need.held == size * (_BLOCKS // 8 + _EMBED_AND_HEAD // 4 + whole)


def test_copies_are_held_whole():
  need = _need(mesh=(8, 1, 1))
  assert need.held == need.total == need.device


def test_a_mesh_that_does_not_divide_a_model_is_refused():
  mesh = jax.sharding.Mesh(
    np.array(jax.devices()[:7]).reshape(1, 7, 1), partition.AXES
  )
  with pytest.raises(ValueError, match="cannot be sharded over the mesh"):
    fits.measure(_7B, "bfloat16", mesh)


def test_the_report_of_a_model_that_fits():
  need = _need(besides={"a batch": 3 * 2**29}, host=5 * 2**20)
  assert fits.report(need, _room(15 * 2**30, 2**35)).splitlines() == [
    "model llava_1_5_7b of the family llava_1_5",
    "parameters: 7,050,828,800 (decoder 6,738.9 M, projector 21.0 M, vision"
    " 290.9 M), in bfloat16 13.1 GiB",
    "mesh: data 1, fsdp 4, tensor 2; a device holds 1.7 GiB of parameters, a"
    " batch 1.5 GiB",
    "memory: 15.0 GiB of each TPU v5 lite and 32.0 GiB of the host are free;"
    " fits",
  ]
  fits.check(need, _room(need.device))


def test_what_does_not_fit_is_refused_with_what_to_try():
  need = _need("float32", (8, 1, 1), besides={"a batch": 2**30})
  assert fits.report(need, _room(2**34)).endswith("; does not fit")
  with pytest.raises(fits.TooLarge) as error:
    fits.check(need, _room(2**34))
  assert str(error.value) == (
    "llava_1_5_7b in float32 does not fit: each device needs 27.3 GiB"
    " (parameters 26.3 GiB, a batch 1.0 GiB); 16.0 GiB of each TPU v5 lite and"
    " 1024.0 GiB of the host are free. Try config.model.dtype='bfloat16', or"
    " config.mesh=(1, 8, 1), which cuts parameters along the axis fsdp instead"
    " of copying them, or more devices along the axis fsdp of config.mesh"
  )
  need = _need()
  with pytest.raises(fits.TooLarge) as error:
    fits.check(need, _room(need.device - 1))
  assert str(error.value).endswith(
    " are free. Try more devices along the axis fsdp of config.mesh"
  )


def test_devices_that_share_the_hosts_memory_need_it_together():
  need = _need(mesh=(8, 1, 1), host=2**30)
  enough = 8 * need.held + 2**30
  fits.check(need, fits.Room("cpu", enough, enough, sharing=8))
  short = enough - 1
  with pytest.raises(fits.TooLarge) as error:
    fits.check(need, fits.Room("cpu", short, short, sharing=8))
  assert str(error.value) == (
    "llava_1_5_7b in bfloat16 does not fit: each device needs 13.1 GiB"
    " (parameters 13.1 GiB), all 8 of them 105.1 GiB, and the host 1.0 GiB"
    " more; 106.1 GiB of the host's memory are free. Try config.mesh=(1, 8,"
    " 1), which cuts parameters along the axis fsdp instead of copying them,"
    " or a machine with more memory"
  )


def test_a_host_that_is_too_small_for_one_tensor_is_refused():
  need = _need(host=2**30)
  with pytest.raises(fits.TooLarge, match="and the host 1.0 GiB; "):
    fits.check(need, _room(2**40, 2**29))


def test_nothing_is_refused_where_devices_do_not_say_what_they_have():
  need = _need()
  fits.check(need, _room(None))
  assert fits.report(need, _room(None)).endswith(
    "memory: TPU v5 lite does not say how much it has and 1024.0 GiB of the"
    " host; unknown"
  )


def test_the_room_of_a_cpu_is_the_hosts():
  room = fits.room()
  assert room.sharing == jax.local_device_count() == 8
  assert room.free == room.host > 2**20


def test_the_room_of_accelerators_is_that_of_the_fullest(monkeypatch):
  def devices(*stats):
    return lambda: [
      types.SimpleNamespace(
        platform="gpu", device_kind="H100", memory_stats=lambda s=s: s
      )
      for s in stats
    ]

  one = {"bytes_limit": 100, "bytes_in_use": 30}
  other = {"bytes_limit": 100, "bytes_in_use": 40}
  monkeypatch.setattr(jax, "local_devices", devices(one, other))
  found = fits.room()
  assert (found.kind, found.free, found.sharing) == ("H100", 60, 0)
  for nothing in (None, {}):
    monkeypatch.setattr(jax, "local_devices", devices(one, nothing))
    assert fits.room().free is None
