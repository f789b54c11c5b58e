"""Settings of reports."""

import dataclasses

from eos_jax.training import settings


@dataclasses.dataclass(frozen=True)
class ReportJob(settings.Checked):
  """A report is made from the files of a run; it has no settings."""
