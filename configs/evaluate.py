"""Judges a model on questions, dense, under plans and under presets.

`--config=configs/evaluate.py --config.plans="('runs/search/plans/16.json',)"`
asks the tiny model the whole test split of the rendered suite. With
`--config.model=FOLDER` it is another model, with `--config.data.path=FILE.json`
instructions, and with `--config.data.path=BENCHMARKS
--config.data.names="('pope','gqa')"` benchmarks in their official files. `:ci`
asks a few questions, for tests.

The settings are described in `eos_jax/training/evaluate_settings.py` and
`eos_jax/training/data_settings.py`.
"""

import ml_collections

from eos_jax.training import evaluate_settings, settings

VARIANTS = {
  "": {},
  "ci": {"data.suite": "tiny", "questions": 32, "batch": 16, "presets": ()},
}


def get_config(arg: str = "") -> ml_collections.ConfigDict:
  kind = evaluate_settings.EvaluateJob
  return settings.config("evaluate", kind, VARIANTS, arg)
