"""FLOPs of the matrix products in a traced function, exactly."""

import math
from typing import Any

import jax


def function_flops(function: Any, *args: Any) -> int:
  """2 m n k of every `dot_general` that a call runs, loops multiplied out.

  Args:
    function: pure.
    args: arrays, or their shapes.

  Raises:
    ValueError: as by `product_flops`.
  """
  return product_flops(jax.make_jaxpr(function)(*args).jaxpr)


def product_flops(jaxpr: Any, *, loops: int | None = None) -> int:
  """The same of a jaxpr: what a program computes, before XLA rewrites it.

  Args:
    jaxpr: of the program.
    loops: how often loops run whose length is not known.

  Raises:
    ValueError: a loop that runs an unknown number of times has products.
  """
  total = 0
  for equation in jaxpr.eqns:
    if equation.primitive.name == "dot_general":
      (contracted, _), _ = equation.params["dimension_numbers"]
      left = equation.invars[0].aval.shape
      depth = math.prod(left[axis] for axis in contracted)
      total += 2 * depth * math.prod(equation.outvars[0].aval.shape)
      continue
    parts = _parts(equation)
    inner = sum(product_flops(part, loops=loops) for part in parts)
    if equation.primitive.name == "scan":
      inner *= equation.params["length"]
    elif equation.primitive.name == "while" and inner:
      if loops is None:
        raise ValueError("how often a loop with products runs is not known")
      inner *= loops
    total += inner
  return total


def _parts(equation):
  """Jaxprs inside an equation."""
  for value in equation.params.values():
    for part in value if isinstance(value, list | tuple) else (value,):
      part = getattr(part, "jaxpr", part)
      if hasattr(part, "eqns"):
        yield part
