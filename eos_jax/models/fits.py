"""What the parameters of a model take, and whether there is room for them.

From shapes and shardings alone: nothing is allocated.
"""

from collections.abc import Mapping
import dataclasses
import math
import os
import pathlib
from typing import Any

import jax
import jax.numpy as jnp

from eos_jax.models import loading, partition


class TooLarge(ValueError):
  """A model that there is no room for."""


@dataclasses.dataclass(frozen=True)
class Need:
  """What a model takes on the devices of a mesh.

  Attributes:
    name: of the model.
    family: that it belongs to.
    parameters: their number, by part of the model.
    dtype: of all of them.
    total: bytes of the parameters, each counted once.
    held: bytes of the parameters on each device.
    mesh: devices along each axis.
    besides: further bytes on each device, by what they are for.
    host: bytes of the host that none of this counts.
  """

  name: str
  family: str
  parameters: Mapping[str, int]
  dtype: str
  total: int
  held: int
  mesh: Mapping[str, int]
  besides: Mapping[str, int]
  host: int

  @property
  def device(self) -> int:
    """Bytes on each device."""
    return self.held + sum(self.besides.values())


@dataclasses.dataclass(frozen=True)
class Room:
  """Free memory of the devices of this process.

  Attributes:
    kind: of device.
    free: bytes of the one with the least; None = they do not say.
    host: free bytes of the host.
    sharing: number of devices whose memory is the host's; 0 = theirs is not.
  """

  kind: str
  free: int | None
  host: int
  sharing: int = 0


def held_bytes(params: Any, shardings: Any) -> int:
  """Bytes that each device holds of arrays, or of shapes, under shardings."""
  leaves = zip(jax.tree.leaves(params), jax.tree.leaves(shardings), strict=True)
  return sum(
    math.prod(sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
    for leaf, sharding in leaves
  )


def measure(
  model: Any,
  dtype: Any,
  mesh: jax.sharding.Mesh,
  *,
  besides: Mapping[str, int] | None = None,
  host: int = 0,
) -> Need:
  """What a published model takes, cut over a mesh by `partition.RULES`.

  Args:
    model: `ModelFiles`, or a family's description: it has cfg and family.
    dtype: of all parameters.
    mesh: from `partition.make_mesh`.
    besides: further bytes on each device, by what they are for.
    host: bytes that the host needs besides, such as for a tensor on its way.

  Raises:
    ValueError: the mesh does not divide a parameter.
  """
  shapes = jax.tree.map(
    lambda leaf: jax.ShapeDtypeStruct(leaf.shape, dtype),
    loading.shapes(model.cfg),
  )
  return Need(
    name=model.cfg.name,
    family=model.family,
    parameters={
      part: sum(leaf.size for leaf in jax.tree.leaves(tree))
      for part, tree in sorted(shapes.items())
    },
    dtype=jnp.dtype(dtype).name,
    total=sum(
      leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(shapes)
    ),
    held=held_bytes(shapes, partition.param_shardings(mesh, shapes)),
    mesh=dict(mesh.shape),
    besides=dict(besides or {}),
    host=host,
  )


def room() -> Room:
  """What is free on the devices of this process now."""
  devices = jax.local_devices()
  kind, host = devices[0].device_kind, _host_bytes()
  if devices[0].platform == "cpu":
    return Room(kind, host, host, sharing=len(devices))
  free = []
  for device in devices:
    stats = device.memory_stats() or {}
    if "bytes_limit" in stats:
      free.append(stats["bytes_limit"] - stats["bytes_in_use"])
  return Room(kind, min(free) if len(free) == len(devices) else None, host)


def report(need: Need, room: Room) -> str:
  """Both in words, and whether one goes into the other: four lines."""
  parts = ", ".join(
    f"{part} {_count(number)}" for part, number in need.parameters.items()
  )
  axes = ", ".join(f"{name} {size}" for name, size in need.mesh.items())
  verdict = {True: "fits", False: "does not fit", None: "unknown"}
  return "\n".join(
    [
      f"model {need.name} of the family {need.family}",
      f"parameters: {sum(need.parameters.values()):,} ({parts}), in"
      f" {need.dtype} {in_words(need.total)}",
      f"mesh: {axes}; a device holds {in_words(need.held)} of parameters"
      + _besides(need),
      f"memory: {_memory(room)}; {verdict[_fits(need, room)]}",
    ]
  )


def check(need: Need, room: Room) -> None:
  """Refuses a model that there is no room for.

  Where devices do not say how much they have, nothing is refused.

  Raises:
    TooLarge: with the numbers, and what to try.
  """
  if _fits(need, room) is not False:
    return
  wants = (
    f"each device needs {in_words(need.device)} (parameters"
    f" {in_words(need.held)}{_besides(need)})"
  )
  if room.sharing > 1:
    wants += (
      f", all {room.sharing} of them {in_words(need.device * room.sharing)}"
    )
  if need.host:
    wants += f", and the host {in_words(need.host)}"
    wants += " more" if room.sharing else ""
  raise TooLarge(
    f"{need.name} in {need.dtype} does not fit: {wants}; {_memory(room)}. Try"
    f" {', or '.join(_remedies(need, room))}"
  )


def in_words(size: int) -> str:
  """Bytes with the unit that suits them."""
  for unit, name in ((2**30, "GiB"), (2**20, "MiB")):
    if size >= unit:
      return f"{size / unit:.1f} {name}"
  return f"{size / 2**10:.1f} KiB"


def _besides(need):
  return "".join(
    f", {name} {in_words(size)}" for name, size in need.besides.items()
  )


def _fits(need, room):
  """True, False, or None where it is not known."""
  if room.sharing:
    return need.device * room.sharing + need.host <= room.host
  if need.host > room.host:
    return False
  return None if room.free is None else need.device <= room.free


def _remedies(need, room):
  """What to try, the cheapest first."""
  found = []
  if jnp.dtype(need.dtype).itemsize > 2:
    found.append("config.model.dtype='bfloat16'")
  devices = math.prod(need.mesh.values())
  if need.mesh["data"] > 1:
    found.append(
      f"config.mesh=(1, {devices}, 1), which cuts parameters along the axis"
      " fsdp instead of copying them"
    )
  if room.sharing:
    found.append("a machine with more memory")
  else:
    found.append("more devices along the axis fsdp of config.mesh")
  return found


def _memory(room):
  if room.sharing:
    return f"{in_words(room.host)} of the host's memory are free"
  host = f" and {in_words(room.host)} of the host" if room.host else ""
  if room.free is None:
    return f"{room.kind} does not say how much it has{host}"
  return f"{in_words(room.free)} of each {room.kind}{host} are free"


def _count(number):
  return f"{number / 1e6:,.1f} M" if number >= 1e5 else f"{number:,}"


def _host_bytes():
  # What programs may take without swapping: more than what lies idle.
  known = pathlib.Path("/proc/meminfo")
  if known.exists():
    for line in known.read_text(encoding="utf-8").splitlines():
      if line.startswith("MemAvailable:"):
        return 1024 * int(line.split()[1])
  return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
