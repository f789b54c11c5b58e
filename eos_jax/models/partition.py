"""Devices as a mesh, and where every array lives on it.

`pjit` is `jax.jit` with shardings today; that is what the loops use.
"""

from collections.abc import Iterator, Sequence
import math
import re
from typing import Any

import jax
from jax.experimental import mesh_utils
from jax.sharding import NamedSharding, PartitionSpec

AXES = ("data", "fsdp", "tensor")

# Ordered: the first pattern found in a path decides. Stacked blocks have a
# leading layer axis, which is never cut.
RULES: tuple[tuple[str, PartitionSpec], ...] = (
  (
    r"blocks.*(q|k|v|gate|up|fc1)\.kernel$",
    PartitionSpec(None, "fsdp", "tensor"),
  ),
  (r"blocks.*(out|down|fc2)\.kernel$", PartitionSpec(None, "tensor", "fsdp")),
  (r"(embed|head\.out\.kernel)$", PartitionSpec(None, "fsdp")),
  (r".*", PartitionSpec()),
)


def make_mesh(
  shape: tuple[int, ...] = (), params: Any = None
) -> jax.sharding.Mesh:
  """A mesh over all devices with the axes data, fsdp, tensor.

  Args:
    shape: devices along each axis; () = chosen here.
    params: of a model that is too large to lie on every device as a whole: as
      many devices as its shapes allow are put on `fsdp`, the others on `data`.
      None = all on `data`.

  Raises:
    ValueError: the shape does not use every device, or cuts a slice.
  """
  return mesh_of(jax.devices(), shape, params)


def mesh_of(
  devices: Sequence[Any], shape: tuple[int, ...] = (), params: Any = None
) -> jax.sharding.Mesh:
  """A mesh over devices, which need not be of this machine; see `make_mesh`.

  Neighbours on the mesh are neighbours in the network. Slices, which only the
  data centre's network joins, are put along `data`, the axis that exchanges the
  least.
  """
  slices = len({getattr(device, "slice_index", None) for device in devices})
  shape = tuple(shape) or default_shape(len(devices), params, slices)
  said = f"mesh shape {dict(zip(AXES, shape, strict=True))}"
  if math.prod(shape) != len(devices):
    raise ValueError(
      f"{said} needs {math.prod(shape)} devices, but {len(devices)} are"
      " present; let the product of the axes be the number of devices."
    )
  if shape[0] % slices:
    raise ValueError(
      f"{said} cuts slices: devices of {slices} are present, which lie along"
      f" data; let that axis be a multiple of {slices}."
    )
  if slices > 1:
    placed = mesh_utils.create_hybrid_device_mesh(
      (shape[0] // slices, *shape[1:]), (slices, 1, 1), devices
    )
  else:
    placed = mesh_utils.create_device_mesh(shape, devices)
  # Auto axes: explicit ones, JAX's default, reject Linen's parameter gathers.
  kinds = (jax.sharding.AxisType.Auto,) * len(AXES)
  return jax.sharding.Mesh(placed, AXES, axis_types=kinds)


def default_shape(
  count: int, params: Any = None, slices: int = 1
) -> tuple[int, int, int]:
  """Devices along data, fsdp and tensor; see `make_mesh`.

  >>> default_shape(6)
  (6, 1, 1)
  """
  if params is None:
    return count, 1, 1
  sizes = [
    leaf.shape[axis]
    for _, leaf, spec in with_specs(params)
    for axis, names in enumerate(spec)
    if names == "fsdp"
  ]
  fsdp = math.gcd(count // slices, *sizes)
  return count // fsdp, fsdp, 1


def replicated(mesh: jax.sharding.Mesh) -> NamedSharding:
  """Every device holds the whole array."""
  return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: jax.sharding.Mesh) -> NamedSharding:
  """The leading axis is cut over data and fsdp."""
  return NamedSharding(mesh, PartitionSpec(("data", "fsdp")))


def check_batch(mesh: jax.sharding.Mesh, batch: int) -> None:
  """Refuses a batch that cannot be cut evenly.

  Raises:
    ValueError: with the numbers and the nearest size that works.
  """
  ways = mesh.shape["data"] * mesh.shape["fsdp"]
  if batch % ways:
    raise ValueError(
      f"batch size {batch} cannot be cut over data x fsdp = {ways} devices;"
      f" use a multiple of {ways}, for example {-(-batch // ways) * ways}."
    )


def param_shardings(mesh: jax.sharding.Mesh, params: Any) -> Any:
  """Shardings of model parameters by path.

  Args:
    mesh: from `make_mesh`.
    params: nested dict of arrays or shapes.

  Returns:
    A tree of `NamedSharding` of the same structure.

  Raises:
    ValueError: a spec does not divide a shape; all offenders are listed.
  """
  shardings, faults = [], []
  for name, leaf, spec in with_specs(params):
    if len(spec) > len(leaf.shape):
      faults.append(
        f"{name} {leaf.shape} has {len(leaf.shape)} axes, {spec} is for"
        f" {len(spec)}"
      )
      continue
    for axis, names in enumerate(spec):
      ways = mesh.shape[names] if names else 1
      if leaf.shape[axis] % ways:
        faults.append(
          f"{name} {leaf.shape} by {spec}: axis {axis} of {leaf.shape[axis]}"
          f" over {names!r} = {ways}; {math.gcd(leaf.shape[axis], ways)} would"
          " divide it"
        )
    shardings.append(NamedSharding(mesh, spec))
  if faults:
    raise ValueError(
      "these parameters cannot be sharded over the mesh"
      f" {dict(mesh.shape)}; choose axis sizes that divide them:\n  "
      + "\n  ".join(faults)
    )
  return jax.tree.unflatten(jax.tree.structure(params), shardings)


def with_specs(params: Any) -> Iterator[tuple[str, Any, PartitionSpec]]:
  """Yields (path, leaf, spec) of parameters, in the order of the tree."""
  for path, leaf in jax.tree_util.tree_flatten_with_path(params)[0]:
    name = ".".join(str(getattr(entry, "key", entry)) for entry in path)
    yield (
      name,
      leaf,
      next(spec for pattern, spec in RULES if re.search(pattern, name)),
    )
