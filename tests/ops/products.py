"""The matrix products of a function, and how precise they are."""

import jax
import jax.extend

HIGHEST = (jax.lax.Precision.HIGHEST,) * 2


def precisions(jaxpr):
  """Precisions of all matrix products of a closed jaxpr."""
  return {each.params["precision"] for each in _products(jaxpr.jaxpr)}


def _products(jaxpr):
  """Matrix products of a jaxpr and of those inside it."""
  for equation in jaxpr.eqns:
    if equation.primitive.name == "dot_general":
      yield equation
    for inner in jax.extend.core.jaxprs_in_params(equation.params):
      yield from _products(inner)
