"""SmolVLM and Idefics3 against transformers, on random tiny checkpoints."""

import numpy as np
import pytest

from tests.parity import harness

pytestmark = pytest.mark.full

IMAGE = 90


def _config(vision=None, text=None, **top):
  return {
    "image_token_id": IMAGE,
    "scale_factor": 2,
    "pad_token_id": 0,
    "vision_config": {
      "hidden_size": 32,
      "image_size": 24,
      "intermediate_size": 64,
      "num_attention_heads": 4,
      "num_hidden_layers": 3,
      "patch_size": 6,
    }
    | (vision or {}),
    "text_config": {
      "model_type": "llama",
      "hidden_size": 48,
      "intermediate_size": 80,
      "num_attention_heads": 4,
      "num_hidden_layers": 3,
      "num_key_value_heads": 2,
      "rms_norm_eps": 1e-5,
      "vocab_size": 96,
      "pad_token_id": 0,
    }
    | (text or {}),
  } | top


def _case(family, config, prompts, **options):
  """A case; in `prompts` one image token stands for a tile."""
  vision, scale = config["vision_config"], config["scale_factor"]
  tokens = (vision["image_size"] // vision["patch_size"] // scale) ** 2
  rows = [
    [i for one in row for i in [one] * (tokens if one == IMAGE else 1)]
    for row in prompts
  ]
  counts = [[tokens] * row.count(IMAGE) for row in prompts]
  return harness.Case(family, config, rows, counts, IMAGE, **options)


def _words(count, seed):
  return np.random.default_rng(seed).integers(3, 90, count).tolist()


CASES = {
  "plain": _case("SmolVLM", _config(), [[*_words(4, 0), IMAGE, *_words(9, 1)]]),
  # Tiles of one picture, text between them; prompts of unequal lengths.
  "batch_of_tiles": _case(
    "SmolVLM",
    _config(
      vision={"hidden_act": "gelu", "layer_norm_eps": 1e-3},
      text={"rope_parameters": {"rope_type": "default", "rope_theta": 1e5}},
    ),
    [
      [*_words(2, 2), IMAGE, 7, 8, IMAGE, 7, 9, IMAGE, *_words(5, 3)],
      [*_words(9, 4), IMAGE, *_words(2, 5)],
      [*_words(6, 6)],
    ],
    seed=1,
  ),
  "idefics3_deep_threefold": _case(
    "Idefics3",
    _config(
      vision={"image_size": 48, "patch_size": 8, "num_hidden_layers": 10},
      text={"num_hidden_layers": 10, "head_dim": 16},
      scale_factor=3,
    ),
    [[*_words(3, 7), IMAGE, IMAGE, *_words(8, 8)]],
    seed=2,
    max_shard_size="100KB",
  ),
  "tied": _case(
    "SmolVLM",
    _config(text={"tie_word_embeddings": True}, tie_word_embeddings=True),
    [[*_words(5, 9), IMAGE, *_words(3, 10)]],
    seed=3,
  ),
}


def _pictures(case):
  """Tiles `[B, I, h, w, 3]`, and which of their tokens are real."""
  side, rng = case.config["vision_config"]["image_size"], np.random
  rng = rng.default_rng(case.seed)
  most = max(map(len, case.counts))
  tokens = max(map(max, filter(None, case.counts)))
  valid = np.zeros((len(case.counts), most, tokens), bool)
  for row, counts in enumerate(case.counts):
    valid[row, : len(counts)] = True
  image = rng.normal(size=(*valid.shape[:2], side, side, 3))
  image[~valid[..., 0]] = 0
  return image.astype(np.float32), valid


@pytest.fixture(scope="module")
def told(tmp_path_factory):
  """A folder with what transformers says."""
  root = tmp_path_factory.mktemp("oracle")
  inputs = {
    name: {"pixel_values": _pictures(case)[0].transpose(0, 1, 4, 2, 3)}
    for name, case in CASES.items()
  }
  harness.ask(root, CASES, inputs)
  return root


@pytest.mark.parametrize("name", CASES)
def test_logits(told, name, record_property):
  case = CASES[name]
  image, valid = _pictures(case)
  loaded = harness.loaded(told / name)
  difference = harness.logit_difference(
    case, *loaded, image, record_property, valid=valid
  )
  assert difference <= harness.TOLERANCE


@pytest.mark.parametrize("name", CASES)
def test_greedy_answers(told, name):
  case = CASES[name]
  image, valid = _pictures(case)
  loaded = harness.loaded(told / name)
  ours, theirs = harness.answers(case, *loaded, image, valid=valid)
  assert ours == theirs
