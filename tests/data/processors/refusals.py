"""What is said where a model folder is refused."""

import pytest

from eos_jax.data import processors


def of(path, **options):
  """The message about a folder that has to be refused."""
  with pytest.raises(ValueError) as error:
    processors.load(path, **options)
  return str(error.value)
