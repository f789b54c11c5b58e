"""What a program is compiled for: as a rule, the devices of this process.

Which form of a computation is the fastest depends on it: kernels of attention,
loops over layers. A program for devices that are not here, such as TPUs on a
machine without any, is traced under `compiling_for`.
"""

from collections.abc import Iterator
import contextlib
import contextvars

import jax

_CHOSEN: contextvars.ContextVar[tuple[str, int] | None] = (
  contextvars.ContextVar("target", default=None)
)


def platform() -> str:
  """Name of the JAX platform: "cpu", "gpu" or "tpu"."""
  chosen = _CHOSEN.get()
  return chosen[0] if chosen else jax.default_backend()


def devices() -> int:
  """Devices that one computation is spread over."""
  chosen = _CHOSEN.get()
  return chosen[1] if chosen else jax.device_count()


@contextlib.contextmanager
def compiling_for(name: str, count: int) -> Iterator[None]:
  """Within it, functions are traced for another platform.

  What `jax.jit` has traced before stays as it is: make functions anew.

  Args:
    name: of the platform.
    count: devices that one computation is spread over.
  """
  token = _CHOSEN.set((name, count))
  try:
    yield
  finally:
    _CHOSEN.reset(token)


def spread(x: jax.Array) -> jax.Array:
  """Rows of a batch `[B, ...]`, said to be cut over the mesh like the batch.

  Without it XLA may rather gather the rows of all devices than the weights of a
  layer. Acts where the axes of `models.partition` are those of the mesh that
  `jax.set_mesh` has set.
  """
  axes = tuple(
    name
    for name in ("data", "fsdp")
    if name in jax.sharding.get_abstract_mesh().axis_names
  )
  if not axes:
    return x
  return jax.lax.with_sharding_constraint(x, jax.sharding.PartitionSpec(axes))
