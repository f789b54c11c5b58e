"""Devices as a mesh, and where every array lives on it.

`pjit` is `jax.jit` with shardings today; that is what the loops use.
"""

import math
import re
from typing import Any

import jax
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
    ValueError: the shape does not use every device.
  """
  count = jax.device_count()
  shape = shape or default_shape(count, params)
  if math.prod(shape) != count:
    raise ValueError(
      f"mesh shape {dict(zip(AXES, shape, strict=True))} needs"
      f" {math.prod(shape)} devices, but {count} are present; let the product"
      " of the axes be the number of devices."
    )
  # Auto axes: explicit ones, JAX's default, reject Linen's parameter gathers.
  kinds = (jax.sharding.AxisType.Auto,) * len(AXES)
  return jax.make_mesh(shape, AXES, axis_types=kinds)


def default_shape(count: int, params: Any = None) -> tuple[int, int, int]:
  """Devices along data, fsdp and tensor; see `make_mesh`.

  >>> default_shape(6)
  (6, 1, 1)
  """
  if params is None:
    return count, 1, 1
  sizes = [
    leaf.shape[axis]
    for _, leaf, spec in _with_specs(params)
    for axis, names in enumerate(spec)
    if names == "fsdp"
  ]
  fsdp = math.gcd(count, *sizes)
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
  for name, leaf, spec in _with_specs(params):
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


def _with_specs(params):
  """Yields (path, leaf, spec) of parameters, in the order of the tree."""
  for path, leaf in jax.tree_util.tree_flatten_with_path(params)[0]:
    name = ".".join(str(getattr(entry, "key", entry)) for entry in path)
    yield (
      name,
      leaf,
      next(spec for pattern, spec in RULES if re.search(pattern, name)),
    )
