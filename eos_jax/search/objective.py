"""The loss of a search: task, alignment and one-sided constraints."""

from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp

from eos_jax import ops
from eos_jax.array_typing import Array, Float, Scalar
from eos_jax.search import constraints as constraints_lib
from eos_jax.search import expected
from eos_jax.search import space as space_lib

# A cost as a function of the visual tokens after each site [S]; differentiable
# for an array, exact for a sequence of whole numbers, rising in each of them.
Measure = Callable[[expected.Counts], Any]
Measures = Mapping[str, Measure]


def measure(
  counts: expected.Counts,
  space: space_lib.SearchSpace,
  constraints: tuple[constraints_lib.Constraint, ...],
  measures: Measures | None = None,
) -> dict[str, Any]:
  """Values of all measures that the constraints name.

  Args:
    counts: [S] visual tokens after each site.
    space: the search space.
    constraints: one-sided constraints; "layer_average" and "final_count" are
      known here.
    measures: further measures by name, see `search.measures`.

  Returns:
    Scalars by name, each in the unit of its measure: float32 for an array.
  """
  known = {
    name: lambda counts, fn=fn: fn(counts, space)
    for name, fn in expected.MEASURES.items()
  }
  known |= measures or {}
  unknown = [c.name for c in constraints if c.name not in known]
  if unknown:
    raise ValueError(
      f"constraints name unknown measures {unknown}; known are"
      f" {sorted(known)}, more can be given as measures={{name: function}}."
    )
  return {c.name: known[c.name](counts) for c in constraints}


def total_loss(
  task: Float[Array, ""],
  values: Mapping[str, Float[Array, ""]],
  multipliers: Mapping[str, Float[Array, ""]],
  *,
  constraints: tuple[constraints_lib.Constraint, ...],
  penalty: float,
  alignment: Scalar = 0.0,
  align: float = 0.0,
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
  """Task loss + `align` * alignment + a Lagrangian term per constraint.

  Gradients: to be descended by policy and model, and *ascended* by the
  multipliers (`optimizer.make_optimizer`). Only the constraint terms depend on
  the multipliers, so each of them gets its own violation as gradient.

  Args:
    task: loss of the task.
    values: measured values by constraint name.
    multipliers: Lagrange multipliers by constraint name.
    constraints: the constraints.
    penalty: weight of the quadratic term, see `constraints.lagrangian`.
    alignment: distance of hidden states to those of the unreduced model.
    align: weight of `alignment`.

  Returns:
    The total and its parts: "task", "alignment", and for each constraint
    "value/", "violation/" (relative; negative is slack) and "multiplier/".
  """
  total = task + align * alignment
  metrics = {"task": task, "alignment": alignment}
  for constraint in constraints:
    name = constraint.name
    excess = constraints_lib.violation(values[name], constraint.limit)
    total = total + constraints_lib.lagrangian(
      excess, multipliers[name], penalty=penalty
    )
    metrics |= {
      f"value/{name}": values[name],
      f"violation/{name}": excess,
      f"multiplier/{name}": multipliers[name],
    }
  return total, metrics | {"total": total}


def prior(
  params: ops.OperatorParams,
  space: space_lib.SearchSpace,
  weights: Mapping[str, float],
) -> Float[Array, ""]:
  """Pull of operator numbers towards those of the space's spec.

  Args:
    params: decoded numbers with a leading site axis.
    space: the search space they belong to.
    weights: by field of `ops.OperatorParams`.

  Returns:
    [] sum over fields of weight times squared distance, mean over the sites.

  >>> space = space_lib.SearchSpace(("decoder.0",), tokens=4, layers=1,
  ...                               spec=ops.presets.HYBRID)
  >>> import jax
  >>> params = space.spec.replace(gamma=space.spec.gamma - 0.5).params()
  >>> params = jax.tree.map(lambda leaf: leaf[None], params)
  >>> float(prior(params, space, {"gamma": 2.0}).round(4))
  0.5
  """
  total = jnp.zeros(())
  for name, weight in weights.items():
    distance = getattr(params, name) - jnp.asarray(getattr(space.spec, name))
    total += weight * jnp.mean(jnp.square(distance))
  return total
