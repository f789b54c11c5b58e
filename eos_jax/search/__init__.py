"""Search over token-reduction operators with any differentiable model.

Pure functions; jax and optax only. A search over a model of one's own:

>>> import jax, optax
>>> import jax.numpy as jnp
>>> from eos_jax import ops, search
>>> space = search.SearchSpace(
...   sites=("decoder.0", "decoder.2"), tokens=16, layers=4,
...   spec=ops.presets.HYBRID, free=("where", "how_many"))
>>> optimizer = search.make_optimizer(optax.adam(0.1), multiplier_lr=0.3)
>>> @jax.jit
... def step(state, batch, key, limit):
...   def loss_fn(policy, batch, key):  # yours; here: every token is worth 1
...     params = search.decode(policy, space)
...     return -search.site_counts(params, space).sum() / 32, {}
...   return search.search_step(
...     state, batch, key, space=space, loss_fn=loss_fn, optimizer=optimizer,
...     constraints=search.limits(layer_average=limit), penalty=4.0)
>>> limits = search.limits(layer_average=6.0)
>>> state = search.init_state(
...   search.init_policy(space, constraints=limits, multiple=1.5),
...   constraints=limits, optimizer=optimizer)
>>> for _ in range(300):
...   state, metrics = step(state, None, jax.random.key(0), 6.0)
>>> plan = search.discretize(
...   state.variables["policy"], space, constraints=limits, model="mine")
>>> sum(2 * site.keep for site in plan.sites) / 4 <= 6.0
True

Names are re-exported for users; inside the project import the modules.
"""

from eos_jax.search.anneal import geometric
from eos_jax.search.constraints import (
  Constraint,
  init_multipliers,
  lagrangian,
  limits,
  violation,
  wanted,
)
from eos_jax.search.discretize import (
  NEAR,
  discretize,
  plan_counts,
  whole_counts,
)
from eos_jax.search.expected import (
  final_count,
  layer_average,
  layer_counts,
  site_counts,
)
from eos_jax.search.family import Knots, init_family
from eos_jax.search.family import at as family_at
from eos_jax.search.family import binding as family_binding
from eos_jax.search.family import plans as family_plans
from eos_jax.search.gradients import mean_grad
from eos_jax.search.measures import (
  flops_measure,
  kv_measure,
  latency_measure,
  roofline_measure,
)
from eos_jax.search.objective import measure, prior, total_loss
from eos_jax.search.optimizer import ascend, labels, make_optimizer
from eos_jax.search.policy import Policy, decode, init_policy
from eos_jax.search.reachable import check_reachable, exceeded
from eos_jax.search.space import GROUPS, SearchSpace
from eos_jax.search.step import SearchState, init_state, search_step

__all__ = [
  "NEAR",
  "Constraint",
  "GROUPS",
  "Knots",
  "Policy",
  "SearchSpace",
  "SearchState",
  "ascend",
  "check_reachable",
  "decode",
  "discretize",
  "exceeded",
  "family_at",
  "family_binding",
  "family_plans",
  "final_count",
  "flops_measure",
  "geometric",
  "init_family",
  "init_multipliers",
  "init_policy",
  "init_state",
  "kv_measure",
  "labels",
  "lagrangian",
  "latency_measure",
  "layer_average",
  "layer_counts",
  "limits",
  "make_optimizer",
  "mean_grad",
  "measure",
  "plan_counts",
  "prior",
  "roofline_measure",
  "search_step",
  "site_counts",
  "total_loss",
  "violation",
  "wanted",
  "whole_counts",
]
