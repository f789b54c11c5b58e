"""Converts a published checkpoint: from Hugging Face's layout to Orbax's.

`--config=configs/convert.py --config.model=FOLDER --workdir=OUT` says how
much memory the model needs and whether it fits, reads FOLDER, and writes OUT,
which can be restored on any number of devices. The settings are described in
`eos_jax/training/convert_settings.py`.
"""

import ml_collections

from eos_jax.training import convert_settings, settings


def get_config(arg: str = "") -> ml_collections.ConfigDict:
  return settings.config("convert", convert_settings.ConvertJob, arg=arg)
