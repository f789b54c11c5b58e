"""FLOPs of the matrix products in a traced function, exactly."""

import math

import jax


def flops(function, *args) -> int:
  """2 m n k of every `dot_general` that a call runs, loops multiplied out."""
  return _flops(jax.make_jaxpr(function)(*args).jaxpr)


def _flops(jaxpr):
  total = 0
  for equation in jaxpr.eqns:
    if equation.primitive.name == "dot_general":
      (contracted, _), _ = equation.params["dimension_numbers"]
      left = equation.invars[0].aval.shape
      depth = math.prod(left[axis] for axis in contracted)
      total += 2 * depth * math.prod(equation.outvars[0].aval.shape)
      continue
    inner = sum(_flops(part) for part in _parts(equation))
    if equation.primitive.name == "scan":
      inner *= equation.params["length"]
    elif equation.primitive.name == "while":
      assert not inner, "how often this loop runs is not known"
    total += inner
  return total


def _parts(equation):
  """Jaxprs inside an equation."""
  for value in equation.params.values():
    for part in value if isinstance(value, list | tuple) else (value,):
      part = getattr(part, "jaxpr", part)
      if hasattr(part, "eqns"):
        yield part
