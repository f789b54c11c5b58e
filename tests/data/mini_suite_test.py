"""Pictures: the same each time, other in each split, labelled as painted."""

import hashlib
import signal
import subprocess

import numpy as np
import pytest

from eos_jax.data import (
  charts,
  generator,
  labels,
  mini_suite,
  render,
  rendering,
  scenes,
)


def _digest(image):
  return hashlib.sha256(image.tobytes()).hexdigest()


def _word(text, x, y):
  return scenes.Word(text, text, x, y)


def test_a_picture_is_a_function_of_seed_split_and_index():
  first = generator.picture("train", 7)
  again = generator.picture("train", 7)
  np.testing.assert_array_equal(first.image, again.image)
  np.testing.assert_array_equal(first.patch_labels, again.patch_labels)
  np.testing.assert_array_equal(first.scene_labels, again.scene_labels)
  assert first.questions == again.questions
  others = [
    generator.picture("train", 8),
    generator.picture("test", 7),
    generator.picture("train", 7, seed=1),
  ]
  assert len({_digest(p.image) for p in [first, *others]}) == 4


def test_splits_share_no_picture(load):
  digests = []
  for split in generator.SPLITS:
    source = load(split=split)
    digests += [_digest(source[index].image) for index in range(len(source))]
  assert len(set(digests)) == len(digests) == 384


def test_records_are_what_the_generator_renders(load):
  source = load(split="validation")
  assert len(source) == mini_suite.COUNTS["tiny"]["validation"]
  for index in (0, 31, 63):
    record = source[index]
    made = generator.picture("validation", index)
    np.testing.assert_array_equal(record.image, made.image)
    np.testing.assert_array_equal(record.patch_labels, made.patch_labels)
    np.testing.assert_array_equal(record.scene_labels, made.scene_labels)
    assert record.questions == made.questions == source.questions_of(index)
    assert record.image_id == f"validation/{index}"
    assert record.image.dtype == np.uint8 and record.image.shape == (96, 96, 3)
    assert record.patch_labels.dtype == record.scene_labels.dtype == np.uint8


@pytest.mark.slow
def test_helper_processes_render_the_same_in_the_same_order():
  alone = list(rendering.rendered("test", 120, workers=0))
  helped = list(rendering.rendered("test", 120, workers=2))
  assert [a[:2] for a in alone] == [b[:2] for b in helped]
  for one, other in zip(alone, helped, strict=True):
    np.testing.assert_array_equal(one[2], other[2])
    np.testing.assert_array_equal(one[3], other[3])


def test_helpers_end_with_the_reader(monkeypatch):
  helpers, popen = [], subprocess.Popen

  def remembered(*args, **kwargs):
    helpers.append(popen(*args, **kwargs))
    return helpers[-1]

  monkeypatch.setattr(rendering.subprocess, "Popen", remembered)
  stream = rendering.rendered("test", 5000, workers=1)
  next(stream)
  assert [helper.poll() for helper in helpers] == [None]
  stream.close()
  assert helpers[0].poll() == -signal.SIGKILL


def test_a_dying_helper_is_an_error(monkeypatch):
  monkeypatch.setattr(rendering.sys, "executable", "/bin/false")
  with pytest.raises(RuntimeError, match="rendered test ended early"):
    list(rendering.rendered("test", 100, workers=1))


def test_generator_hash_depends_on_the_seed():
  assert generator.generator_hash() == generator.generator_hash()
  assert generator.generator_hash(1) != generator.generator_hash()
  assert len(generator.generator_hash()) == 64


def test_unknown_split_and_shape_name_what_there_is():
  with pytest.raises(ValueError, match="'dev'.*train"):
    generator.picture("dev", 0)
  with pytest.raises(ValueError, match="'star'.*circle"):
    render.shape_tile("star", 5, 5, 4)


