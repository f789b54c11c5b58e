"""One-sided constraints `value <= limit` by an augmented Lagrangian."""

from collections.abc import Mapping
import dataclasses

import jax
import jax.numpy as jnp

from eos_jax.array_typing import Array, Float, Scalar


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Constraint:
  """`value <= limit` on a named measure, for example "layer_average".

  Attributes:
    name: key of the measure.
    limit: upper limit in the measure's unit, positive; may be traced, so one
      compilation serves all limits.
  """

  name: str = dataclasses.field(metadata={"static": True})
  limit: Scalar


def limits(**limits: Scalar) -> tuple[Constraint, ...]:
  """Constraints by the names of their measures.

  >>> limits(layer_average=48.0, final_count=16)
  (Constraint(name='layer_average', limit=48.0),
   Constraint(name='final_count', limit=16))
  """
  return tuple(Constraint(name, limit) for name, limit in limits.items())


def violation(value: Scalar, limit: Scalar) -> Float[Array, ""]:
  """Relative excess `value / limit - 1`: 0 at the limit, negative below.

  Relative, so that one penalty and one step size serve tokens, FLOPs and bytes.
  """
  value = jnp.asarray(value, jnp.float32)
  return value / jnp.asarray(limit, jnp.float32) - 1.0


def lagrangian(
  excess: Float[Array, ""],
  multiplier: Float[Array, ""],
  *,
  penalty: float,
) -> Float[Array, ""]:
  """Augmented-Lagrangian term of one inequality (Rockafellar 1973).

  `(max(0, lam + mu g)^2 - lam^2) / (2 mu)` with g = `excess`,
  lam = `multiplier` and mu = `penalty`. Its derivative by g is
  `max(0, lam + mu g)`: exactly zero where the constraint is slack and lam = 0.

  Gradients: the multiplier's is g itself, for ascent with projection to >= 0:
  it rises while the constraint is violated and falls to exactly zero while it
  is slack. (The term's own derivative, `max(g, -lam / mu)`, agrees with it
  unless the constraint is far below its limit, where it would let the
  multiplier fade without ever reaching zero.)

  Args:
    excess: relative violation g, see `violation`.
    multiplier: Lagrange multiplier lam >= 0.
    penalty: weight mu > 0 of the quadratic term.

  Returns:
    The term to add to a loss; negative where a positive multiplier meets slack.

  >>> float(lagrangian(jnp.float32(-0.5), jnp.float32(0.0), penalty=10.0))
  0.0
  >>> float(lagrangian(jnp.float32(0.5), jnp.float32(0.0), penalty=10.0))
  1.25
  """
  if penalty <= 0:
    raise ValueError(f"penalty={penalty} must be positive.")
  fixed = jax.lax.stop_gradient(multiplier)
  force = jnp.maximum(fixed + penalty * excess, 0.0)
  ascent = (multiplier - fixed) * jax.lax.stop_gradient(excess)  # value 0
  return (force**2 - fixed**2) / (2.0 * penalty) + ascent


def init_multipliers(
  constraints: tuple[Constraint, ...],
) -> dict[str, Float[Array, ""]]:
  """Multipliers of zero, one per constraint: nothing pulls at the start."""
  names = [constraint.name for constraint in constraints]
  if len(set(names)) < len(names):
    raise ValueError(f"constraints={names} names a measure twice.")
  return {name: jnp.zeros((), jnp.float32) for name in names}


def wanted(multipliers: Mapping[str, Scalar]) -> dict[str, float]:
  """Multipliers of limits that are known to bind: at least 1.

  A search that uses a budget up wants more than any smaller one allows,
  whatever its multiplier there has come to.

  Args:
    multipliers: [] by name.

  >>> wanted({"layer_average": 0.0, "flops": 2.5})
  {'layer_average': 1.0, 'flops': 2.5}
  """
  return {name: max(float(v), 1.0) for name, v in multipliers.items()}
