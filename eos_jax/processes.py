"""Several processes on one job, by JAX's multi-controller runtime.

Every process runs the same program in the same order; together their devices
are one mesh. Each reads its own share of the training data, and all write the
same books: those of process 0 are the run's, the others' are dropped at the
end. With one process nothing here costs anything.
"""

from collections.abc import Iterator
import contextlib
import itertools
import pathlib
import re
import shutil
import socket
import tempfile
from typing import Any

import jax
from jax.experimental import multihost_utils
import numpy as np

# Numbers of stopping points outside of a loop of steps, after all of those.
_POINTS = itertools.count(10**9)
# What is not in the books of the other processes: Orbax writes checkpoints and
# weights from all of them, the rest is only looked at.
_SHARED = ("checkpoints", "checkpoints.damaged", "weights")
_LEFT_OUT = (*_SHARED, "tensorboard", ".lock")
# HOST:PORT; an IPv6 address has brackets.
_ADDRESS = re.compile(
  r"([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+(?:%\w+)?\]):([0-9]{1,5})", re.ASCII
)
_MOST_PROCESSES = 2**16


class LaunchError(RuntimeError):
  """The processes that there are are not those that were announced."""


class Interrupted(BaseException):
  """The run was asked to stop; what it has done is kept.

  No `Exception`: nothing on its way up may take it for a failure.
  """


def start(
  *,
  coordinator: str = "",
  index: int = -1,
  count: int = 0,
  found: bool = False,
  devices: int = 0,
) -> None:
  """Joins the other processes. Before anything asks JAX for its devices.

  Args:
    coordinator: HOST:PORT of process 0, with `index` and `count`; "" = none.
    index: number of this process.
    count: how many there are; 0 = not announced.
    found: let JAX find out from its surroundings (Cloud TPU, GKE, Slurm, MPI).
    devices: that all have together; 0 = not announced.

  Raises:
    LaunchError: the processes cannot be joined, or there are other numbers of
      processes or devices.
  """
  if faults := _faults(coordinator, index, count, found):
    raise LaunchError("; ".join(faults))
  try:
    if coordinator:
      jax.distributed.initialize(coordinator, count, index)
    elif found:
      jax.distributed.initialize()
  except (RuntimeError, ValueError) as error:
    given = f"--coordinator={coordinator}" if coordinator else "--distributed"
    reason = " ".join(str(error).split())
    raise LaunchError(
      f"{given}: the processes cannot be joined ({reason}); give HOST:PORT of"
      " process 0, with a port that is free there, or --distributed where Cloud"
      " TPU, GKE, Slurm or MPI started them"
    ) from error
  announced = {
    "process_count": (count, jax.process_count()),
    "device_count": (devices, jax.device_count()),
  }
  wrong = [
    f"--{name}={said}, but there are {there}"
    for name, (said, there) in announced.items()
    if said and said != there
  ]
  if wrong:
    raise LaunchError(
      f"process {jax.process_index()}: {'; '.join(wrong)}. Start every process"
      " of the job, each with the same numbers, or correct them"
    )


def _faults(coordinator, index, count, found):
  """What is wrong with where the other processes are said to be, in words."""
  if not coordinator:
    if index != -1:
      return [
        f"--process_index={index} needs --coordinator=HOST:PORT of process 0"
      ]
    return []
  faults = []
  if found:
    faults.append("--coordinator and --distributed exclude each other")
  fault = _address_fault(coordinator)
  if not fault and index == 0:
    fault = _port_fault(int(coordinator.rpartition(":")[2]))
  if fault:
    faults.append(f"--coordinator={coordinator!a} {fault}")
  if not 1 <= count <= _MOST_PROCESSES or not 0 <= index < count:
    most = min(max(count, 1), _MOST_PROCESSES) - 1
    faults.append(
      f"--coordinator={coordinator!a} needs --process_count, 1 to"
      f" {_MOST_PROCESSES}, got {count}, and a --process_index in"
      f" 0..{most}, got {index}"
    )
  return faults


def _address_fault(address):
  """Why an address is none that JAX can connect to; it would hang or crash."""
  parts = _ADDRESS.fullmatch(address)
  if not parts or not 1 <= int(parts[2]) <= 65535:
    return (
      "is not HOST:PORT with a port in 1..65535, such as 10.0.0.2:1234 or"
      " [fd00::2]:1234"
    )
  try:
    socket.getaddrinfo(parts[1].strip("[]"), int(parts[2]))
  except (OSError, UnicodeError) as error:
    return f"names a host that cannot be resolved ({error})"
  return ""


def _port_fault(port):
  """Why process 0 cannot listen on a port; JAX would crash there."""
  family = socket.AF_INET6 if socket.has_dualstack_ipv6() else socket.AF_INET
  with socket.socket(family) as listener:
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
      listener.bind(("", port))
    except OSError as error:
      return f"names a port that process 0 cannot listen on ({error.strerror})"
  return ""


