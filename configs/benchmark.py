"""Times on the machine at hand: what plans save, compared with the dense model.

`--config=configs/benchmark.py` (or `:deploy`) measures prefill, decoding and
both together under plans and densely; `:latency` measures a table of layer
times for searches; `:pictures` how fast images are read and preprocessed for
published models; `:ci` does all of it in a short form, for tests. The settings
are described in `eos_jax/training/benchmark_settings.py`.
"""

import ml_collections

from eos_jax.training import benchmark_settings, settings

VARIANTS = {
  "": {},
  "deploy": {},
  "latency": {"measure": ("latency",)},
  "pictures": {"measure": ("pictures",)},
  "ci": {
    "measure": benchmark_settings.MEASURES,
    "models": ("tiny",),
    "batches": (1,),
    "budgets": (1 / 3, 1 / 36),
    "presets": ("prune",),
    "steps": 2,
    "repeats": 2,
    "pictures": 8,
    "points": 2,
  },
}


def get_config(arg: str = "") -> ml_collections.ConfigDict:
  return settings.config(
    "benchmark", benchmark_settings.BenchmarkJob, VARIANTS, arg
  )
