"""What a reduction costs: tokens per layer, FLOPs, key-value cache bytes."""

from eos_jax.cost.budget import (
  UnreachableBudget,
  budget_plan,
  final_count,
  layer_average,
  layer_counts,
  vision_row_counts,
)
from eos_jax.cost.flops import (
  ModelShape,
  decoder_flops,
  prefill_flops,
  vision_flops,
)
from eos_jax.cost.kv_cache import kv_cache_bytes
from eos_jax.cost.proxies import gated_proxy, two_matrix_proxy

__all__ = [
  "ModelShape",
  "UnreachableBudget",
  "budget_plan",
  "decoder_flops",
  "final_count",
  "gated_proxy",
  "kv_cache_bytes",
  "layer_average",
  "layer_counts",
  "prefill_flops",
  "two_matrix_proxy",
  "vision_flops",
  "vision_row_counts",
]
