"""Batches: their arrays, their order, and that they resume."""

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


@pytest.mark.slow
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


def test_bad_options_are_named(load):
  with pytest.raises(ValueError, match="sources is empty"):
    loader.vision_batches([], batch=2, seed=0)
  with pytest.raises(ValueError, match="weights has 2 entries for 1"):
    loader.vision_batches([load()], batch=2, seed=0, weights=[1, 2])
  with pytest.raises(ValueError, match="process_index 2 is not in 0..1"):
    loader.vision_batches(
      [load()], batch=2, seed=0, process_index=2, process_count=2
    )