def first() -> bool:
  """Whether this is the process whose files are the run's."""
  return jax.process_index() == 0


def several() -> bool:
  """Whether there are more processes than this one."""
  return jax.process_count() > 1


def meet(name: str) -> None:
  """Waits until all processes are here; `name` must be the same in all."""
  if several():
    multihost_utils.sync_global_devices(name)


def stopping(step: int | None = None) -> bool:
  """Whether all processes stop here, since one of them was told to.

  All have to ask at the same points. One process alone has handlers of its own
  for signals, see `training.loop`.

  Args:
    step: number of the point, rising; None = outside of a loop of steps.
  """
  if not several():
    return False
  if step is None:
    step = next(_POINTS)
  return multihost_utils.reached_preemption_sync_point(step)


def check_stop() -> None:
  """Raises `Interrupted` in all processes where one was told to stop."""
  if stopping():
    raise Interrupted(
      "stopped by SIGTERM; what is finished is kept, run the same command again"
      " to go on"
    )


def share(batch: int) -> dict[str, int]:
  """This process's part of a stream: keyword arguments of the data loaders.

  Args:
    batch: examples of all processes together.

  Raises:
    ValueError: the batch cannot be cut evenly.
  """
  count = jax.process_count()
  if batch % count:
    raise ValueError(
      f"batch size {batch} cannot be cut over {count} processes; use a multiple"
      f" of {count}"
    )
  return {
    "batch": batch // count,
    "process_index": jax.process_index(),
    "process_count": count,
  }


def place_share(tree: Any, sharding: jax.sharding.NamedSharding) -> Any:
  """Arrays of which every process has its own rows, as arrays of all.

  Args:
    tree: of arrays `[B / processes, ...]`, see `share`.
    sharding: of arrays `[B, ...]`, cut along the first axis.

  Raises:
    ValueError: devices of several processes would hold the same rows.
  """
  if not several():
    return jax.device_put(tree, sharding)

  def whole(local):
    shape = (local.shape[0] * jax.process_count(), *local.shape[1:])
    rows = sharding.addressable_devices_indices_map(shape).values()
    # An axis that is not cut has None for both ends.
    held = {index[0].indices(shape[0])[:2] for index in rows}
    if sum(stop - start for start, stop in held) != local.shape[0]:
      raise ValueError(
        f"a batch of {shape[0]} rows is not cut between the"
        f" {jax.process_count()} processes on the mesh"
        f" {dict(sharding.mesh.shape)}: keep the tensor axis within the devices"
        " of one process"
      )
    return jax.make_array_from_process_local_data(sharding, local, shape)

  return jax.tree.map(whole, tree)


def place(tree: Any, shardings: Any) -> Any:
  """Arrays that are the same in every process, on the devices of all.

  Args:
    tree: of arrays and typed keys.
    shardings: one, or a tree of them.
  """
  if not several():
    return jax.device_put(tree, shardings)

  def whole(leaf, sharding):
    if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
      return jax.random.wrap_key_data(
        whole(jax.random.key_data(leaf), sharding)
      )
    if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
      return jax.device_put(leaf, sharding)  # it lies on all devices already
    values = np.asarray(leaf)
    return jax.make_array_from_callback(
      values.shape, sharding, lambda index: values[index]
    )

  if isinstance(shardings, jax.sharding.Sharding):
    return jax.tree.map(lambda leaf: whole(leaf, shardings), tree)
  return jax.tree.map(whole, tree, shardings)


def fetch(tree: Any) -> Any:
  """Arrays of all devices as NumPy's, in every process."""
  if not several():
    return jax.tree.map(np.asarray, tree)
  return jax.tree.map(
    lambda x: multihost_utils.process_allgather(x, tiled=True), tree
  )


@contextlib.contextmanager
def books(
  path: pathlib.Path, opened: contextlib.AbstractContextManager[Any]
) -> Iterator[pathlib.Path]:
  """The directory that this process writes a run to.

  Process 0 opens the run's own. The others begin with a copy of what is in it,
  so that all resume at the same place, and drop theirs at the end; checkpoints
  are shared.

  Args:
    path: the directory of the run, which all processes see.
    opened: makes it the run's own; entered by process 0 alone.
  """
  if first():
    with opened:
      if several():
        (path / "checkpoints").mkdir(exist_ok=True)
      meet("opened")
      meet("copied")
      yield path
    return
  meet("opened")
  if not (path / "run.json").exists():
    raise LaunchError(
      f"process {jax.process_index()} does not see {path}/run.json, which"
      " process 0 has written; give a --workdir on storage that all share"
    )
  with tempfile.TemporaryDirectory(prefix="eos_jax_") as scratch:
    folder = pathlib.Path(scratch) / path.name
    shutil.copytree(path, folder, ignore=shutil.ignore_patterns(*_LEFT_OUT))
    for name in _SHARED:
      (folder / name).symlink_to(path / name)
    meet("copied")
    yield folder
