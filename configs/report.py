"""Makes the report of a finished search anew, from the files in --workdir.

`python -m eos_jax.main --config=configs/report.py --workdir=runs/search`
"""

import ml_collections


def get_config(arg: str = "") -> ml_collections.ConfigDict:
  """Returns the config; it has no variants."""
  if arg:
    raise ValueError(f"variant {arg!r} is unknown; there is none")
  config = ml_collections.ConfigDict()
  config.task = "report"
  return config.lock()
