"""Pretraining of the shipped `tiny` model, in four stages.

`--config=configs/pretrain.py` is the run that made the shipped weights; `:ci`
is the same in a minute on a small data set, for tests. The settings are
described in `eos_jax/training/pretrain_settings.py`.
"""

import ml_collections

from eos_jax.training import pretrain_settings, settings

VARIANTS = {
  "": {},
  "ci": {
    "data.suite": "tiny",
    "log_every": 2,
    "save_every": 3,
    "test_questions": 32,
    **{
      f"{stage}.{name}": value
      for stage in ("vision", "lookup", "grounding", "answers")
      for name, value in (("steps", 6), ("batch", 8), ("warmup", 2))
    },
  },
}


def get_config(arg: str = "") -> ml_collections.ConfigDict:
  return settings.config(
    "pretrain", pretrain_settings.PretrainSettings, VARIANTS, arg
  )
