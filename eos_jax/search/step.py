"""One pure step of a search, for any model that can be written as a loss."""

from collections.abc import Callable, Mapping
import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax

from eos_jax.array_typing import Array, Float, Int
from eos_jax.search import constraints as constraints_lib
from eos_jax.search import expected, gradients
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
  knots: int | None = None,
) -> SearchState:
  """State before the first step.

  Args:
    policy: from `policy.init_policy`.
    constraints: the constraints; their limits are not stored.
    optimizer: from `optimizer.make_optimizer`.
    model: parameters to train with the policy. Leave a frozen model out and
      close over it in the loss: then nothing differentiates it.
    knots: of a family: each has multipliers of its own, None = no family.
  """
  multipliers = constraints_lib.init_multipliers(constraints)
  if knots is not None:
    multipliers = {
      name: jnp.broadcast_to(value, (knots,))
      for name, value in multipliers.items()
    }
  variables = {"policy": policy, "multiplier": multipliers}
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
  measures: objective_lib.Measures | None = None,
  penalty: float,
  align: float = 0.0,
  view: Callable[[dict[str, Any]], dict[str, Any]] | None = None,
  model_batch: Any = None,
  micro_batch: int = 0,
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
    view: makes the variables of this step from those of the state, for example
      the member of a family at this step's budget; gradients flow through it.
    model_batch: bilevel search, first order: the model descends on this batch
      (its own split of the data) while policy and multipliers see `batch`, both
      from the same state.
    micro_batch: rows that are differentiated at once, see
      `gradients.mean_grad`; 0 = all.

  Returns:
    The next state, and metrics of the present one: the parts of the objective,
    "counts" `[S]`, "gradient_norm" of the policy, "model_gradient_norm" and
    (bilevel) "model_task", the loss on `model_batch`, and "aux".
  """
  key = jax.random.fold_in(key, state.step)

  def loss_of(variables, batch, key):
    seen = variables if view is None else view(variables)
    policy = seen["policy"]
    model = (seen["model"],) if "model" in seen else ()
    task, aux = loss_fn(policy, batch, key, *model)
    params = policy_lib.decode(policy, space)
    counts = expected.site_counts(params, space)
    total, metrics = objective_lib.total_loss(
      task,
      objective_lib.measure(counts, space, constraints, measures),
      seen["multiplier"],
      constraints=constraints,
      penalty=penalty,
      alignment=aux.get("alignment", 0.0),
      align=align,
    )
    return total, metrics | {"counts": counts, "aux": dict(aux)}

  if model_batch is None:
    gradient = gradients.mean_grad(loss_of, micro_batch)
    grads, metrics = gradient(state.variables, batch, key)
  else:
    grads, metrics = _bilevel(
      loss_of, state.variables, batch, model_batch, key, micro_batch
    )
  if "model" in grads:
    metrics["model_gradient_norm"] = optax.tree.norm(grads["model"])
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


def _bilevel(loss_of, variables, batch, model_batch, key, micro_batch):
  """Gradients of the model on one batch and of all else on another."""
  if "model" not in variables:
    raise ValueError(
      "model_batch is given, but the state has no model to train on it: give"
      " init_state(model=...), or leave model_batch out"
    )
  model = {"model": variables["model"]}
  rest = {name: part for name, part in variables.items() if name != "model"}
  grads, metrics = gradients.mean_grad(
    lambda rest, batch, key: loss_of(rest | model, batch, key), micro_batch
  )(rest, batch, key)
  lower, fitted = gradients.mean_grad(
    lambda model, batch, key: loss_of(rest | model, batch, key), micro_batch
  )(model, model_batch, key)
  return grads | lower, metrics | {"model_task": fitted["task"]}
