"""Examples come back from their file as they were."""

import dataclasses
import random

import numpy as np
import pytest

from eos_jax.evaluation import examples
from tests import campaign


def _saved(path, sites=("decoder.1",)):
  before = examples.Examples(
    images=np.arange(192, dtype=np.uint8).reshape(1, 8, 8, 3),
    questions=("what is written?",),
    expected=("red",),
    answers=("blue",),
    owner=np.arange(4)[None],
    left_at=np.full((1, 4), len(sites)),
    sites=sites,
  )
  examples.save(path, before)
  return before


@pytest.mark.parametrize("sites", [(), ("vision.3", "decoder.1")])
def test_round_trip(tmp_path, sites):
  before = _saved(tmp_path / "a.npz", sites)
  after = examples.load(tmp_path / "a.npz")
  for field in dataclasses.fields(before):
    old, new = (getattr(x, field.name) for x in (before, after))
    assert type(old) is type(new)
    np.testing.assert_array_equal(old, new)


def test_damaged_examples_are_refused_or_as_they_were(tmp_path):
  path, draws = tmp_path / "a.npz", random.Random(3)
  before, refused = _saved(path), 0
  data = path.read_bytes()
  for _ in range(300):
    kind, changed = campaign.damaged(data, draws)
    path.write_bytes(changed)
    try:
      after = examples.load(path)
    except ValueError as error:
      assert str(path) in str(error), kind
      refused += 1
      continue
    for field in dataclasses.fields(before):
      old, new = (getattr(x, field.name) for x in (before, after))
      np.testing.assert_array_equal(old, new, kind)
  assert refused > 150
