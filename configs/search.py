"""The main job: search reduction plans for a model and judge them.

`--config=configs/search.py` searches for the tiny model in the package, on two
CPU cores in minutes. `--config.model=FOLDER --config.data.path=FILE.json`
searches for another model on instructions; sites, budgets, batches and the
static shape of images follow from the model unless they are set.

`:family` finds twelve plans from one search; `:fast` plans of two sites, which
keep more of what their FLOPs promise than those of five; `:ci` is the first in
a shortened form, for tests: what it finds means nothing.

The settings are described in `eos_jax/training/search_settings.py`.
"""

import ml_collections

from eos_jax.training import search_settings, settings

VARIANTS = {
  "": {},
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
}


def get_config(arg: str = "") -> ml_collections.ConfigDict:
  return settings.config("search", search_settings.SearchJob, VARIANTS, arg)
