"""What a reduction costs: tokens per layer, FLOPs, bytes and time.

- `budget`: visual tokens by layer, and plans that meet a layer average.
- `flops`: matmul FLOPs of prefill and decoding; `operators`: those of the
  operators themselves; `products`: those of any traced function; `proxies`:
  the figures that papers print.
- `kv_cache`, `memory`: bytes of the cache, of parameters and activations.
- `devices`, `roofline`, `latency_table`: chips, the least time on one, and
  times by a measured table.
- `report`: a budget said in all four ways.

Counts given as integers give exact integers (times: floats); as arrays,
float32 that is differentiable in the counts, for searches.
"""

from eos_jax.cost.budget import (
  UnreachableBudget,
  budget_plan,
  final_count,
  layer_average,
  layer_counts,
  plan_average,
  vision_row_counts,
)
from eos_jax.cost.devices import DEVICES, Device, device_of
from eos_jax.cost.flops import (
  ModelShape,
  decode_flops,
  decoder_flops,
  prefill_flops,
  vision_flops,
)
from eos_jax.cost.kv_cache import kv_cache_bytes, kv_cache_bytes_by_layer
from eos_jax.cost.latency_table import LatencyTable, latency, layer_seconds
from eos_jax.cost.memory import (
  activation_bytes,
  parameter_bytes,
  parameter_count,
)
from eos_jax.cost.operators import (
  operator_flops,
  operators_flops,
  plan_operator_flops,
)
from eos_jax.cost.products import function_flops, product_flops
from eos_jax.cost.proxies import gated_proxy, pruned_lengths, two_matrix_proxy
from eos_jax.cost.report import Budget, budget_of
from eos_jax.cost.roofline import (
  decode_seconds,
  decoder_seconds,
  prefill_seconds,
)

__all__ = [
  "Budget",
  "DEVICES",
  "Device",
  "LatencyTable",
  "ModelShape",
  "UnreachableBudget",
  "activation_bytes",
  "budget_of",
  "budget_plan",
  "decode_flops",
  "decode_seconds",
  "decoder_flops",
  "decoder_seconds",
  "device_of",
  "final_count",
  "function_flops",
  "gated_proxy",
  "kv_cache_bytes",
  "kv_cache_bytes_by_layer",
  "latency",
  "layer_average",
  "layer_counts",
  "layer_seconds",
  "operator_flops",
  "operators_flops",
  "parameter_bytes",
  "parameter_count",
  "plan_average",
  "plan_operator_flops",
  "prefill_flops",
  "prefill_seconds",
  "product_flops",
  "pruned_lengths",
  "two_matrix_proxy",
  "vision_flops",
  "vision_row_counts",
]
