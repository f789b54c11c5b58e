"""Who moves: policy, model, multipliers, or nothing."""

from collections.abc import Mapping
from typing import Any

import jax
import optax

LABELS = ("policy", "model", "multiplier", "frozen")


def labels(
  variables: Mapping[str, Any], *, frozen: tuple[str, ...] = ()
) -> dict[str, Any]:
  """Labels every leaf of the variables for `optax.partition`.

  Args:
    variables: dict with trees under "policy", "multiplier" and perhaps "model".
    frozen: keys of `variables` that are not to move.

  Returns:
    A tree of the same structure: the top key of each leaf, or "frozen".
  """
  unknown = sorted(set(variables) - set(LABELS))
  if unknown:
    raise ValueError(f"variables has keys {unknown}; choose from {LABELS}.")
  return {
    key: jax.tree.map(
      lambda _, key=key: key if key not in frozen else "frozen", tree
    )
    for key, tree in variables.items()
  }


def ascend(learning_rate: float) -> optax.GradientTransformation:
  """Gradient ascent projected to >= 0, for Lagrange multipliers.

  The step is `lam <- max(0, lam + learning_rate * gradient)`. With the gradient
  of `constraints.lagrangian` and a learning rate equal to its penalty this is
  the classical update of the method of multipliers; a policy that needs many
  steps to follow wants a smaller one.
  """
  return optax.chain(
    optax.scale(learning_rate), optax.keep_params_nonnegative()
  )


def make_optimizer(
  policy_tx: optax.GradientTransformation,
  *,
  model_tx: optax.GradientTransformation | None = None,
  multiplier_lr: float,
  frozen: tuple[str, ...] = (),
) -> optax.GradientTransformation:
  """One optimizer for all variables of a search.

  Args:
    policy_tx: moves the policy.
    model_tx: moves the model; without it a model among the variables stays.
    multiplier_lr: ascent step of the multipliers.
    frozen: keys of the variables that stay. The two halves of a bilevel search
      are `frozen=("policy", "multiplier")` on one split of the data and
      `frozen=("model",)` on the other.

  Returns:
    A transformation over a dict of variables, see `labels`.
  """
  if model_tx is None:
    frozen = (*frozen, "model")
    model_tx = optax.set_to_zero()
  # optax.partition is the present name of optax.multi_transform.
  return optax.partition(
    {
      "policy": policy_tx,
      "model": model_tx,
      "multiplier": ascend(multiplier_lr),
      "frozen": optax.set_to_zero(),
    },
    lambda variables: labels(variables, frozen=frozen),
  )
