"""A tiny LLaVA-1.5 answers as transformers did, without transformers."""

import pytest

from tests.parity import harness, recorded


@pytest.mark.slow
def test_logits(record_property):
  image, valid = recorded.pictures()
  loaded = harness.loaded(recorded.FOLDER)
  difference = harness.logit_difference(
    recorded.CASE, *loaded, image, record_property, valid=valid
  )
  assert difference <= harness.TOLERANCE


@pytest.mark.slow
def test_greedy_answers():
  image, valid = recorded.pictures()
  loaded = harness.loaded(recorded.FOLDER)
  ours, theirs = harness.answers(recorded.CASE, *loaded, image, valid=valid)
  assert ours == theirs
