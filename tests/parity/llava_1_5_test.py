"""LLaVA-1.5 against transformers, on random tiny checkpoints that it saves."""

import pathlib

import numpy as np
import pytest

from eos_jax.models import families, loading
from tests.models import checkpoints
from tests.parity import harness

pytestmark = pytest.mark.full

IMAGE = 90


def _config(vision=None, text=None, **top):
  return {
    "image_token_index": IMAGE,
    "vision_config": {
      "model_type": "clip_vision_model",
      "hidden_size": 32,
      "image_size": 24,
      "intermediate_size": 64,
      "num_attention_heads": 4,
      "num_hidden_layers": 4,
      "patch_size": 6,
    }
    | (vision or {}),
    "text_config": {
      "model_type": "llama",
      "hidden_size": 48,
      "intermediate_size": 80,
      "num_attention_heads": 4,
      "num_hidden_layers": 3,
      "num_key_value_heads": 4,
      "rms_norm_eps": 1e-5,
      "vocab_size": 96,
    }
    | (text or {}),
  } | top


def _case(config, prompts, **options):
  """A case; in `prompts` one image token stands for a picture."""
  vision = config["vision_config"]
  tokens = (vision["image_size"] // vision["patch_size"]) ** 2
  rows = [
    [i for one in row for i in [one] * (tokens if one == IMAGE else 1)]
    for row in prompts
  ]
  counts = [[tokens] * row.count(IMAGE) for row in prompts]
  return harness.Case("Llava", config, rows, counts, IMAGE, **options)


def _words(count, seed):
  return np.random.default_rng(seed).integers(3, 90, count).tolist()


CASES = {
  "plain": _case(_config(), [[1, *_words(4, 0), IMAGE, *_words(9, 1)]]),
  # The names that older versions saved.
  "hub_names": _case(
    _config(),
    [[1, IMAGE, *_words(5, 2)]],
    seed=1,
    rename=((r"^vision_tower\.", "vision_tower.vision_model."),),
  ),
  # Grouped queries, heads wider than the width, other bases; deep enough that
  # layers run in a loop; in several files.
  "deep_grouped_several_pictures": _case(
    _config(
      vision={
        "hidden_size": 40,
        "num_attention_heads": 5,
        "num_hidden_layers": 12,
        "image_size": 21,
        "patch_size": 7,
      },
      text={
        "hidden_size": 56,
        "num_attention_heads": 8,
        "num_key_value_heads": 2,
        "num_hidden_layers": 10,
        "head_dim": 12,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
        "rms_norm_eps": 1e-3,
      },
      vision_feature_layer=-3,
    ),
    [
      [1, *_words(3, 3), IMAGE, *_words(2, 4), IMAGE, *_words(6, 5)],
      [1, IMAGE, IMAGE, *_words(11, 6)],
    ],
    seed=2,
    max_shard_size="100KB",
  ),
  # Prompts of unequal lengths and numbers of pictures, and of pixels that are
  # no whole patch.
  "batch_padded_left": _case(
    _config(
      vision={"hidden_act": "gelu", "layer_norm_eps": 1e-3, "image_size": 26},
      text={"num_key_value_heads": 1},
      vision_feature_layer=-1,
      projector_hidden_act="gelu_pytorch_tanh",
    ),
    [
      [1, *_words(2, 7), IMAGE, *_words(13, 8)],
      [1, *_words(7, 9), IMAGE, *_words(3, 10), IMAGE, *_words(2, 11)],
      [1, IMAGE, *_words(4, 12)],
      [1, *_words(6, 13)],
    ],
    seed=3,
  ),
  "tied_first_layer": _case(
    _config(
      vision={"hidden_act": "gelu_pytorch_tanh"},
      text={"tie_word_embeddings": True},
      vision_feature_layer=1,
      tie_word_embeddings=True,
    ),
    [[1, *_words(8, 14), IMAGE, *_words(1, 15)]],
    seed=4,
  ),
}

SPARSE = {
  "nothing": {},
  "public": checkpoints.PUBLIC_7B,
  "public_13b": checkpoints.PUBLIC_13B,
  "empty": {"vision_config": {}, "text_config": {}},
  "old": {
    "image_token_index": 7,
    "text_config": {
      "hidden_size": 64,
      "num_attention_heads": 4,
      "rope_theta": 77.0,
      "torch_dtype": "bfloat16",
    },
    "vision_config": {"hidden_size": 96, "num_attention_heads": 6},
    "tie_word_embeddings": True,
  },
  "text_tied": {"text_config": {"tie_word_embeddings": True}},
}

FULL_SIZE = {
  "llava_1_5_7b": checkpoints.PUBLIC_7B,
  "llava_1_5_13b": checkpoints.PUBLIC_13B,
}


def _pictures(case):
  """Pictures `[B, I, h, w, 3]`, and which of their tokens are real."""
  vision = case.config["vision_config"]
  side, rng = vision["image_size"], np.random.default_rng(case.seed)
  tokens = (side // vision["patch_size"]) ** 2
  most = max(map(len, case.counts))
  shape = (len(case.counts), most)
  valid = np.zeros((*shape, tokens), bool)
  for row, counts in enumerate(case.counts):
    valid[row, : len(counts)] = True
  image = rng.normal(size=(*shape, side, side, 3)).astype(np.float32)
  image[~valid[..., 0]] = 0
  return image, valid


@pytest.fixture(scope="module")
def told(tmp_path_factory):
  """A folder with what transformers says, and its answers on configs."""
  root = tmp_path_factory.mktemp("oracle")
  inputs = {}
  for name, case in CASES.items():
    image, valid = _pictures(case)
    there = image[valid[..., 0]]
    inputs[name] = {"pixel_values": there.transpose(0, 3, 1, 2)}
  named = lambda configs: {
    name: {"family": "Llava", "config": config}
    for name, config in configs.items()
  }
  return root, harness.ask(root, CASES, inputs, named(FULL_SIZE), named(SPARSE))


@pytest.mark.parametrize("name", CASES)
def test_logits(told, name, record_property):
  case = CASES[name]
  image, valid = _pictures(case)
  loaded = harness.loaded(told[0] / name)
  difference = harness.logit_difference(
    case, *loaded, image, record_property, valid=valid
  )
  assert difference <= harness.TOLERANCE


@pytest.mark.parametrize("name", CASES)
def test_greedy_answers(told, name):
  case = CASES[name]
  image, valid = _pictures(case)
  loaded = harness.loaded(told[0] / name)
  ours, theirs = harness.answers(case, *loaded, image, valid=valid)
  assert ours == theirs


@pytest.mark.parametrize("name", FULL_SIZE)
def test_full_size_names_and_shapes(told, name):
  full = told[1]["full_size"][name]
  found = families.describe(FULL_SIZE[name])
  assert found.cfg.name == name
  places, faults = loading.match(
    found.table,
    loading.shapes(found.cfg),
    [
      loading.Tensor(tensor, pathlib.Path("memory"), tuple(shape), "F16")
      for tensor, shape in full["shapes"].items()
    ],
  )
  assert not faults
  count = {"llava_1_5_7b": 7_063_427_072, "llava_1_5_13b": 13_351_494_656}
  assert full["parameters"] == count[name]
  # One vision layer and the last norm are not read.
  assert len(full["shapes"]) - len(places) == 18


@pytest.mark.parametrize("name", SPARSE)
def test_defaults_are_those_of_transformers(told, name):
  full = told[1]["sparse"][name]
  sparse = {"model_type": "llava"} | SPARSE[name]
  assert families.describe(sparse).cfg == families.describe(full).cfg
