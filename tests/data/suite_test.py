"""The suite as questions: its streams, and its fixed sets."""

import collections
import hashlib

import jax
import numpy as np
import pytest

from eos_jax.data import labels, question_sets, suite, tiny_rows

ARRAYS = ("tokens", "mask", "prompt_length", "loss_mask")


@pytest.fixture(scope="module")
def asked(data_dir, tok):
  """The tiny suite, asked to the tiny model."""
  rows = tiny_rows.TinyRows(tok, 16)
  return suite.Suite(rows, suite="tiny", directory=str(data_dir))


@pytest.fixture(scope="module")
def batches(asked):
  """Makes endless batches of the split "train"."""

  def call(seed, **options):
    return question_sets.batches(asked.dataset("train", seed), **options)

  return call


def _same(one, other):
  jax.tree.map(np.testing.assert_array_equal, one, other)


def _digest(batches, names):
  found = hashlib.sha256()
  for batch in batches:
    for name in names:
      found.update(batch[name].tobytes())
  return found.hexdigest()


def test_shapes_and_types(batches):
  batch = next(batches(0, batch=4))
  assert {k: (v.shape, v.dtype) for k, v in batch.items()} == {
    "image": ((4, 96, 96, 3), np.uint8),
    "tokens": ((4, 16), np.int32),
    "mask": ((4, 16), np.bool_),
    "prompt_length": ((4,), np.int32),
    "loss_mask": ((4, 16), np.bool_),
  }


def test_streams_and_sets_stay_what_they_are(asked, batches):
  """Plans are compared across versions; other questions would change them."""
  stream = batches(3, batch=8)
  assert _digest([next(stream) for _ in range(3)], ARRAYS) == (
    "b85c226c48dc3c03843f87ed69be6f7f8f13555b0b84ff281ab3ef3c1f4e59d6"
  )
  (fixed,) = asked.choose("test", count=21, seed=0)
  assert _digest(fixed.batches(8), (*ARRAYS, "valid", "index")) == (
    "b756d796ebdb47052f57e3807f6a4b55e0194094af84aed3eb099739de9d9755"
  )


@pytest.mark.parametrize("processes", [1, 2])
def test_a_stream_goes_on_where_it_stood(processes, batches):
  iterator = batches(3, batch=8)
  for _ in range(3):
    next(iterator)
  assert iterator.position == 3
  expected = [next(iterator) for _ in range(3)]
  for index in range(processes):
    # In as many processes as may be: the place is one of the whole batches.
    fresh = batches(
      3, batch=8 // processes, process_index=index, process_count=processes
    )
    fresh.seek(3)
    for batch in expected:
      part = {name: rows[index::processes] for name, rows in batch.items()}
      _same(part, next(fresh))


def test_batches_are_a_function_of_the_seed(batches):
  one, again, other = (next(batches(seed, batch=8)) for seed in (1, 1, 2))
  _same(one, again)
  assert any((one[name] != other[name]).any() for name in one)


def test_two_splits_beside_each_other(asked, batches):
  pairs = question_sets.batches(
    asked.dataset("train", 3), asked.dataset("validation", 3), batch=4
  )
  alone = batches(3, batch=4)
  for _ in range(2):
    one, other = next(pairs)
    _same(one, next(alone))
    assert one["image"].tobytes() != other["image"].tobytes()


def test_a_set_is_stratified_and_fixed(asked):
  make = lambda seed: asked.choose("test", count=62, seed=seed)[0]
  chosen = make(0)
  counts = collections.Counter(chosen.tasks)
  assert len(chosen) == 62 and set(counts) == set(labels.TASKS)
  assert set(counts.values()) == {10, 11}
  assert chosen.digests == make(0).digests != make(1).digests
  assert len(set(chosen.digests)) == 62
  # Questions of an image are neighbours.
  numbers = chosen.image_ids
  assert numbers.tolist() == sorted(numbers) and numbers[-1] < 61


def test_scarce_tasks_leave_their_share_to_the_others(load):
  by_task = collections.defaultdict(list)
  for question in load(split="test").questions():
    by_task[question.task].append(question)
  scarce = min(map(len, by_task.values()))
  count = 5 * scarce + 40
  chosen = suite.stratified(by_task, count, 0)
  assert len(chosen) == count
  got = collections.Counter(question.task for question in chosen)
  assert min(got.values()) == scarce
  assert max(got.values()) - sorted(got.values())[1] <= 1


@pytest.mark.slow
def test_batches_cover_a_set_once(asked, load, tok):
  (whole,) = asked.choose("test", count=0, seed=0)
  known = [
    (question.question, question.answer, question.task)
    for name in ("mini_suite", "easy_vqa")
    for question in load(name, "test").questions()
  ]
  listed = [(item.question, item.answer, item.task) for item in whole.items]
  assert sorted(listed) == sorted(known)
  (chosen,) = asked.choose("test", count=21, seed=0)
  batches = list(chosen.batches(8))
  assert [batch["valid"].sum() for batch in batches] == [8, 8, 5]
  seen = []
  for batch in batches:
    assert batch["image"].shape == (8, 96, 96, 3)
    for row in np.flatnonzero(batch["valid"]):
      index = batch["index"][row]
      seen.append(index)
      answer = batch["tokens"][row][batch["loss_mask"][row]]
      assert tok.decode(answer) == chosen.answers[index]
      item = chosen.items[index]
      expected = tiny_rows.small(item.images[0])
      np.testing.assert_array_equal(batch["image"][row], expected)
  assert seen == list(range(21))
  rest = list(chosen.batches(8, start=1))
  for one, other in zip(rest, batches[1:], strict=True):
    _same(one, other)


def test_what_there_is_not_is_refused(asked, data_dir, tok):
  assert asked.parts == ("train", "validation", "test")
  (fault,) = asked.faults(
    {
      "evaluation.questions": (10**6, "test"),
      "check_questions": (9, "validation"),
    }
  )
  assert fault == (
    "config.evaluation.questions is 1000000; the test split of"
    " config.data.suite='tiny' has 10298 questions, use at most so many"
  )
  held_out = suite.Suite(asked.rows, suite="held_out", directory=str(data_dir))
  assert held_out.parts == ("validation", "test")
  with pytest.raises(ValueError, match="text_length is 15, .* up to 16 tokens"):
    suite.Suite(tiny_rows.TinyRows(tok, 15), suite="tiny")
