"""Token-reduction operators: pure functions of arrays, one example each.

    from eos_jax import ops

    tokens = ops.token_set(x)                                # [V, D]
    signals = ops.Signals(class_row=attention, grid=(12, 12))
    spec = ops.presets.PRUNE
    reduced = ops.reduce_hard(tokens, signals, spec.params(), spec=spec, keep=16)
"""

from eos_jax.ops import presets
from eos_jax.ops.cells import cell_shape
from eos_jax.ops.operator import keep_count
from eos_jax.ops.operator import reduce_hard
from eos_jax.ops.operator import reduce_masked
from eos_jax.ops.operator import reduce_soft
from eos_jax.ops.plan import PlannedSite
from eos_jax.ops.plan import ReductionPlan
from eos_jax.ops.plan import site_index
from eos_jax.ops.presets import PRESETS
from eos_jax.ops.score import cosine_matrix
from eos_jax.ops.score import required_signals
from eos_jax.ops.score import standardise
from eos_jax.ops.score import uniqueness
from eos_jax.ops.select import bipartite_minimum
from eos_jax.ops.topk import hard_top_k
from eos_jax.ops.topk import soft_top_k
from eos_jax.ops.types import LOG_ZERO
from eos_jax.ops.types import TAU_FLOOR
from eos_jax.ops.types import THETA_OFF
from eos_jax.ops.types import OperatorParams
from eos_jax.ops.types import OperatorSpec
from eos_jax.ops.types import Reduced
from eos_jax.ops.types import Signals
from eos_jax.ops.types import TokenSet
from eos_jax.ops.types import token_set

__all__ = [
  "LOG_ZERO",
  "PRESETS",
  "TAU_FLOOR",
  "THETA_OFF",
  "OperatorParams",
  "OperatorSpec",
  "PlannedSite",
  "Reduced",
  "ReductionPlan",
  "Signals",
  "TokenSet",
  "bipartite_minimum",
  "cell_shape",
  "cosine_matrix",
  "hard_top_k",
  "keep_count",
  "presets",
  "reduce_hard",
  "reduce_masked",
  "reduce_soft",
  "required_signals",
  "site_index",
  "soft_top_k",
  "standardise",
  "token_set",
  "uniqueness",
]
