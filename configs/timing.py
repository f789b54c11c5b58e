"""Times on the machine at hand: what plans save, compared with the dense model.

`--config=configs/timing.py` (or `:deploy`) measures prefill, decoding and
both together under plans and densely; `:latency` measures a table of layer
times for searches; `:pictures` how fast images are read and preprocessed for
model families; `:ci` does all of it in a short form, for tests. The settings
are described in `eos_jax/training/timing_settings.py`.
"""

import ml_collections

from eos_jax.training import settings, timing_settings

VARIANTS = {
  "": {},
  "deploy": {},
  "latency": {"measure": ("latency",)},
  "pictures": {"measure": ("pictures",)},
  "ci": {
    "measure": timing_settings.MEASURES,
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
  return settings.config("timing", timing_settings.TimingJob, VARIANTS, arg)
