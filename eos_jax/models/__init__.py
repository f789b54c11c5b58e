"""The vision-language model: the only place that uses `flax.linen`.

Flax is used as a factory of pure `init` and `apply` functions over plain nested
dicts; no mutable collections, no lifted transformations.
"""

from eos_jax.models import (
  attention,
  config,
  decoder,
  families,
  heads,
  inputs,
  loading,
  partition,
  reduction,
  sequence,
  target,
  tiles,
  vision,
  vlm,
  weights,
)
from eos_jax.models.blocks import REMAT
from eos_jax.models.cache import Cache, Tail
from eos_jax.models.config import (
  DecoderConfig,
  VisionConfig,
  VLMConfig,
  llava_1_5_7b,
  tiny,
)
from eos_jax.models.engine import Engine, Talk
from eos_jax.models.generation import (
  GREEDY,
  NO_TOKEN,
  Answer,
  Sampling,
  advance,
  answer,
  generate,
  prefill,
)
from eos_jax.models.model import (
  SHAPES,
  TINY,
  Model,
  ModelFiles,
  answer_batch,
  load,
  open_files,
  tiny_config,
)
from eos_jax.models.reduction import (
  RELAXATIONS,
  Reduction,
  SoftReduction,
  site_signals,
)
from eos_jax.models.sequence import Text
from eos_jax.models.vlm import (
  Output,
  Seen,
  apply,
  for_inference,
  init,
  init_selector,
  read,
  reduce_input,
  see,
)

__all__ = [
  "GREEDY",
  "Answer",
  "Cache",
  "DecoderConfig",
  "Engine",
  "Model",
  "ModelFiles",
  "NO_TOKEN",
  "Output",
  "RELAXATIONS",
  "REMAT",
  "Reduction",
  "SHAPES",
  "Sampling",
  "Seen",
  "SoftReduction",
  "TINY",
  "Tail",
  "Talk",
  "Text",
  "VLMConfig",
  "VisionConfig",
  "advance",
  "answer",
  "answer_batch",
  "apply",
  "attention",
  "config",
  "decoder",
  "families",
  "for_inference",
  "generate",
  "heads",
  "init",
  "init_selector",
  "inputs",
  "llava_1_5_7b",
  "load",
  "loading",
  "open_files",
  "partition",
  "prefill",
  "read",
  "reduce_input",
  "reduction",
  "see",
  "sequence",
  "site_signals",
  "target",
  "tiles",
  "tiny",
  "tiny_config",
  "vision",
  "vlm",
  "weights",
]
