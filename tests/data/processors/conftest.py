"""Fixtures of the tests of processors."""

import pytest

from tests.data.processors import samples


@pytest.fixture
def write(tmp_path):
  """Writes a folder of `samples` under its name."""

  def call(name, **changes):
    return samples.write(name, tmp_path / name, **changes)

  return call
