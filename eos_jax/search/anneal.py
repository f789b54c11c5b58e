"""Schedules for temperatures, and for limits that tighten during a search."""

import jax.numpy as jnp

from eos_jax.array_typing import Array, Float, Scalar


def geometric(
  step: Scalar, *, start: float, end: float, steps: int
) -> Float[Array, ""]:
  """Moves from `start` to `end` in equal ratios, then stays.

  Args:
    step: current step, may be traced.
    start: positive value at step 0.
    end: positive value from step `steps` on.
    steps: length of the schedule, at least 1.

  Returns:
    A float32 scalar.

  >>> [float(geometric(i, start=4.0, end=1.0, steps=2)) for i in (0, 1, 2, 9)]
  [4.0, 2.0, 1.0, 1.0]
  """
  if start <= 0 or end <= 0:
    raise ValueError(f"start={start} and end={end} must be positive.")
  if steps < 1:
    raise ValueError(f"steps={steps} must be at least 1.")
  done = jnp.clip(jnp.asarray(step, jnp.float32) / steps, 0.0, 1.0)
  return jnp.float32(start) * jnp.float32(end / start) ** done
