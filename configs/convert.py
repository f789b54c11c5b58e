"""Converts a published checkpoint: from Hugging Face's layout to Orbax's.

`--config=configs/convert.py --config.model.path=FOLDER --workdir=OUT` says what
the model takes and whether it fits, reads FOLDER, and writes OUT, which can be
restored on any number of devices.
"""

import ml_collections


def get_config(arg: str = "") -> ml_collections.ConfigDict:
  """Returns the config; it has no variants."""
  if arg:
    raise ValueError(f"variant {arg!r} is unknown; there is none")
  config = ml_collections.ConfigDict()
  config.task = "convert"

  config.model = ml_collections.ConfigDict()
  config.model.path = ""  # config.json, safetensors, the tokenizer's files
  config.model.dtype = ""  # "float32", "bfloat16", "float16"; "" = as stored
  config.model.allow_outside = False  # weights that links or the index reach

  # Devices along data, fsdp and tensor; parameters are cut along the last two.
  config.mesh = ()  # as many along fsdp as the shapes allow
  return config.lock()
