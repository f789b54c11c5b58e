"""Settings of the conversion of published checkpoints."""

import dataclasses

from eos_jax.training import settings, shared_settings


@dataclasses.dataclass(frozen=True)
class ConvertJob(shared_settings.MeshSettings):
  """The conversion of a published checkpoint.

  Attributes:
    model: which, and the dtype of what is written.
  """

  model: shared_settings.ModelSettings = settings.group(
    shared_settings.ModelSettings, dtype=""
  )
