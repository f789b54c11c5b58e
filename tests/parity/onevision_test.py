"""LLaVA-OneVision against transformers, on random tiny checkpoints."""

import dataclasses

import numpy as np
import pytest

from eos_jax.data.processors import onevision
from eos_jax.models import tiles
from tests.parity import harness

pytestmark = pytest.mark.full

IMAGE, SIDE, PATCHES = 90, 26, 4
PINPOINTS = [[26, 26], [26, 52], [52, 26], [52, 52], [26, 104]]
SETTINGS = onevision.Settings(
  side=SIDE,
  resolutions=tuple(map(tuple, PINPOINTS)),
  patches=PATCHES,
  most=2,
)


def _config(vision=None, text=None, **top):
  return {
    "image_token_index": IMAGE,
    "image_grid_pinpoints": PINPOINTS,
    "vision_aspect_ratio": "anyres_max_2",
    "vision_config": {
      "model_type": "siglip_vision_model",
      "hidden_size": 32,
      "image_size": SIDE,
      "intermediate_size": 64,
      "num_attention_heads": 4,
      "num_hidden_layers": 3,
      "patch_size": 6,
      "vision_use_head": False,
    }
    | (vision or {}),
    "text_config": {
      "model_type": "qwen2",
      "hidden_size": 48,
      "intermediate_size": 80,
      "num_attention_heads": 4,
      "num_hidden_layers": 3,
      "num_key_value_heads": 2,
      "vocab_size": 96,
    }
    | (text or {}),
  } | top


def _case(config, prompts, sizes, **options):
  """A case; in `prompts` one image token stands for a picture.

  The sizes of the pictures are a list for each sample.
  """
  rows, counts = [], []
  for row, own in zip(prompts, sizes, strict=True):
    alone = len(own) == 1
    counts.append(
      [onevision.token_count(s, SETTINGS, tiled=alone) for s in own]
    )
    times = iter(counts[-1])
    rows.append(
      [i for i in row for i in [i] * (next(times) if i == IMAGE else 1)]
    )
  case = harness.Case("LlavaOnevision", config, rows, counts, IMAGE, **options)
  return case, sizes


def _words(count, seed):
  return np.random.default_rng(seed).integers(3, 90, count).tolist()


CASES = {
  # One tile; wide, which is padded above and below; thinned.
  "one_tile": _case(
    _config(), [[*_words(4, 0), IMAGE, *_words(9, 1)]], [[(20, 24)]]
  ),
  "wide": _case(
    _config(vision={"hidden_act": "gelu"}, projector_hidden_act="gelu_new"),
    [[IMAGE, *_words(5, 2)]],
    [[(30, 99)]],
    seed=1,
    rename=((r"^vision_tower\.", "vision_tower.vision_model."),),
  ),
  "thinned": _case(
    _config(
      text={"num_hidden_layers": 10, "tie_word_embeddings": True},
      vision={"num_hidden_layers": 10},
      tie_word_embeddings=True,
    ),
    [[*_words(3, 3), IMAGE, *_words(6, 4)]],
    [[(50, 51)]],
    seed=2,
    max_shard_size="100KB",
  ),
  "batch": _case(
    _config(
      text={"rope_parameters": {"rope_type": "default", "rope_theta": 1e6}}
    ),
    [
      [*_words(2, 5), IMAGE, *_words(3, 6)],
      [*_words(7, 7), IMAGE, *_words(2, 8)],
      [*_words(5, 9)],
    ],
    [[(60, 33)], [(33, 60)], []],
    seed=3,
  ),
  "several_pictures": _case(
    _config(),
    [[*_words(2, 10), IMAGE, *_words(3, 11), IMAGE, *_words(4, 12)]],
    [[(60, 33), (20, 44)]],
    seed=4,
  ),
}
ROOM = {"one_tile": (1, 1), "wide": (1, 4), "several_pictures": (0, 0)}


def _room(name):
  """Gives a config the room that the case's tiles need."""
  chosen = ROOM.get(name, (2, 2))
  return lambda cfg: dataclasses.replace(cfg, tiles=chosen)


def _tile_count(size, alone):
  height, width = onevision.best_resolution(size, SETTINGS.resolutions)
  return 1 + height // SIDE * (width // SIDE) if alone else 1


def _tiles(name):
  """Pixels `[B, I, tiles, h, w, 3]`, and how many tiles each picture has."""
  case, sizes = CASES[name]
  most = max(map(len, sizes))
  down, across = ROOM.get(name, (2, 2))
  counts = np.zeros((len(sizes), most), int)
  for row, own in enumerate(sizes):
    counts[row, : len(own)] = [_tile_count(s, len(own) == 1) for s in own]
  shape = (*counts.shape, 1 + down * across)
  there = np.arange(shape[2]) < counts[..., None]
  rng = np.random.default_rng(case.seed)
  pixels = rng.normal(size=(*shape, SIDE, SIDE, 3)).astype(np.float32)
  return pixels * there[..., None, None, None], counts


def _layout(name, cfg):
  """How the tiles become tokens."""
  _, sizes = CASES[name]
  most, parts = max(map(len, sizes)), []
  for own in sizes:
    for place in range(most):
      size = own[place] if place < len(own) else (1, 1)
      made = onevision.layout(
        size, SETTINGS, tiled=len(own) == 1, capacity=cfg.tokens
      )
      if place >= len(own):
        made = dataclasses.replace(made, valid=made.valid & False)
      parts.append(made)
  fields = [f.name for f in dataclasses.fields(tiles.Layout)]
  stacked = {
    field: np.stack([getattr(part, field) for part in parts])
    for field in fields
  }
  return tiles.Layout(
    **{
      field: value.reshape(len(sizes), most, *value.shape[1:])
      for field, value in stacked.items()
    }
  )


def _inputs(name):
  """Arguments of the model in transformers."""
  _, sizes = CASES[name]
  pixels, counts = _tiles(name)
  there = counts > 0
  most = counts.max()
  # A picture that is alone may not be the only one of its batch.
  return {
    "pixel_values": pixels[there][:, :most].transpose(0, 1, 4, 2, 3),
    "image_sizes": np.array([s for own in sizes for s in own]),
    "batch_num_images": np.array([len(own) for own in sizes if own]),
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
  cfg, params, want = harness.loaded(told / name, _room(name))
  difference = harness.logit_difference(
    CASES[name][0],
    cfg,
    params,
    want,
    _tiles(name)[0],
    record_property,
    layout=_layout(name, cfg),
  )
  assert difference <= harness.TOLERANCE


@pytest.mark.parametrize("name", CASES)
def test_greedy_answers(told, name):
  cfg, params, want = harness.loaded(told / name, _room(name))
  ours, theirs = harness.answers(
    CASES[name][0],
    cfg,
    params,
    want,
    _tiles(name)[0],
    layout=_layout(name, cfg),
  )
  assert ours == theirs
