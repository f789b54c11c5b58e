"""A tiny LLaVA-1.5 checkpoint as transformers saves it, made without torch.

Names and shapes are written out here once more, apart from the table that is
tested.
"""

import json
import pathlib
from typing import Any

import numpy as np
import safetensors.numpy

CONFIG: dict[str, Any] = {
  "architectures": ["LlavaForConditionalGeneration"],
  "dtype": "float32",
  "image_token_index": 31,
  "model_type": "llava",
  "projector_hidden_act": "gelu",
  "text_config": {
    "hidden_size": 16,
    "intermediate_size": 24,
    "model_type": "llama",
    "num_attention_heads": 4,
    "num_hidden_layers": 3,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-5,
    "rope_parameters": {"rope_theta": 500.0, "rope_type": "default"},
    "vocab_size": 32,
  },
  "vision_config": {
    "hidden_size": 8,
    "image_size": 12,
    "intermediate_size": 20,
    "model_type": "clip_vision_model",
    "num_attention_heads": 2,
    "num_hidden_layers": 3,
    "patch_size": 4,
  },
  "vision_feature_layer": -2,
}

# The configs of llava-hf/llava-1.5-7b-hf and -13b-hf, without the fields that
# say where the files came from.
_PUBLIC_VISION = {
  "hidden_size": 1024,
  "image_size": 336,
  "intermediate_size": 4096,
  "model_type": "clip_vision_model",
  "num_attention_heads": 16,
  "num_hidden_layers": 24,
  "patch_size": 14,
  "projection_dim": 768,
  "vocab_size": 32000,
}
_PUBLIC_TEXT = {
  "max_position_embeddings": 4096,
  "model_type": "llama",
  "rms_norm_eps": 1e-05,
  "torch_dtype": "float16",
  "vocab_size": 32064,
}
PUBLIC_7B: dict[str, Any] = {
  "architectures": ["LlavaForConditionalGeneration"],
  "ignore_index": -100,
  "image_token_index": 32000,
  "model_type": "llava",
  "pad_token_id": 32001,
  "projector_hidden_act": "gelu",
  "text_config": _PUBLIC_TEXT,
  "tie_word_embeddings": False,
  "torch_dtype": "float16",
  "transformers_version": "4.36.0.dev0",
  "vision_config": _PUBLIC_VISION,
  "vision_feature_layer": -2,
  "vision_feature_select_strategy": "default",
  "vocab_size": 32064,
}
PUBLIC_13B = PUBLIC_7B | {
  "text_config": _PUBLIC_TEXT
  | {
    "hidden_size": 5120,
    "intermediate_size": 13824,
    "num_attention_heads": 40,
    "num_hidden_layers": 40,
    "num_key_value_heads": 40,
  }
}


def shapes() -> dict[str, tuple[int, ...]]:
  """Names and shapes of all that transformers 5.23 saves for `CONFIG`."""
  tower, decoder = "vision_tower", "language_model.model"
  found = {
    f"{tower}.embeddings.class_embedding": (8,),
    f"{tower}.embeddings.patch_embedding.weight": (8, 3, 4, 4),
    f"{tower}.embeddings.position_embedding.weight": (10, 8),
    "multi_modal_projector.linear_1.weight": (16, 8),
    "multi_modal_projector.linear_1.bias": (16,),
    "multi_modal_projector.linear_2.weight": (16, 16),
    "multi_modal_projector.linear_2.bias": (16,),
    f"{decoder}.embed_tokens.weight": (32, 16),
    f"{decoder}.norm.weight": (16,),
    "language_model.lm_head.weight": (32, 16),
  }
  for norm in ("pre_layrnorm", "post_layernorm"):
    found |= {f"{tower}.{norm}.{kind}": (8,) for kind in ("weight", "bias")}
  for layer in range(3):
    block = f"{tower}.encoder.layers.{layer}"
    for name in ("layer_norm1", "layer_norm2"):
      found |= {f"{block}.{name}.{kind}": (8,) for kind in ("weight", "bias")}
    for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
      found[f"{block}.self_attn.{name}.weight"] = (8, 8)
      found[f"{block}.self_attn.{name}.bias"] = (8,)
    found[f"{block}.mlp.fc1.weight"] = (20, 8)
    found[f"{block}.mlp.fc1.bias"] = (20,)
    found[f"{block}.mlp.fc2.weight"] = (8, 20)
    found[f"{block}.mlp.fc2.bias"] = (8,)
    block = f"{decoder}.layers.{layer}"
    found[f"{block}.input_layernorm.weight"] = (16,)
    found[f"{block}.post_attention_layernorm.weight"] = (16,)
    found[f"{block}.self_attn.q_proj.weight"] = (16, 16)
    found[f"{block}.self_attn.k_proj.weight"] = (8, 16)
    found[f"{block}.self_attn.v_proj.weight"] = (8, 16)
    found[f"{block}.self_attn.o_proj.weight"] = (16, 16)
    found[f"{block}.mlp.gate_proj.weight"] = (24, 16)
    found[f"{block}.mlp.up_proj.weight"] = (24, 16)
    found[f"{block}.mlp.down_proj.weight"] = (16, 24)
  return found


def weights(dtype: Any = np.float32) -> dict[str, np.ndarray]:
  """Random tensors of these names and shapes."""
  draw = np.random.default_rng(0)
  return {
    name: draw.normal(size=shape).astype(dtype)
    for name, shape in shapes().items()
  }


def hub_layout(table: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
  """The names of older versions, which most files on the hub have."""
  return {
    name.replace("vision_tower.", "vision_tower.vision_model."): value
    for name, value in table.items()
  }


def memory_layout(table: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
  """The names in the memory of transformers 5."""
  found = {}
  for name, value in table.items():
    name = name.replace("language_model.model.", "language_model.")
    if name.startswith("language_model.lm_head."):
      found[name.removeprefix("language_model.")] = value
    else:
      found[f"model.{name}"] = value
  return found


def write(
  folder: pathlib.Path,
  table: dict[str, np.ndarray],
  config: dict[str, Any] | None = None,
  shards: int = 1,
) -> pathlib.Path:
  """Writes a checkpoint, in several files if `shards` is above 1."""
  folder.mkdir(exist_ok=True)
  config = CONFIG if config is None else config
  (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
  if shards == 1:
    safetensors.numpy.save_file(table, folder / "model.safetensors")
    return folder
  index = {}
  for shard in range(shards):
    file = f"model-{shard + 1:05}-of-{shards:05}.safetensors"
    part = {name: table[name] for name in sorted(table)[shard::shards]}
    safetensors.numpy.save_file(part, folder / file, {"format": "pt"})
    index |= dict.fromkeys(part, file)
  (folder / "model.safetensors.index.json").write_text(
    json.dumps({"metadata": {}, "weight_map": index}), encoding="utf-8"
  )
  return folder
