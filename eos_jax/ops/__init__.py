"""Token-reduction operators: pure functions of arrays, one example each.

>>> import jax.numpy as jnp
>>> from eos_jax import ops
>>> tokens = ops.token_set(jnp.eye(4))
>>> signals = ops.Signals(class_row=jnp.array([0.1, 0.4, 0.2, 0.3]))
>>> spec = ops.presets.FASTV.replace(scores=("class_row",))
>>> out = ops.reduce_hard(tokens, signals, spec.params(), spec=spec, keep=2)
>>> out.index.tolist()
[1, 3]
"""

from eos_jax.ops import count, presets, signals
from eos_jax.ops.cells import cell_shape
from eos_jax.ops.needs import discrete_parts, required_signals
from eos_jax.ops.operator import (
  keep_count,
  reduce_hard,
  reduce_masked,
  reduce_soft,
)
from eos_jax.ops.pairs import bipartite_minimum
from eos_jax.ops.plan import PlannedSite, ReductionPlan, site_index
from eos_jax.ops.presets import PRESETS, Placement, register
from eos_jax.ops.reachable import Nearest, Reach, nearest_preset, reach
from eos_jax.ops.relax import (
  indecision,
  logistic_jitter,
  noise_gate,
  straight_through,
)
from eos_jax.ops.score import cosine_matrix, standardise, uniqueness
from eos_jax.ops.topk import hard_top_k, soft_top_k
from eos_jax.ops.types import (
  LOG_ZERO,
  TAU_FLOOR,
  THETA_OFF,
  OperatorParams,
  OperatorSpec,
  Reduced,
  Signals,
  TokenSet,
  token_set,
)
from eos_jax.ops.unreduce import source_map, unreduce

__all__ = [
  "LOG_ZERO",
  "PRESETS",
  "TAU_FLOOR",
  "THETA_OFF",
  "Nearest",
  "OperatorParams",
  "OperatorSpec",
  "Placement",
  "PlannedSite",
  "Reach",
  "Reduced",
  "ReductionPlan",
  "Signals",
  "TokenSet",
  "bipartite_minimum",
  "cell_shape",
  "cosine_matrix",
  "count",
  "discrete_parts",
  "hard_top_k",
  "indecision",
  "keep_count",
  "logistic_jitter",
  "nearest_preset",
  "noise_gate",
  "presets",
  "reach",
  "reduce_hard",
  "reduce_masked",
  "reduce_soft",
  "register",
  "required_signals",
  "signals",
  "site_index",
  "soft_top_k",
  "source_map",
  "standardise",
  "straight_through",
  "token_set",
  "uniqueness",
  "unreduce",
]
