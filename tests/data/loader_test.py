"""Batches: their arrays, their order, and that they resume."""

import collections

import numpy as np
import pytest

from eos_jax.data import labels, loader, packing


def _batches(kind, sources, tok, **options):
  if kind == "vision":
    return loader.vision_batches(sources, **options)
  return getattr(loader, f"{kind}_batches")(sources, tok, **options)


def _assert_equal(first, second):
  assert first.keys() == second.keys()
  for key in first:
    np.testing.assert_array_equal(first[key], second[key], err_msg=key)


def _differ(first, second):
  return any((first[key] != second[key]).any() for key in first)


SHAPES = {
  "vision": {
    "image": ((4, 96, 96, 3), np.uint8),
    "patch_labels": ((4, 12, 12, 5), np.uint8),
    "patch_valid": ((4,), np.bool_),
    "scene_labels": ((4, labels.NUM_SCENE), np.uint8),
    "scene_valid": ((4, labels.NUM_SCENE), np.bool_),
  },
  "packed": {
    "image": ((4, 96, 96, 3), np.uint8),
    "tokens": ((4, packing.DEFAULT_PACKED_LENGTH), np.int32),
    "segments": ((4, packing.DEFAULT_PACKED_LENGTH), np.int32),
    "positions": ((4, packing.DEFAULT_PACKED_LENGTH), np.int32),
    "loss_mask": ((4, packing.DEFAULT_PACKED_LENGTH), np.bool_),
  },
  "question": {
    "image": ((4, 96, 96, 3), np.uint8),
    "tokens": ((4, packing.DEFAULT_TEXT_LENGTH), np.int32),
    "mask": ((4, packing.DEFAULT_TEXT_LENGTH), np.bool_),
    "prompt_length": ((4,), np.int32),
    "loss_mask": ((4, packing.DEFAULT_TEXT_LENGTH), np.bool_),
    "task": ((4,), np.int32),
  },
}


@pytest.mark.parametrize("kind", SHAPES)
def test_shapes_and_types(kind, load, tok):
  sources = [load(), load("easy_vqa")]
  batch = next(_batches(kind, sources, tok, batch=4, seed=0))
  assert {k: (v.shape, v.dtype) for k, v in batch.items()} == SHAPES[kind]


@pytest.mark.parametrize("kind", SHAPES)
@pytest.mark.parametrize("processes", [1, 2])
def test_a_stream_goes_on_where_it_stood(kind, processes, load, tok):
  sources = [load(), load("easy_vqa")]
  make = lambda **part: _batches(kind, sources, tok, seed=3, **part)
  iterator = make(batch=8)
  for _ in range(3):
    next(iterator)
  assert iterator.position == 3
  expected = [next(iterator) for _ in range(3)]
  for index in range(processes):
    # In as many processes as may be: the place is one of the whole batches.
    fresh = make(
      batch=8 // processes, process_index=index, process_count=processes
    )
    fresh.seek(3)
    for batch in expected:
      part = {name: rows[index::processes] for name, rows in batch.items()}
      _assert_equal(part, next(fresh))


@pytest.mark.parametrize("kind", SHAPES)
def test_batches_are_a_function_of_the_seed(kind, load, tok):
  make = lambda seed: next(_batches(kind, [load()], tok, batch=8, seed=seed))
  _assert_equal(make(1), make(1))
  assert _differ(make(1), make(2))


def test_every_epoch_has_each_picture_once_in_a_new_order(load):
  source = load(split="test")
  iterator = loader.vision_batches([source], batch=64, seed=0)
  epochs = [next(iterator)["image"] for _ in range(2)]
  keys = [[image.tobytes() for image in epoch] for epoch in epochs]
  assert set(keys[0]) == set(keys[1]) and len(set(keys[0])) == 64
  assert keys[0] != keys[1]


def test_processes_share_a_stream(load):
  source = load(split="test")
  parts = [
    next(
      loader.vision_batches(
        [source], batch=32, seed=0, process_index=i, process_count=2
      )
    )
    for i in range(2)
  ]
  keys = [{image.tobytes() for image in part["image"]} for part in parts]
  assert not keys[0] & keys[1] and len(keys[0] | keys[1]) == 64


def test_weights_mix_the_sources(load):
  sources = [load(), load("easy_vqa")]
  share = lambda **options: np.mean(
    next(loader.vision_batches(sources, batch=200, seed=0, **options))[
      "patch_valid"
    ]
  )
  assert share(weights=[3, 1]) == pytest.approx(0.75, abs=0.02)
  assert share(weights=[0, 2]) == 0.0 and share(weights=[2, 0]) == 1.0
  # By size: 256 of 3956 pictures.
  assert share() == pytest.approx(0.065, abs=0.02)


