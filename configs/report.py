"""Makes the report of a finished search anew, from the files in --workdir.

`python -m eos_jax.main --config=configs/report.py --workdir=runs/search`
"""

import ml_collections

from eos_jax.training import report_settings, settings


def get_config(arg: str = "") -> ml_collections.ConfigDict:
  return settings.config("report", report_settings.ReportJob, arg=arg)
