"""The tiny suite and easy_vqa, built once for all tests of this folder."""

import pytest

from eos_jax.data import sources, tokenizer


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory):
  path = tmp_path_factory.mktemp("tfds")
  for name in sources.NAMES:
    sources.build(name, data_dir=path, config="tiny")
  return path


@pytest.fixture(scope="session")
def load(data_dir):
  def call(name="mini_suite", split="train", **options):
    return sources.load(
      name, split, data_dir=data_dir, config="tiny", **options
    )

  return call


@pytest.fixture(scope="session")
def tok():
  return tokenizer.load()
