"""Fine-tunes projector and decoder under a fixed plan, tokens really dropped.

`--config=configs/finetune.py --config.plan=runs/search/plans/16.json` trains on
the train split (rendered on first use), writes the weights, and judges the plan
with and without them; `:ci` is a short form on a small data set, for tests.
"""

import ml_collections


def get_config(arg: str = "") -> ml_collections.ConfigDict:
  """Returns the config; `arg` is "" or "ci"."""
  if arg not in ("", "ci"):
    raise ValueError(f"variant {arg!r} is unknown; use '' or 'ci'")
  config = ml_collections.ConfigDict()
  config.task = "finetune"
  config.seed = 0
  config.plan = ""  # the plan's JSON file
  config.weights_path = ""  # "" = the weights inside the package

  config.data = ml_collections.ConfigDict()
  config.data.suite = "default"
  config.data.directory = ""  # "" = where tensorflow_datasets keeps its data
  config.weights = (0.85, 0.15)  # share of mini_suite and easy_vqa pictures

  config.steps = 400
  config.batch = 24
  config.micro_batch = 0  # questions at once, against memory; 0 = all of them
  config.learning_rate = 3e-4  # peak, of AdamW
  config.warmup = 40
  config.weight_decay = 0.01

  # Checks on validation questions while it runs.
  config.check_every = 100
  config.check_questions = 384
  config.check_batch = 64
  config.log_every = 10
  config.save_every = 100
  config.keep = 2  # newest checkpoints
  config.best = False  # True: what the checks found best, not the last
  config.trace_steps = ()  # (first, last): jax.profiler's trace of these
  config.output = "finetuned.safetensors"  # a new file with this suffix

  config.evaluation = ml_collections.ConfigDict()
  config.evaluation.questions = 1000
  config.evaluation.batch = 128
  config.evaluation.seed = 0
  config.evaluation.presets = ()

  if arg == "ci":
    config.data.suite = "tiny"
    config.steps, config.batch, config.warmup, config.check_every = 4, 8, 1, 2
    config.check_questions, config.check_batch = 16, 8
    config.log_every, config.save_every = 1, 2
    config.evaluation.questions, config.evaluation.batch = 32, 16
  return config.lock()
