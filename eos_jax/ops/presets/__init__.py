"""Published operators and the corners of the operator space, as data.

Each is an `OperatorSpec`: no preset has code of its own. `PRESETS` maps names
to specs; what the published code does exactly is restated in each `doc`.
"""

from eos_jax.ops import types
from eos_jax.ops.presets.corners import (
  GRID,
  HYBRID,
  MERGE,
  MERGE_PROPORTIONAL,
  POOL_SOFT,
  PRUNE,
  RANDOM,
  REWEIGHT,
)
from eos_jax.ops.presets.decoder import (
  CSP,
  DART,
  DIVPRUNE,
  FASTV,
  GLOBALCOM2,
  PYRAMIDDROP,
  SPARSEVLM,
  SPARSEVLM_1_5,
  SPARSEVLM_2_0,
  VISION_SELECTOR,
)
from eos_jax.ops.presets.vision import (
  DIFFRATE,
  EVIT,
  EVIT_DROP,
  MATRYOSHKA,
  POOL,
  PRUMERGE,
  PRUMERGE_PLUS,
  TOME,
  TOME_KTH,
  TOME_PORT,
  VISIONZIP,
  VISIONZIP_PRUNE,
)

PRESETS: dict[str, types.OperatorSpec] = {
  spec.name: spec
  for spec in (
    PRUNE,
    REWEIGHT,
    MERGE,
    MERGE_PROPORTIONAL,
    POOL_SOFT,
    RANDOM,
    GRID,
    POOL,
    MATRYOSHKA,
    FASTV,
    SPARSEVLM,
    SPARSEVLM_1_5,
    SPARSEVLM_2_0,
    PYRAMIDDROP,
    DART,
    DIVPRUNE,
    GLOBALCOM2,
    VISION_SELECTOR,
    CSP,
    TOME,
    TOME_KTH,
    TOME_PORT,
    EVIT,
    EVIT_DROP,
    VISIONZIP,
    VISIONZIP_PRUNE,
    PRUMERGE,
    PRUMERGE_PLUS,
    DIFFRATE,
    HYBRID,
  )
}
