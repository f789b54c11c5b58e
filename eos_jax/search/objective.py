"""The loss of a search: task, alignment and one-sided constraints."""

from collections.abc import Callable, Mapping

from eos_jax import ops
from eos_jax.array_typing import Array, Float, Scalar
from eos_jax.search import constraints as constraints_lib
from eos_jax.search import expected
from eos_jax.search import space as space_lib

Measure = Callable[[ops.OperatorParams], Float[Array, ""]]


def measure(
  params: ops.OperatorParams,
  space: space_lib.SearchSpace,
  constraints: tuple[constraints_lib.Constraint, ...],
  measures: Mapping[str, Measure] | None = None,
) -> dict[str, Float[Array, ""]]:
  """Values of all measures that the constraints name.

  Args:
    params: decoded operator numbers `[S, ...]`.
    space: the search space.
    constraints: one-sided constraints; "layer_average" and "final_count" are
      known here.
    measures: further measures as differentiable functions of `params`, for
      example FLOPs or bytes from `expected.expected_counts`.

  Returns:
    Float32 scalars by name, each in the unit of its measure.
  """
  known = {
    name: lambda params, fn=fn: fn(params, space)
    for name, fn in expected.MEASURES.items()
  }
  known |= measures or {}
  unknown = [c.name for c in constraints if c.name not in known]
  if unknown:
    raise ValueError(
      f"constraints name unknown measures {unknown}; known are"
      f" {sorted(known)}, more can be given as measures={{name: function}}."
    )
  return {c.name: known[c.name](params) for c in constraints}


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
