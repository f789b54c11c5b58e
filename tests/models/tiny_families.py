"""Folders of random tiny models of every family, with all files, without torch.

Weights are named by the tables that `tests/parity` compares with transformers;
preprocessor and tokenizer are those that `tests/data/processors` compares.
"""

import json
import pathlib
from typing import Any

import numpy as np
from PIL import Image

from eos_jax.models import families, loading
from tests.data.processors import samples
from tests.models import checkpoints

_TEXT = {
  "hidden_size": 32,
  "intermediate_size": 48,
  "num_attention_heads": 4,
  "num_hidden_layers": 3,
  "num_key_value_heads": 2,
  "rms_norm_eps": 1e-5,
  "vocab_size": 320,
}
_VISION = {
  "hidden_size": 16,
  "intermediate_size": 32,
  "num_attention_heads": 2,
  "num_hidden_layers": 2,
}

# By family: the folder of `samples`, and what its config.json has besides.
_CONFIGS: dict[str, tuple[str, dict[str, Any]]] = {
  "llava_1_5": (
    "tiny_llava",
    {
      "projector_hidden_act": "gelu",
      "text_config": _TEXT | {"model_type": "llama"},
      "vision_config": _VISION
      | {
        "model_type": "clip_vision_model",
        "num_hidden_layers": 3,
        "image_size": 28,
        "patch_size": 7,
      },
    },
  ),
  "onevision": (
    "tiny_onevision",
    {
      "text_config": _TEXT | {"model_type": "qwen2"},
      "vision_config": _VISION
      | {
        "model_type": "siglip_vision_model",
        "image_size": 24,
        "patch_size": 8,
        "vision_use_head": False,
      },
    },
  ),
  "qwen2_vl": (
    "tiny_qwen2_vl",
    {
      "text_config": _TEXT
      | {
        "rope_parameters": {
          "rope_type": "default",
          "rope_theta": 1e6,
          "mrope_section": [2, 1, 1],
        }
      },
      "vision_config": {
        "depth": 2,
        "embed_dim": 16,
        "hidden_size": 32,
        "num_heads": 2,
        "mlp_ratio": 2,
        "patch_size": 14,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
      },
    },
  ),
  "smolvlm": (
    "tiny_smolvlm",
    {
      "scale_factor": 2,
      "text_config": _TEXT | {"model_type": "llama"},
      "vision_config": _VISION | {"image_size": 24, "patch_size": 4},
    },
  ),
}
_PROCESSORS = {"llava_1_5": {"patch_size": 7}, "smolvlm": {"image_seq_len": 9}}
FAMILIES = tuple(_CONFIGS)

# Settings of a search that fit these models and `instructions`, by family.
ROOMS: dict[str, dict[str, Any]] = {
  "llava_1_5": {"max_images": 1, "max_tiles": (), "max_size": ()},
  "onevision": {"max_images": 1, "max_tiles": (1, 2), "max_size": ()},
  "qwen2_vl": {"max_images": 1, "max_tiles": (), "max_size": (56, 84)},
  "smolvlm": {"max_images": 10, "max_tiles": (), "max_size": ()},
}


def config(family: str) -> dict[str, Any]:
  """Fields of a family's config.json, without its `model_type`."""
  return _CONFIGS[family][1]


def write(
  family: str, folder: pathlib.Path, *, shards: int = 1
) -> pathlib.Path:
  """Writes a folder; random weights in so many files."""
  sample, fields = _CONFIGS[family]
  samples.write(sample, folder)
  config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
  config |= fields | {"dtype": "float32"}
  # What follows from the sizes of patches that were chosen above.
  path = folder / "processor_config.json"
  processor = json.loads(path.read_text(encoding="utf-8"))
  processor |= _PROCESSORS.get(family, {})
  path.write_text(json.dumps(processor), encoding="utf-8")
  table = weights(families.describe(config))
  return checkpoints.write(folder, table, config, shards)


def weights(description: families.Description) -> dict[str, np.ndarray]:
  """Random tensors under the names of a family, scaled by what they read."""
  draw = np.random.default_rng(0)
  leaves = loading.flat(loading.shapes(description.cfg))
  found = {}
  for weight in description.table.weights:
    shape = weight.stored(leaves[weight.path].shape)
    for name in weight.names(leaves[weight.path].shape):
      value = draw.normal(size=shape).astype(np.float32)
      if weight.path.endswith("scale"):
        value = 1 + 0.2 * value
      elif len(shape) > 1:
        value *= 1.5 * np.prod(shape[1:]) ** -0.5
      found[name] = value
  return found


def instructions(folder: pathlib.Path, count: int = 24) -> pathlib.Path:
  """Writes instructions about random pictures of several sizes."""
  folder.mkdir(parents=True, exist_ok=True)
  entries = []
  for number in range(count):
    height, width = [(40, 64), (64, 40), (50, 50)][number % 3]
    name = f"{number}.png"
    picture = np.random.default_rng(number).integers(
      0, 256, (height, width, 3), np.uint8
    )
    Image.fromarray(picture).save(folder / name)
    turns = [
      {"from": "human", "value": f"<image>\nhow many things are in {number}?"},
      {"from": "gpt", "value": ["One.", "two"][number % 2]},
    ]
    entries.append({"id": str(number), "image": name, "conversations": turns})
  path = folder / "instructions.json"
  path.write_text(json.dumps(entries), encoding="utf-8")
  return path
