"""Examples come back from their file as they were."""

import dataclasses

import numpy as np
import pytest

from eos_jax.evaluation import examples


@pytest.mark.parametrize("sites", [(), ("vision.3", "decoder.1")])
def test_round_trip(tmp_path, sites):
  before = examples.Examples(
    images=np.zeros((1, 8, 8, 3), np.uint8),
    tasks=("text",),
    questions=("what is written?",),
    expected=("red",),
    answers=("blue",),
    owner=np.arange(4)[None],
    left_at=np.full((1, 4), len(sites)),
    kept=np.ones(4),
    sites=sites,
  )
  examples.save(tmp_path / "a.npz", before)
  after = examples.load(tmp_path / "a.npz")
  for field in dataclasses.fields(before):
    old, new = (getattr(x, field.name) for x in (before, after))
    assert type(old) is type(new)
    np.testing.assert_array_equal(old, new)
