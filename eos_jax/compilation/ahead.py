"""Programs for TPUs that are not here: compiled, and what they would take.

The compiler of the `tpu` extra needs no TPU. What it says of memory is what a
chip would hold; times are bounds by the rates of the chip (a roofline), not
measurements.
"""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import os
import time
from typing import Any

import jax

from eos_jax import cost, models
from eos_jax.compilation import hlo
from eos_jax.models import partition

# Programs are not meant to fill a chip to the last byte.
_USABLE = 0.95


class NoCompiler(ValueError):
  """There is no compiler for TPUs, or it does not know a topology."""


@dataclasses.dataclass(frozen=True)
class Chips:
  """Chips of a topology as a mesh.

  Attributes:
    topology: its name, such as "v5e:4x4".
    device: what a chip can do.
    mesh: over all of them.
  """

  topology: str
  device: cost.Device
  mesh: jax.sharding.Mesh

  @property
  def count(self) -> int:
    """Number of chips."""
    return self.mesh.size


@dataclasses.dataclass(frozen=True)
class Program:
  """What a compiled program takes on each chip, in one run.

  Attributes:
    name: of the program.
    topology: that it is compiled for.
    device: name of the chip, of `cost.DEVICES`.
    mesh: devices along each axis.
    parameter_bytes: of the model's parameters.
    argument_bytes: of all that it is given, parameters included.
    temporary_bytes: that it needs besides while it runs.
    peak_bytes: of all at once, results included.
    memory_bytes: that a chip has.
    flops: of its products, all devices' cut evenly.
    moved_bytes: to and from main memory, see `hlo.Traffic`.
    collectives: by kind the number of runs, and bytes of their results.
    compile_seconds: that compiling took.
    seconds: least times by what binds: "arithmetic", "memory", "network".
  """

  name: str
  topology: str
  device: str
  mesh: Mapping[str, int]
  parameter_bytes: int
  argument_bytes: int
  temporary_bytes: int
  peak_bytes: int
  memory_bytes: int
  flops: float
  moved_bytes: int
  collectives: Mapping[str, tuple[int, int]]
  compile_seconds: float
  seconds: Mapping[str, float]

  @property
  def fits(self) -> bool:
    """Whether a chip has room for it."""
    return self.peak_bytes <= _USABLE * self.memory_bytes

  @property
  def bound(self) -> str:
    """What takes the longest."""
    return max(self.seconds, key=self.seconds.__getitem__)

  @property
  def utilisation(self) -> float:
    """Share of the peak rate if what binds takes its least time."""
    return self.seconds["arithmetic"] / self.seconds[self.bound]


def chips(topology: str, shape: Sequence[int], params: Any) -> Chips:
  """The chips of a topology.

  Args:
    topology: such as "v5e:4x4"; "v5e:4x4*2" are two slices of it.
    shape: devices along data, fsdp and tensor; () = as many along fsdp as the
      parameters allow, see `partition.make_mesh`.
    params: shapes of the model's parameters.

  Raises:
    NoCompiler: the `tpu` extra is not installed, or the name is not known.
    ValueError: the shape does not use every chip, or cuts a slice.
  """
  from jax.experimental import topologies

  # Otherwise the library asks the machine what TPU it is.
  os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
  # Compiling touches no device: other processes may do the same.
  os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
  name, _, slices = topology.partition("*")
  try:
    found = topologies.get_topology_desc(
      platform="tpu", topology_name=name, num_slices=int(slices or 1)
    )
  except Exception as error:  # nothing more specific is raised
    raise NoCompiler(
      f"the topology {topology!r} cannot be compiled for ({error}); expected a"
      " name such as v5e:4x4, v5p:2x2x2, v6e:2x4 or, for two slices, v5e:4x4*2,"
      " and the compiler: pip install -e '.[tpu]'"
    ) from error
  kind = found.devices[0].device_kind
  device = cost.device_of(kind)
  if device is None:
    raise NoCompiler(
      f"the chip {kind!r} of the topology {topology!r} is not one of"
      f" cost.DEVICES={sorted(cost.DEVICES)}; use a topology of one of them"
    )
  mesh = partition.mesh_of(found.devices, tuple(shape), params)
  return Chips(topology, device, mesh)


def abstract(tree: Any, shardings: Any) -> Any:
  """Arrays, or their shapes, as shapes on the devices of shardings."""
  return jax.tree.map(
    lambda leaf, sharding: jax.ShapeDtypeStruct(
      leaf.shape, leaf.dtype, sharding=sharding
    ),
    tree,
    shardings,
  )


def compiled(
  name: str,
  function: Callable[..., Any],
  args: Sequence[Any],
  where: Chips,
  *,
  parameter_bytes: int,
  dtype: str,
  donate: tuple[int, ...] = (),
  out: Any = None,
  loops: int | None = None,
) -> Program:
  """Compiles a pure function for chips, and reads what it takes.

  Args:
    name: of the program.
    function: pure, not jitted.
    args: trees of `jax.ShapeDtypeStruct` with shardings, from `abstract`.
    where: the chips.
    parameter_bytes: of the model on each chip.
    dtype: of its products, whose peak rate counts.
    donate: arguments whose memory results may take.
    out: shardings of the results, where the compiler shall not choose.
    loops: how often loops run whose length is not known, for the FLOPs.
  """
  options = {} if out is None else {"out_shardings": out}
  start = time.perf_counter()
  with (
    models.target.compiling_for("tpu", where.count),
    jax.set_mesh(where.mesh),
  ):
    jitted = jax.jit(function, donate_argnums=donate, **options)
    traced = jitted.trace(*args)
    flops = cost.product_flops(traced.jaxpr.jaxpr, loops=loops)
    try:
      made = traced.lower().compile()
    except jax.errors.JaxRuntimeError as error:
      if "RESOURCE_EXHAUSTED" not in str(error):
        raise
      said = str(error).splitlines()[0].partition("RESOURCE_EXHAUSTED: ")[2]
      raise ValueError(
        f"it does not fit a chip ({said}); try more chips, a smaller batch, a"
        " micro_batch, or remat='layers'"
      ) from error
  seconds = time.perf_counter() - start
  memory, text = made.memory_analysis(), made.as_text()
  read = hlo.traffic(text)
  peak = (
    memory.argument_size_in_bytes
    + memory.temp_size_in_bytes
    + memory.output_size_in_bytes
    - memory.alias_size_in_bytes
    + memory.generated_code_size_in_bytes
  )
  device, each = where.device, flops / where.count
  network = sum(size for _, size in read.collectives.values())
  return Program(
    name=name,
    topology=where.topology,
    device=device.name,
    mesh=dict(where.mesh.shape),
    parameter_bytes=parameter_bytes,
    argument_bytes=memory.argument_size_in_bytes,
    temporary_bytes=memory.temp_size_in_bytes,
    peak_bytes=peak,
    memory_bytes=device.memory_bytes,
    flops=each,
    moved_bytes=read.moved,
    collectives=read.collectives,
    compile_seconds=seconds,
    seconds={
      "arithmetic": each / device.peak(dtype),
      "memory": read.moved / device.bytes_per_second,
      "network": network / device.network_bytes_per_second,
    },
  )
