"""Tests of operators compile far more than they compute."""

import jax
import pytest


@pytest.fixture(autouse=True)
def quick_compilation():
  """Leaves out most optimisations while a test runs: half the time."""
  before = jax.config.values["jax_disable_most_optimizations"]
  jax.config.update("jax_disable_most_optimizations", True)
  yield
  jax.config.update("jax_disable_most_optimizations", before)
