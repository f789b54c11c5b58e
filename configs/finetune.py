"""Fine-tunes projector and decoder under a fixed plan, tokens really dropped.

`--config=configs/finetune.py --config.plan=runs/search/plans/16.json` trains on
the train split (rendered on first use), writes the weights, and judges the plan
with and without them; `:ci` is a short form on a small data set, for tests. The
settings are described in `eos_jax/training/finetune_settings.py`.
"""

import ml_collections

from eos_jax.training import finetune_settings, settings

VARIANTS = {
  "": {},
  "ci": {
    "data.suite": "tiny",
    "steps": 4,
    "batch": 8,
    "warmup": 1,
    "check_every": 2,
    "check_questions": 16,
    "check_batch": 8,
    "log_every": 1,
    "save_every": 2,
    "evaluation.questions": 32,
    "evaluation.batch": 16,
  },
}


def get_config(arg: str = "") -> ml_collections.ConfigDict:
  return settings.config(
    "finetune", finetune_settings.FinetuneJob, VARIANTS, arg
  )
