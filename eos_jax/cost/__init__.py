"""What a reduction costs: tokens per layer, FLOPs, key-value cache bytes."""

from eos_jax.cost.budget import UnreachableBudget
from eos_jax.cost.budget import budget_plan
from eos_jax.cost.budget import final_count
from eos_jax.cost.budget import layer_average
from eos_jax.cost.budget import layer_counts
from eos_jax.cost.budget import vision_row_counts
from eos_jax.cost.flops import ModelShape
from eos_jax.cost.flops import decoder_flops
from eos_jax.cost.flops import prefill_flops
from eos_jax.cost.flops import vision_flops
from eos_jax.cost.kv_cache import kv_cache_bytes

__all__ = [
  "ModelShape",
  "UnreachableBudget",
  "budget_plan",
  "decoder_flops",
  "final_count",
  "kv_cache_bytes",
  "layer_average",
  "layer_counts",
  "prefill_flops",
  "vision_flops",
  "vision_row_counts",
]
