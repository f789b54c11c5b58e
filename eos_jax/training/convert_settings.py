"""Settings of the conversion of checkpoints."""

import dataclasses

from eos_jax.training import settings, shared_settings


@dataclasses.dataclass(frozen=True)
class ConvertJob(shared_settings.ModelSettings):
  """The conversion of a checkpoint from Hugging Face's layout to Orbax's.

  It says what the model needs and whether there is memory for it, reads it, and
  writes a folder that can be restored on any number of devices.
  """

  # A folder holds one model: no other one may follow into it.
  model: str = settings.field("", needed="give the folder of a checkpoint")
  dtype: str = settings.field("", choices=("", *shared_settings.DTYPES))