def test_labels_of_a_scene_made_by_hand():
  scene = scenes.Scene(
    items=(
      scenes.Item("square", "red", "large", 20.0, 20.0, 8.0),
      scenes.Item("circle", "teal", "small", 68.0, 20.0, 4.0),
    ),
    words=(_word("cat", 8.0, 50), _word("dog", 50.0, 80)),
    color="red",
    shape="circle",
  )
  canvas = render.new_canvas(np.random.default_rng(0))
  for item in scene.items:
    render.paint_object(canvas, np.random.default_rng(0), **vars(item))
  for line, word in enumerate(scene.words):
    render.paint_word(
      canvas, np.random.default_rng(0), word.text, word.x, word.y, line=line
    )
  patches, image = render.patch_labels(canvas), render.finish(canvas)

  # Patch row 2, column 2 has its centre at (20, 20), that of the red square.
  assert patches[2, 2].tolist() == [2, 1, 2, 128, 128]
  # One patch to the right: the centre is 8 pixels to the left.
  assert patches[2, 3].tolist() == [2, 1, 2, 112, 128]
  assert patches[1, 2].tolist() == [2, 1, 2, 128, 144]
  # Row 2, column 8 has its centre at (68, 20): the teal circle.
  assert patches[2, 8].tolist() == [1, 6, 1, 128, 128]
  assert patches[5, 10].tolist() == [0, 0, 0, 128, 128]
  # The C of CAT fills x 8..17, y 50..60, centre (12.5, 55).
  c = labels.KIND_LETTER + 2
  assert patches[6, 1].tolist() == [c, 0, 1, 129, 134]
  kinds = set(patches[..., 0].ravel().tolist())
  letters = {labels.KIND_LETTER + labels.LETTERS.index(x) for x in "CATDOG"}
  assert kinds == {0, 1, 2} | letters
  lower = patches[10:, :, :]
  assert set(lower[lower[..., 0] > 6][:, 2].tolist()) == {4, 5, 6}

  red, green, blue = image[20, 20].astype(int)
  assert red > 190 and green < 60 and blue < 60

  vector = scenes.scene_labels(scene)
  section = lambda name: vector[labels.SCENE_SECTIONS[name]]
  assert section("presence").sum() == 2
  assert section("presence")[0 * 5 + 1] == section("presence")[5 * 5 + 0] == 1
  assert section("objects").argmax() == 2 and section("objects").sum() == 1
  counts = section("color_counts").reshape(6, 5).argmax(1).tolist()
  assert counts == [1, 0, 0, 0, 0, 1]
  upper = section("upper_word").reshape(3, 26).argmax(1)
  assert "".join(labels.LETTERS[i] for i in upper) == "CAT"
  assert section("lower_word").sum() == 3
  assert section("letters").sum() == 6
  assert section("bars").argmax() == 0
  assert vector[labels.EASY_START :].sum() == 0


def test_labels_of_a_chart_made_by_hand():
  bars = (
    charts.Bar("red", 3, 10.0, 20.0),
    charts.Bar("orange", 8, 40.0, 56.0),
    charts.Bar("blue", 1, 70.0, 80.0),
  )
  chart = charts.Chart(bars, _word("axe", 30.0, 3))
  vector = charts.chart_labels(chart)
  section = lambda name: vector[labels.SCENE_SECTIONS[name]]
  assert section("bar_colors").tolist() == [1, 0, 1, 0, 0, 0, 1]
  assert section("bars").argmax() == 3
  assert labels.COLORS[section("highest").argmax()] == "orange"
  assert labels.COLORS[section("lowest").argmax()] == "blue"
  image, patches = charts.render_chart(np.random.default_rng(0), chart)
  # The orange bar fills columns 40..56, rows 18..90, centre (48, 54).
  assert patches[6, 5].tolist() == [6, 7, 8, 136, 132]
  assert patches[10, 1, :3].tolist() == [6, 1, 3]
  # Above the red bar, whose top is at row 63, is background or a distractor.
  assert patches[6, 1, 0] in (0, labels.KIND_DISTRACTOR)
  assert abs(int(image[50, 48, 0]) - 248) < 15


def test_objects_keep_clear_of_each_other_and_of_words():
  for seed in range(60):
    scene = scenes.sample_scene(np.random.default_rng(seed))
    for place, one in enumerate(scene.items):
      assert one.radius <= one.x <= 96 - one.radius
      for other in scene.items[:place]:
        gap = max(abs(one.x - other.x), abs(one.y - other.y))
        assert gap >= one.radius + other.radius
    if len(scene.words) == 2:
      upper, lower = scene.words
      assert lower.y - upper.y >= render.LETTER_HEIGHT + 8
    assert all(0 <= w.y <= 96 - render.LETTER_HEIGHT for w in scene.words)
    assert all(0 <= w.x <= 96 - 3 * render.LETTER_WIDTH for w in scene.words)


def test_sections_fill_the_scene_labels():
  stops = [part.stop for part in labels.SCENE_SECTIONS.values()]
  starts = [part.start for part in labels.SCENE_SECTIONS.values()]
  assert starts == [0, *stops[:-1]] and stops[-1] == labels.NUM_SCENE
  both = labels.scene_valid(True) ^ labels.scene_valid(False)
  assert both.all()
  assert labels.scene_valid(True).sum() == 11


@pytest.mark.parametrize("index", range(12))
def test_label_values_are_in_range(index):
  made = generator.picture("train", index)
  kind, color, size = (made.patch_labels[..., i] for i in range(3))
  assert kind.max() < labels.NUM_KINDS
  assert color.max() < labels.NUM_COLORS
  assert size.max() < labels.NUM_SIZES
  assert set(np.unique(made.scene_labels)) <= {0, 1}
  # Enough patches hold something that keeping few of them must hurt.
  assert (kind > 0).sum() >= 16


@pytest.mark.parametrize(
  "suite", ["tiny", pytest.param("held_out", marks=pytest.mark.full)]
)
def test_numbers_of_questions(suite):
  counts = mini_suite.COUNTS[suite]
  for split, known in mini_suite.QUESTIONS[suite].items():
    made = (generator.picture(split, i) for i in range(counts[split]))
    assert sum(len(picture.questions) for picture in made) == known
