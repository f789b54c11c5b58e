"""Settings of reports."""

import dataclasses

from eos_jax.training import settings


@dataclasses.dataclass(frozen=True)
class ReportJob(settings.Checked):
  """The report of a finished run, from its files, or a comparison of runs.

  Attributes:
    runs: directories of finished runs to compare; () = report one run.
  """

  runs: tuple[str, ...] = settings.field((), once=True, resumable=True)
