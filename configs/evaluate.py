"""Judges plans: accuracy and cost, compared with dense and with presets.

`--config=configs/evaluate.py --config.plan=runs/search/plans/16.json` asks the
shipped model the whole test split; `:ci` asks a few questions on a small data
set, for tests.

`:llava_1_5_7b`, `:llava_onevision_7b`, `:qwen2_vl_7b`, `:smolvlm_500m` ask a
published model benchmarks:
`--config.model.path=FOLDER --config.data.folder=BENCHMARKS
--config.data.names="('pope','gqa')" --config.plans="('plans/64.json',)"`.

The settings are described in `eos_jax/training/evaluate_settings.py`.
"""

import ml_collections

from eos_jax.training import evaluate_settings, settings

# The static shape of an image, as in `configs/search.py`. Conversation and
# squares of LLaVA-1.5 are those of its authors.
PUBLISHED = {
  "llava_1_5_7b": {"data.style": "vicuna", "data.aspect": "pad"},
  "llava_onevision_7b": {"data.tiles": (2, 2)},
  "qwen2_vl_7b": {"data.size": (672, 672)},
  "smolvlm_500m": {"data.pictures": 17},
}
VARIANTS = {
  "": {},
  "ci": {
    "data.suite": "tiny",
    "evaluation.questions": 32,
    "evaluation.batch": 16,
  },
  **PUBLISHED,
}


def get_config(arg: str = "") -> ml_collections.ConfigDict:
  if arg in PUBLISHED:
    kind = evaluate_settings.EvaluatePublishedJob
    return settings.config("evaluate_published", kind, VARIANTS, arg)
  return settings.config(
    "evaluate", evaluate_settings.EvaluateJob, VARIANTS, arg
  )
