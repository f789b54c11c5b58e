"""Qwen2-VL against transformers, on random tiny checkpoints that it saves."""

import dataclasses

import numpy as np
import pytest

from tests.parity import harness

pytestmark = pytest.mark.full

IMAGE, START, END, PATCH, MERGE = 90, 91, 92, 4, 2


def _config(vision=None, text=None, **top):
  return {
    "image_token_id": IMAGE,
    "vision_start_token_id": START,
    "vision_end_token_id": END,
    "vision_config": {
      "depth": 3,
      "embed_dim": 32,
      "hidden_size": 48,
      "num_heads": 4,
      "mlp_ratio": 2,
      "patch_size": PATCH,
      "spatial_merge_size": MERGE,
      "temporal_patch_size": 2,
    }
    | (vision or {}),
    "text_config": {
      "hidden_size": 48,
      "intermediate_size": 80,
      "num_attention_heads": 4,
      "num_hidden_layers": 3,
      "num_key_value_heads": 2,
      "vocab_size": 96,
      "rope_parameters": {
        "rope_type": "default",
        "rope_theta": 1e6,
        "mrope_section": [2, 1, 3],
      },
    }
    | (text or {}),
  } | top


def _case(config, prompts, grids, **options):
  """A case; in `prompts` one image token stands for a picture.

  The grids of tokens of the pictures are a list for each sample.
  """
  rows, counts = [], [[r * c for r, c in own] for own in grids]
  for row, own in zip(prompts, counts, strict=True):
    times = iter(own)
    rows.append(
      [
        i
        for one in row
        for i in (
          [START, *[IMAGE] * next(times), END] if one == IMAGE else [one]
        )
      ]
    )
  return harness.Case("Qwen2VL", config, rows, counts, IMAGE, **options), grids


def _words(count, seed):
  return np.random.default_rng(seed).integers(3, 90, count).tolist()


CASES = {
  "square": _case(
    _config(), [[*_words(4, 0), IMAGE, *_words(9, 1)]], [[(3, 3)]]
  ),
  # Text behind a picture begins behind its longer side.
  "wide": _case(
    _config(vision={"hidden_act": "gelu_pytorch_tanh"}),
    [[*_words(2, 2), IMAGE, *_words(5, 3)]],
    [[(2, 4)]],
    seed=1,
  ),
  "several_pictures_deep": _case(
    _config(
      vision={"depth": 10},
      text={"num_hidden_layers": 10, "tie_word_embeddings": True},
      tie_word_embeddings=True,
    ),
    [[*_words(2, 4), IMAGE, *_words(3, 5), IMAGE, *_words(4, 6)]],
    [[(4, 2), (1, 3)]],
    seed=2,
    max_shard_size="100KB",
  ),
  # The names in memory.
  "batch": _case(
    _config(),
    [
      [*_words(2, 7), IMAGE, *_words(3, 8)],
      [*_words(7, 9), IMAGE, IMAGE, *_words(2, 10)],
      [*_words(5, 11)],
    ],
    [[(2, 3)], [(3, 1), (2, 2)], []],
    seed=3,
    rename=(
      (r"^model\.", "model.language_model."),
      (r"^visual\.", "model.visual."),
    ),
  ),
}
ROOM = (4, 4)  # in tokens


def _room(cfg):
  side = PATCH * MERGE
  size = (ROOM[0] * side, ROOM[1] * side)
  vision = dataclasses.replace(cfg.vision, image_size=size)
  return dataclasses.replace(cfg, vision=vision)


def _pictures(name):
  """Pictures `[B, I, h, w, 3]` in their room, and which tokens are real."""
  case, grids = CASES[name]
  most, side = max(map(len, grids)), PATCH * MERGE
  valid = np.zeros((len(grids), most, *ROOM), bool)
  for row, own in enumerate(grids):
    for place, (rows, columns) in enumerate(own):
      valid[row, place, :rows, :columns] = True
  there = valid.repeat(side, axis=2).repeat(side, axis=3)[..., None]
  image = np.random.default_rng(case.seed).normal(size=(*there.shape[:-1], 3))
  image = np.where(there, image, 0).astype(np.float32)
  return image, valid.reshape(len(grids), most, -1)


def _patches(picture, grid):
  """Patches in the order of transformers: by squares, channel, time, y, x."""
  rows, columns = grid
  side = PATCH * MERGE
  part = picture[: rows * side, : columns * side]
  part = part.reshape(rows, MERGE, PATCH, columns, MERGE, PATCH, 3)
  part = part.transpose(0, 3, 1, 4, 6, 2, 5)
  part = np.stack([part, part], axis=5)
  return part.reshape(rows * columns * MERGE**2, -1)


def _inputs(name):
  """Arguments of the model in transformers."""
  case, grids = CASES[name]
  image, _ = _pictures(name)
  found = [
    _patches(image[row, place], grid)
    for row, own in enumerate(grids)
    for place, grid in enumerate(own)
  ]
  sizes = [
    (1, rows * MERGE, columns * MERGE) for own in grids for rows, columns in own
  ]
  ids, _ = case.padded()
  return {
    "pixel_values": np.concatenate(found),
    "image_grid_thw": np.array(sizes),
    "mm_token_type_ids": (ids == IMAGE).astype(int),
  }


@pytest.fixture(scope="module")
def told(tmp_path_factory):
  """A folder with what transformers says."""
  root = tmp_path_factory.mktemp("oracle")
  cases = {name: case for name, (case, _) in CASES.items()}
  harness.ask(root, cases, {name: _inputs(name) for name in CASES})
  return root


@pytest.mark.parametrize("name", CASES)
def test_logits(told, name, record_property):
  loaded = harness.loaded(told / name, _room)
  image, valid = _pictures(name)
  difference = harness.logit_difference(
    CASES[name][0], *loaded, image, record_property, valid=valid
  )
  assert difference <= harness.TOLERANCE


@pytest.mark.parametrize("name", CASES)
def test_greedy_answers(told, name):
  loaded = harness.loaded(told / name, _room)
  image, valid = _pictures(name)
  ours, theirs = harness.answers(CASES[name][0], *loaded, image, valid=valid)
  assert ours == theirs
