"""The vision-language model: the only place that uses `flax.linen`.

Flax is used as a factory of pure `init` and `apply` functions over plain nested
dicts; no mutable collections, no lifted transformations.
"""

from eos_jax.models import (
  config,
  decoder,
  heads,
  reduction,
  vision,
  vlm,
  weights,
)
from eos_jax.models.config import (
  DecoderConfig,
  VisionConfig,
  VLMConfig,
  llava_1_5_7b,
  tiny,
)
from eos_jax.models.decoder import Text
from eos_jax.models.reduction import Reduction, SoftReduction, site_signals
from eos_jax.models.vlm import (
  Answer,
  Output,
  Seen,
  answer,
  apply,
  generate,
  init,
  read,
  reduce_input,
  see,
)

__all__ = [
  "Answer",
  "DecoderConfig",
  "Output",
  "Reduction",
  "Seen",
  "SoftReduction",
  "Text",
  "VLMConfig",
  "VisionConfig",
  "answer",
  "apply",
  "config",
  "decoder",
  "generate",
  "heads",
  "init",
  "llava_1_5_7b",
  "read",
  "reduce_input",
  "reduction",
  "see",
  "site_signals",
  "tiny",
  "vision",
  "vlm",
  "weights",
]
