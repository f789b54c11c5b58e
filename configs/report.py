"""Makes the report of a finished run anew, or compares finished runs.

`python -m eos_jax.main --config=configs/report.py --workdir=runs/search` reads
the files in --workdir and writes the report there;
`--config.runs="('runs/a','runs/b')"` writes a table of the results of these
runs to --workdir (runs/report).
"""

import ml_collections


def get_config(arg: str = "") -> ml_collections.ConfigDict:
  """Returns the config; it has no variants."""
  if arg:
    raise ValueError(f"variant {arg!r} is unknown; there is none")
  config = ml_collections.ConfigDict()
  config.task = "report"
  config.runs = ()  # directories of runs to compare
  return config.lock()
