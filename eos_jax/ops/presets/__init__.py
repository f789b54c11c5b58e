"""Published operators and the corners of the operator space, as data.

Each is an `OperatorSpec`: no preset has code of its own. `PRESETS` maps names
to operators, `RECORDS` maps them to what their publications say (`Preset`), and
`register` adds one, also from outside the package.
"""

from eos_jax.ops.presets.corners import (
  GRID,
  HYBRID,
  MATRYOSHKA,
  MERGE,
  MERGE_PROPORTIONAL,
  POOL,
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
from eos_jax.ops.presets.registry import (
  PRESETS,
  RECORDS,
  Placement,
  Preset,
  placement_of,
  register,
)
from eos_jax.ops.presets.vision import (
  DIFFRATE,
  EVIT,
  EVIT_DROP,
  PRUMERGE,
  PRUMERGE_PLUS,
  TOME,
  TOME_KTH,
  TOME_PORT,
  VISIONZIP,
  VISIONZIP_PRUNE,
)