def test_easy_vqa_pictures_say_which_labels_they_have(load):
  batch = next(loader.vision_batches([load("easy_vqa")], batch=64, seed=0))
  assert not batch["patch_valid"].any() and not batch["patch_labels"].any()
  assert not batch["scene_valid"][:, : labels.EASY_START].any()
  for name in ("easy_shape", "easy_color"):
    section = labels.SCENE_SECTIONS[name]
    known = batch["scene_labels"][:, section].any(axis=1)
    np.testing.assert_array_equal(
      batch["scene_valid"][:, section].any(axis=1), known
    )
    np.testing.assert_array_equal(
      batch["scene_valid"][:, section].all(axis=1), known
    )


def test_packed_questions_are_different_ones_of_the_picture(load, tok):
  source = load(split="test")
  by_image = {
    source[i].image.tobytes(): set(source[i].questions)
    for i in range(len(source))
  }
  batch = next(loader.packed_batches([source], tok, batch=16, seed=0))
  for row in range(16):
    asked = by_image[batch["image"][row].tobytes()]
    texts = {(q.question, q.answer) for q in asked}
    segments = batch["segments"][row]
    found = []
    for segment in range(1, segments.max() + 1):
      inside = segments == segment
      answer = inside & batch["loss_mask"][row]
      prompt = batch["tokens"][row][inside & ~answer]
      text = tok.decode(prompt[:-2])
      found.append((text, tok.decode(batch["tokens"][row][answer])))
    assert len(set(found)) == len(found) >= 4
    assert set(found) <= texts


def test_bad_options_are_named(load, tok):
  with pytest.raises(ValueError, match="sources is empty"):
    loader.vision_batches([], batch=2, seed=0)
  with pytest.raises(ValueError, match="weights has 2 entries for 1"):
    loader.vision_batches([load()], batch=2, seed=0, weights=[1, 2])
  with pytest.raises(ValueError, match="process_index 2 is not in 0..1"):
    loader.vision_batches(
      [load()], batch=2, seed=0, process_index=2, process_count=2
    )
  with pytest.raises(ValueError, match="text_length 6 is too short"):
    next(loader.question_batches([load()], tok, batch=2, seed=0, text_length=6))


def test_evaluation_set_is_stratified_and_fixed(load, tok):
  sources = [load(split="test"), load("easy_vqa", "test")]
  make = lambda seed: loader.evaluation_set(sources, tok, count=62, seed=seed)
  chosen = make(0)
  counts = collections.Counter(q.task for q in chosen.questions)
  assert len(chosen) == 62
  assert set(counts) == set(labels.TASKS)
  assert set(counts.values()) == {10, 11}
  assert chosen.items == make(0).items != make(1).items
  assert len(set(chosen.items)) == 62


def test_scarce_tasks_leave_their_share_to_the_others(load, tok):
  source = load(split="test")
  counts = collections.Counter(q.task for q in source.questions())
  scarce = min(counts.values())
  count = 5 * scarce + 40
  chosen = loader.evaluation_set([source], tok, count=count, seed=0)
  assert len(chosen) == count
  got = collections.Counter(q.task for q in chosen.questions)
  assert min(got.values()) == scarce
  assert max(got.values()) - sorted(got.values())[1] <= 1


def test_evaluation_batches_cover_the_set_once(load, tok):
  source = load(split="test")
  whole = loader.evaluation_set([source], tok, count=None, seed=0)
  assert sorted(whole.questions) == sorted(source.questions())
  chosen = loader.evaluation_set([source], tok, count=21, seed=0)
  batches = list(chosen.batches(8))
  assert [b["valid"].sum() for b in batches] == [8, 8, 5]
  seen = []
  for batch in batches:
    assert batch["image"].shape == (8, 96, 96, 3)
    for row in np.flatnonzero(batch["valid"]):
      index = batch["index"][row]
      seen.append(index)
      answer = batch["tokens"][row][batch["loss_mask"][row]]
      assert tok.decode(answer) == chosen.answers[index]
      _, picture, question = chosen.items[index]
      assert labels.TASKS[batch["task"][row]] == question.task
      expected = source[picture].image
      np.testing.assert_array_equal(batch["image"][row], expected)
  assert seen == list(range(21))


def test_evaluation_set_needs_something_to_choose_from(load, tok):
  with pytest.raises(ValueError, match="no questions"):
    loader.evaluation_set([], tok, count=None, seed=0)
  with pytest.raises(ValueError, match="count 0 is not in 1.."):
    loader.evaluation_set([load()], tok, count=0, seed=0)
