"""Settings of the conversion of checkpoints."""

import dataclasses

from eos_jax.training import settings, shared_settings


@dataclasses.dataclass(frozen=True)
class ConvertJob(shared_settings.ModelSettings):
  """The conversion of a checkpoint from Hugging Face's layout to Orbax's.

  It says what the model needs and whether there is memory for it, reads it, and
  writes a folder that can be restored on any number of devices.
  """

  model: str = settings.field("", needed="give the folder of a checkpoint")
