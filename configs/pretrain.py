"""Pretraining of the shipped `tiny` model, in four stages.

`--config=configs/pretrain.py` is the run that made the shipped weights;
`:ci` is the same in a minute on a small data set, for tests.
"""

import ml_collections


def get_config(arg: str = "") -> ml_collections.ConfigDict:
  """Returns the config; `arg` is "" or "ci"."""
  if arg not in ("", "ci"):
    raise ValueError(f"variant {arg!r} is unknown; use '' or 'ci'")
  config = ml_collections.ConfigDict()
  config.task = "pretrain"
  config.seed = 0

  config.data = ml_collections.ConfigDict()
  config.data.suite = "default"
  config.data.directory = ""  # "" = where tensorflow_datasets keeps its data

  # First stage: the vision encoder, on patches and on the class token.
  config.vision = ml_collections.ConfigDict()
  config.vision.steps = 1400
  config.vision.batch = 32
  config.vision.learning_rate = 5e-3  # Muon, for matrices
  config.vision.adam_learning_rate = 2e-3  # for everything else
  config.vision.warmup = 100
  config.vision.weight_decay = 0.05

  # Then projector and decoder: on all questions until they find what is named,
  # on where objects are, and on all questions again.
  for name, steps in (("lookup", 2000), ("grounding", 600), ("answers", 5000)):
    stage = config[name] = ml_collections.ConfigDict()
    stage.steps = steps
    stage.batch = 16
    stage.learning_rate = 4e-3
    stage.adam_learning_rate = 2e-3
    stage.warmup = 100
    stage.weight_decay = 0.05

  config.questions = 8  # questions of a picture that share a sequence
  config.places = 4  # questions about places, added to its own before the draw
  config.text_length = 104  # tokens of that sequence
  config.weights = (0.85, 0.15)  # share of mini_suite and easy_vqa pictures
  config.log_every = 20
  config.save_every = 200
  config.output = "tiny.safetensors"  # a new file with this suffix
  config.test_questions = 0  # of the card's accuracy; 0 = both test splits

  if arg == "ci":
    config.data.suite = "tiny"
    for name in ("vision", "lookup", "grounding", "answers"):
      stage = config[name]
      stage.steps, stage.batch, stage.warmup = 6, 8, 2
    config.log_every, config.save_every = 2, 3
    config.test_questions = 32
  return config.lock()
