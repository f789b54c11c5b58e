"""LLaVA-1.5 against transformers, on random tiny checkpoints that it saves.

Set EOS_TORCH_PYTHON to an interpreter with torch 2.13 and transformers 5.23
(`pip install torch transformers`; torchvision is not needed); else the one that
runs the tests is tried.
"""

import json
import os
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest

from eos_jax import models
from eos_jax.models import families, loading
from tests.models import checkpoints

pytestmark = pytest.mark.full

PYTHON = os.environ.get("EOS_TORCH_PYTHON", sys.executable)
ORACLE = pathlib.Path(__file__).parent / "oracle.py"

# Of the largest logit, in float32.
TOLERANCE = 2e-4

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


def _case(config, prompts, seed=0, hub_names=False, max_shard_size="1GB"):
  return {
    "config": config,
    "prompts": prompts,
    "seed": seed,
    "hub_names": hub_names,
    "max_shard_size": max_shard_size,
  }


def _words(count, seed):
  return np.random.default_rng(seed).integers(3, 90, count).tolist()


CASES = {
  "plain": _case(_config(), [[1, *_words(4, 0), IMAGE, *_words(9, 1)]]),
  "hub_names": _case(
    _config(), [[1, IMAGE, *_words(5, 2)]], seed=1, hub_names=True
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
  # Prompts of unequal lengths and numbers of pictures, padded on the left.
  "batch_padded_left": _case(
    _config(
      vision={"hidden_act": "gelu", "layer_norm_eps": 1e-3},
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


@pytest.fixture(scope="module")
def told(tmp_path_factory):
  """A folder with what transformers says."""
  probe = "import torch, transformers"
  found = subprocess.run([PYTHON, "-c", probe], capture_output=True, text=True)
  if found.returncode:
    reason = found.stderr.strip().split("\n")[-1]
    pytest.skip(f"{PYTHON}: {reason}; EOS_TORCH_PYTHON can name another one")
  root = tmp_path_factory.mktemp("oracle")
  request = {
    "models": CASES,
    "full_size": {
      "llava_1_5_7b": checkpoints.PUBLIC_7B,
      "llava_1_5_13b": checkpoints.PUBLIC_13B,
    },
    "sparse": SPARSE,
  }
  # Settings of the test process are none of its business.
  env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
  subprocess.run(
    [PYTHON, str(ORACLE), str(root)],
    input=json.dumps(request),
    text=True,
    check=True,
    env=env,
  )
  return root


def _loaded(root, name):
  found, params = loading.load(root / name)
  assert found.image_token == IMAGE
  return found.cfg, params, dict(np.load(root / name / "expected.npz"))


def _split(row):
  """A prompt without its opening and its pictures, and their slots."""
  assert row[0] == 1
  ids, slots = [], []
  for token in row[1:]:
    if token == IMAGE:
      slots.append(len(ids))
    else:
      ids.append(token)
  return ids, slots


def _pictures(cfg, prompts, pixels):
  """Pictures `[B, I, h, w, 3]` and which of their patches are real."""
  counts = [row.count(IMAGE) for row in prompts]
  most, side = max(counts), cfg.vision.image_size
  images = np.zeros((len(prompts), most, side, side, 3), np.float32)
  valid = np.zeros((len(prompts), most, cfg.vision.tokens), bool)
  pixels = iter(pixels.transpose(0, 2, 3, 1))
  for row, count in enumerate(counts):
    for index in range(count):
      images[row, index], valid[row, index] = next(pixels), True
  return images, valid


def _slots(slots, most, end):
  """Slots `[B, I]`; pictures that are not there are behind everything."""
  return np.array([row + [end] * (most - len(row)) for row in slots], np.int32)


@pytest.mark.parametrize("name", CASES)
def test_logits(told, name, record_property):
  cfg, params, want = _loaded(told, name)
  prompts = CASES[name]["prompts"]
  ids, slots = zip(*map(_split, prompts), strict=True)
  images, valid = _pictures(cfg, prompts, want["pixels"])
  longest = max(map(len, ids))
  spare = [longest - len(row) for row in ids]
  tokens = np.array(
    [[0] * pad + row for pad, row in zip(spare, ids, strict=True)]
  )
  mask = np.arange(longest)[None] >= np.array(spare)[:, None]
  behind = [
    [pad + slot for slot in row] for pad, row in zip(spare, slots, strict=True)
  ]
  text = models.Text(
    tokens=tokens,
    mask=mask,
    slots=_slots(behind, images.shape[1], longest),
  )
  apply = jax.jit(models.apply, static_argnums=0)
  got = np.asarray(apply(cfg, params, images, text, valid=valid).logits)
  worst, largest = 0.0, 0.0
  for row in range(len(prompts)):
    there = want["mask"][row].astype(bool) & (want["ids"][row] != IMAGE)
    expected = want["logits"][row][there][1:]  # but for the opening
    worst = max(worst, np.abs(got[row, mask[row]] - expected).max())
    largest = max(largest, np.abs(expected).max())
  print(f"{name}: {worst / largest:.2e} of the largest logit {largest:.3g}")
  record_property("worst", worst / largest)
  assert largest > 1
  assert worst <= TOLERANCE * largest


@pytest.mark.parametrize("name", CASES)
def test_greedy_answers(told, name):
  cfg, params, want = _loaded(told, name)
  prompts = CASES[name]["prompts"]
  ids, slots = zip(*map(_split, prompts), strict=True)
  images, valid = _pictures(cfg, prompts, want["pixels"])
  engine = models.Engine(cfg, params, stop=(), buckets=(24,), room=32)
  talk = engine.begin(
    images, ids, slots=_slots(slots, images.shape[1], 24), valid=valid
  )
  _, replies = engine.reply(talk, steps=32)
  assert replies == want["told"].tolist()
  assert len(set(replies[0])) > 4  # it does not say one thing again and again


@pytest.mark.parametrize("name", ["llava_1_5_7b", "llava_1_5_13b"])
def test_full_size_names_and_shapes(told, name):
  answer = json.loads((told / "answer.json").read_text(encoding="utf-8"))
  full = answer["full_size"][name]
  config = {
    "llava_1_5_7b": checkpoints.PUBLIC_7B,
    "llava_1_5_13b": checkpoints.PUBLIC_13B,
  }[name]
  found = families.describe(config)
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
  answer = json.loads((told / "answer.json").read_text(encoding="utf-8"))
  full = answer["sparse"][name]
  sparse = {"model_type": "llava"} | SPARSE[name]
  assert families.describe(sparse).cfg == families.describe(full).cfg
