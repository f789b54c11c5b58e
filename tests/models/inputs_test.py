"""Batches of every kind reach the model as they are meant."""

import numpy as np
import pytest

from eos_jax import models
from tests.models import small


def test_8_bit_pictures_are_normalised_and_others_are_not():
  cfg = small.config()
  params = small.params(cfg)
  image = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3), np.uint8)
  ready = image.astype(np.float32) / 127.5 - 1
  raw = models.inputs.see(cfg, params, {"image": image})
  np.testing.assert_array_equal(
    raw.visual, models.inputs.see(cfg, params, {"image": ready}).visual
  )
  np.testing.assert_array_equal(
    raw.visual, models.see(cfg, params, ready).visual
  )


def test_a_prompt_ends_in_front_of_the_answer():
  text = models.inputs.prompt(
    {"tokens": np.zeros((2, 4), np.int32), "prompt_length": np.array([1, 3])}
    | {"mask": np.ones((2, 4), bool), "slots": np.array([[0], [2]])}
  )
  assert text.mask.tolist() == [
    [True, False, False, False],
    [True] * 3 + [False],
  ]
  assert text.slots.tolist() == [[0], [2]]


@pytest.mark.parametrize("count, kept", [(256, True), (257, False)])
def test_batches_are_made_once_unless_they_are_large(count, kept):
  array, made = np.zeros((2**10, 2**10), np.float32), []  # 4 MiB

  def make(start):
    for number in range(start, 3):
      made.append(number)
      yield number, {"image": array}

  batches = models.inputs.Kept()
  # What is passed over or not read to its end is made again.
  assert list(batches.batches(make, count, 1)) == [1, 2]
  assert next(batches.batches(make, count)) == 0
  assert list(batches.batches(make, count)) == [0, 1, 2]
  assert made == [1, 2, 0, 0, 1, 2]
  assert list(batches.batches(make, count)) == [0, 1, 2]
  assert list(batches.batches(make, count, 2)) == [2]
  assert len(made) == (6 if kept else 10)
