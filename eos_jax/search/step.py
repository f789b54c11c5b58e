"""One pure step of a search, for any model that can be written as a loss."""

from collections.abc import Callable, Mapping
import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax

from eos_jax.array_typing import Array, Float, Int
from eos_jax.search import constraints as constraints_lib
from eos_jax.search import expected
from eos_jax.search import objective as objective_lib
from eos_jax.search import policy as policy_lib
from eos_jax.search import space as space_lib

LossFn = Callable[..., tuple[Float[Array, ""], Mapping[str, Any]]]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class SearchState:
  """Everything that a search changes.

  Attributes:
    step: steps taken.
    variables: "policy", "multiplier" and, where it is trained, "model".
    opt_state: state of the optimizer of `variables`.
  """

  step: Int[Array, ""]
  variables: dict[str, Any]
  opt_state: Any


def init_state(
  policy: policy_lib.Policy,
  *,
  constraints: tuple[constraints_lib.Constraint, ...],
  optimizer: optax.GradientTransformation,
  model: Any = None,
) -> SearchState:
  """State before the first step.

  Args:
    policy: from `policy.init_policy`.
    constraints: the constraints; their limits are not stored.
    optimizer: from `optimizer.make_optimizer`.
    model: parameters to train beside the policy. Leave a frozen model out and
      close over it in the loss: then nothing differentiates it.
  """
  variables = {
    "policy": policy,
    "multiplier": constraints_lib.init_multipliers(constraints),
  }
  if model is not None:
    variables["model"] = model
  return SearchState(
    step=jnp.zeros((), jnp.int32),
    variables=variables,
    opt_state=optimizer.init(variables),
  )


def search_step(
  state: SearchState,
  batch: Any,
  key: Array,
  *,
  space: space_lib.SearchSpace,
  loss_fn: LossFn,
  optimizer: optax.GradientTransformation,
  constraints: tuple[constraints_lib.Constraint, ...],
  measures: Mapping[str, objective_lib.Measure] | None = None,
  penalty: float,
  align: float = 0.0,
) -> tuple[SearchState, dict[str, Any]]:
  """Descends in policy (and model), ascends in the multipliers.

  Pure and free of `jit`: wrap it in a function of (state, batch, key, limit,
  temperature) that builds the constraints and closes the loss over the
  temperature, and one compilation serves every budget and temperature.

  Args:
    state: current state.
    batch: whatever `loss_fn` reads.
    key: random key; folded with the step before it reaches `loss_fn`.
    space: the search space.
    loss_fn: `loss_fn(policy, batch, key) -> (loss, aux)`, or, where the state
      has a model, `loss_fn(policy, batch, key, model)`. `policy` is not
      decoded. If `aux` has "alignment", it enters with weight `align`.
    optimizer: the optimizer that `init_state` was given.
    constraints: one-sided constraints.
    measures: see `objective.measure`.
    penalty: see `constraints.lagrangian`.
    align: weight of `aux["alignment"]`.

  Returns:
    The next state, and metrics of the present one: the parts of the objective,
    "counts" `[S]`, "gradient_norm" of the policy, and "aux".
  """
  key = jax.random.fold_in(key, state.step)

  def loss_of(variables):
    policy = variables["policy"]
    model = (variables["model"],) if "model" in variables else ()
    task, aux = loss_fn(policy, batch, key, *model)
    params = policy_lib.decode(policy, space)
    total, metrics = objective_lib.total_loss(
      task,
      objective_lib.measure(params, space, constraints, measures),
      variables["multiplier"],
      constraints=constraints,
      penalty=penalty,
      alignment=aux.get("alignment", 0.0),
      align=align,
    )
    counts = expected.site_counts(params, space)
    return total, metrics | {"counts": counts, "aux": dict(aux)}

  grads, metrics = jax.grad(loss_of, has_aux=True)(state.variables)
  updates, opt_state = optimizer.update(grads, state.opt_state, state.variables)
  metrics["gradient_norm"] = optax.tree.norm(grads["policy"])
  return (
    SearchState(
      step=state.step + 1,
      variables=optax.apply_updates(state.variables, updates),
      opt_state=opt_state,
    ),
    metrics,
  )
