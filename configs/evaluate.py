"""Judges one plan: accuracy with standard errors, and cost, beside dense.

`--config=configs/evaluate.py --config.plan=runs/search/plans/16.json` asks the
whole test split; `:ci` asks a few questions on a small data set, for tests.
"""

import ml_collections


def get_config(arg: str = "") -> ml_collections.ConfigDict:
  """Returns the config; `arg` is "" or "ci"."""
  if arg not in ("", "ci"):
    raise ValueError(f"variant {arg!r} is unknown; use '' or 'ci'")
  config = ml_collections.ConfigDict()
  config.task = "evaluate"
  config.plan = ""  # the plan's JSON file
  config.weights_path = ""  # "" = the weights inside the package

  config.data = ml_collections.ConfigDict()
  config.data.suite = "held_out"
  config.data.directory = ""  # "" = where tensorflow_datasets keeps its data

  config.evaluation = ml_collections.ConfigDict()
  config.evaluation.questions = 0  # 0 = the whole test split
  config.evaluation.batch = 128
  config.evaluation.seed = 0
  # Hand-made operators to judge at the plan's layer average, such as "prune".
  config.evaluation.presets = ()

  if arg == "ci":
    config.data.suite = "tiny"
    config.evaluation.questions, config.evaluation.batch = 32, 16
  return config.lock()
