"""What transformers makes of configs and of tied heads, kept as a file.

    EOS_TORCH_PYTHON=/path/to/python python -m tests.parity.configs

records it anew.
"""

import json
import os
import pathlib
import subprocess
import sys
import tempfile
from typing import Any

from tests.models import tiny_families

PYTHON = os.environ.get("EOS_TORCH_PYTHON", sys.executable)
ORACLE = pathlib.Path(__file__).parent / "configs_oracle.py"
RECORD = pathlib.Path(__file__).parents[1] / "goldens/parity/configs.json"

KINDS = ("llava", "llava_onevision", "qwen2_vl", "smolvlm", "idefics3")
# What a config.json may be silent about, on top of its `model_type`.
SPARSE: dict[str, dict[str, Any]] = {
  "bare": {},
  "null": {"vision_config": None, "text_config": None},
  "empty_vision": {"vision_config": {}},
  "empty_text": {"text_config": {}},
  "empty": {"vision_config": {}, "text_config": {}},
  # The default of SmolVLM's encoder has no whole squares of its default side.
  "sized": {"vision_config": {"image_size": 256}},
  "sized_text": {"vision_config": {"image_size": 256}, "text_config": {}},
  "null_heads": {"text_config": {"num_key_value_heads": None}},
  "old": {
    "text_config": {
      "hidden_size": 512,
      "num_attention_heads": 4,
      "num_key_value_heads": 2,
      "rope_theta": 77.0,
    }
  },
  "tied": {"tie_word_embeddings": True},
  "text_tied": {"text_config": {"tie_word_embeddings": True}},
}
# Versions before 4.52 had Qwen2-VL's decoder at the top.
_FLAT = {
  "model_type": "qwen2_vl",
  "hidden_size": 1536,
  "num_attention_heads": 12,
  "num_hidden_layers": 28,
  "num_key_value_heads": 2,
}

# Fields that say nothing about the model, and long ones that follow.
_DROPPED = {
  "_name_or_path",
  "architectures",
  "chunk_size_feed_forward",
  "id2label",
  "image_grid_pinpoints",
  "is_encoder_decoder",
  "label2id",
  "layer_types",
  "output_attentions",
  "output_hidden_states",
  "problem_type",
  "return_dict",
  "transformers_version",
}


def sparse() -> dict[str, dict[str, Any]]:
  """Configs by name that leave defaults to their reader."""
  found = {
    f"{kind} {name}": {"model_type": kind} | fields
    for kind in KINDS
    for name, fields in SPARSE.items()
  }
  return found | {"qwen2_vl flat": _FLAT}


def tiny() -> dict[str, dict[str, Any]]:
  """Small configs by `model_type`."""
  found = dict(
    zip(KINDS, map(tiny_families.config, tiny_families.FAMILIES), strict=False)
  )
  found["idefics3"] = found["smolvlm"]
  return {kind: found[kind] | {"model_type": kind} for kind in KINDS}


def ask() -> dict[str, Any]:
  """Runs transformers."""
  with tempfile.TemporaryDirectory() as folder:
    done = subprocess.run(
      [PYTHON, str(ORACLE), folder],
      input=json.dumps({"filled": sparse(), "heads": tiny()}),
      stdout=subprocess.PIPE,
      text=True,
      check=True,
      # Settings of the test process are none of its business.
      env={k: v for k, v in os.environ.items() if k != "PYTHONPATH"},
    )
  answer = json.loads(done.stdout)
  answer["filled"] = {
    name: _trimmed(values) for name, values in answer["filled"].items()
  }
  return answer


def _trimmed(values):
  return {
    name: _trimmed(value) if isinstance(value, dict) else value
    for name, value in values.items()
    if name not in _DROPPED
  }


if __name__ == "__main__":
  RECORD.write_text(json.dumps(ask(), indent=1) + "\n", encoding="utf-8")
