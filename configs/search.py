"""The main job: search reduction plans for a model and judge them.

`--config=configs/search.py` searches for the shipped model, on two CPU cores in
minutes; `:family` finds twelve plans from one search; `:fast` plans of two
sites, which keep more of what their FLOPs promise than those of five; `:ci` is
the first in a shortened form, for tests: what it finds means nothing.

`:llava_1_5_7b`, `:llava_onevision_7b`, `:qwen2_vl_7b`, `:smolvlm_500m` search
for a published model in a folder, on instructions of the user:
`--config.model.path=FOLDER --config.data.path=FILE.json`. They serve every size
of their family; they set sites, budgets and the static shape of images.

The settings are described in `eos_jax/training/search_settings.py`.
"""

import ml_collections

from eos_jax.training import search_settings, settings

_PUBLISHED = {
  # Where FastV and PyramidDrop act, and what projectors' reducers stand for.
  "sites": ("decoder.0", "decoder.2", "decoder.8", "decoder.16"),
  "steps": 240,
  "batch": 8,
  "remat": "layers",
  "check_every": 240,
  "check_batch": 8,
  "save_every": 240,
  "evaluation.batch": 8,
}
PUBLISHED = {
  "llava_1_5_7b": {"budgets": (192.0, 128.0, 64.0)},
  "llava_onevision_7b": {
    "budgets": (1233.0, 822.0, 411.0),
    "data.tiles": (2, 2),
  },
  "qwen2_vl_7b": {"budgets": (192.0, 128.0, 64.0), "data.size": (672, 672)},
  "smolvlm_500m": {"budgets": (32.0, 16.0, 8.0), "data.pictures": 17},
}
VARIANTS = {
  "": {},
  "tiny": {},
  "family": {
    "knots": 4,
    "steps": 118,
    "check_every": 59,
    "budgets": (
      *(48.0, 39.0, 32.0, 26.0, 21.0, 16.0),
      *(13.0, 10.0, 8.0, 6.5, 5.0, 4.0),
    ),
    "evaluation.presets": ("merge_proportional", "tome", "pool"),
  },
  "fast": {"sites": ("decoder.0", "decoder.2")},
  "ci": {
    "data.suite": "tiny",
    "budgets": (48.0, 16.0),
    "sites": ("decoder.0", "decoder.2"),
    "steps": 4,
    "batch": 8,
    "check_every": 2,
    "check_questions": 16,
    "check_batch": 8,
    "log_every": 1,
    "save_every": 2,
    "evaluation.questions": 32,
    "evaluation.batch": 16,
    "evaluation.presets": ("prune", "pool", "fastv"),
  },
  **{name: _PUBLISHED | changes for name, changes in PUBLISHED.items()},
}


def get_config(arg: str = "") -> ml_collections.ConfigDict:
  if arg in PUBLISHED:
    kind = search_settings.PublishedSearchJob
    return settings.config("search_published", kind, VARIANTS, arg)
  return settings.config("search", search_settings.SearchJob, VARIANTS, arg)
