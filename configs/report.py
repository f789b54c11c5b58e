"""Makes the report of a finished run anew, or compares finished runs.

`python -m eos_jax.main --config=configs/report.py --workdir=runs/search` reads
the files in --workdir and writes the report there;
`--config.runs="('runs/a','runs/b')"` writes a table of the results of these
runs to --workdir (runs/report).
"""

import ml_collections

from eos_jax.training import report_settings, settings


def get_config(arg: str = "") -> ml_collections.ConfigDict:
  return settings.config("report", report_settings.ReportJob, arg=arg)
