"""The config.json of published models, and how many parameters they have.

Without the fields that say where the files came from, and without the pictures'
shapes of LLaVA-OneVision. LLaVA-1.5 is in `checkpoints`.
"""

import dataclasses
from typing import Any

_SIGLIP = {
  "hidden_size": 1152,
  "image_size": 384,
  "intermediate_size": 4304,
  "model_type": "siglip_vision_model",
  "num_attention_heads": 16,
  "num_hidden_layers": 26,
  "patch_size": 14,
  "vision_use_head": False,
}
_ONEVISION = {
  "architectures": ["LlavaOnevisionForConditionalGeneration"],
  "image_token_index": 151646,
  "model_type": "llava_onevision",
  "projector_hidden_act": "gelu",
  "tie_word_embeddings": False,
  "torch_dtype": "float16",
  "use_image_newline_parameter": True,
  "video_token_index": 151647,
  "vision_aspect_ratio": "anyres_max_9",
  "vision_config": _SIGLIP,
  "vision_feature_layer": -1,
  "vision_feature_select_strategy": "full",
}
ONEVISION_0_5B: dict[str, Any] = _ONEVISION | {
  "text_config": {
    "architectures": ["Qwen2ForCausalLM"],
    "bos_token_id": 151643,
    "eos_token_id": 151645,
    "hidden_size": 896,
    "intermediate_size": 4864,
    "max_window_layers": 24,
    "model_type": "qwen2",
    "num_attention_heads": 14,
    "num_hidden_layers": 24,
    "num_key_value_heads": 2,
    "rope_theta": 1000000.0,
    "sliding_window": None,
    "tie_word_embeddings": True,
    "torch_dtype": "bfloat16",
    "vocab_size": 152000,
  }
}
ONEVISION_7B: dict[str, Any] = _ONEVISION | {
  "text_config": {
    "architectures": ["Qwen2ForCausalLM"],
    "bos_token_id": 151643,
    "eos_token_id": 151645,
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "model_type": "qwen2",
    "num_attention_heads": 28,
    "num_hidden_layers": 28,
    "num_key_value_heads": 4,
    "rope_theta": 1000000.0,
    "sliding_window": None,
    "torch_dtype": "bfloat16",
    "vocab_size": 152128,
  }
}

_QWEN2_VL = {
  "architectures": ["Qwen2VLForConditionalGeneration"],
  "attention_dropout": 0.0,
  "bos_token_id": 151643,
  "eos_token_id": 151645,
  "hidden_act": "silu",
  "image_token_id": 151655,
  "initializer_range": 0.02,
  "max_position_embeddings": 32768,
  "max_window_layers": 28,
  "model_type": "qwen2_vl",
  "num_hidden_layers": 28,
  "rms_norm_eps": 1e-06,
  "rope_scaling": {"mrope_section": [16, 24, 24], "type": "mrope"},
  "rope_theta": 1000000.0,
  "sliding_window": 32768,
  "torch_dtype": "bfloat16",
  "use_cache": True,
  "use_sliding_window": False,
  "video_token_id": 151656,
  "vision_end_token_id": 151653,
  "vision_start_token_id": 151652,
  "vision_token_id": 151654,
}
_QWEN2_VISION = {
  "depth": 32,
  "embed_dim": 1280,
  "in_chans": 3,
  "mlp_ratio": 4,
  "num_heads": 16,
  "patch_size": 14,
  "spatial_merge_size": 2,
  "spatial_patch_size": 14,
  "temporal_patch_size": 2,
}
QWEN2_VL_2B: dict[str, Any] = _QWEN2_VL | {
  "hidden_size": 1536,
  "intermediate_size": 8960,
  "num_attention_heads": 12,
  "num_key_value_heads": 2,
  "tie_word_embeddings": True,
  "vision_config": _QWEN2_VISION | {"hidden_size": 1536},
  "vocab_size": 151936,
}
QWEN2_VL_7B: dict[str, Any] = _QWEN2_VL | {
  "hidden_size": 3584,
  "intermediate_size": 18944,
  "num_attention_heads": 28,
  "num_key_value_heads": 4,
  "tie_word_embeddings": False,
  "vision_config": _QWEN2_VISION | {"hidden_size": 3584},
  "vocab_size": 152064,
}

_SMOLVLM_TEXT = {
  "architectures": ["VLlama3ForCausalLM"],
  "head_dim": 64,
  "is_llama_config": True,
  "max_position_embeddings": 8192,
  "model_type": "llama",
  "neftune_noise_alpha": 0.0,
  "pad_token_id": 2,
  "pixel_shuffle_factor": 4,
  "qk_layer_norms": False,
  "rms_norm_eps": 1e-05,
  "rope_interleaved": False,
  "rope_theta": 100000,
  "torch_dtype": "bfloat16",
  "use_resampler": False,
  "vocab_size": 49280,
}
_SMOLVLM = {
  "architectures": ["Idefics3ForConditionalGeneration"],
  "image_token_id": 49190,
  "model_type": "idefics3",
  "pad_token_id": 128002,
  "scale_factor": 4,
  "tie_word_embeddings": False,
  "torch_dtype": "bfloat16",
  "use_cache": False,
  "vision_config": {
    "hidden_size": 768,
    "image_size": 512,
    "max_image_size": {"longest_edge": 512},
    "model_type": "idefics3",
    "num_attention_heads": 12,
    "patch_size": 16,
    "size": {"longest_edge": 2048},
    "tie_word_embeddings": False,
    "use_base_siglip": False,
  },
  "vocab_size": 49280,
}
SMOLVLM_256M: dict[str, Any] = _SMOLVLM | {
  "text_config": _SMOLVLM_TEXT
  | {
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_attention_heads": 9,
    "num_hidden_layers": 30,
    "num_key_value_heads": 3,
  }
}
SMOLVLM_500M: dict[str, Any] = _SMOLVLM | {
  "text_config": _SMOLVLM_TEXT
  | {
    "hidden_size": 960,
    "intermediate_size": 2560,
    "num_attention_heads": 15,
    "num_hidden_layers": 32,
    "num_key_value_heads": 5,
  }
}


@dataclasses.dataclass(frozen=True)
class Model:
  """A published model.

  Attributes:
    config: its config.json.
    parameters: their number, counted by transformers 5.23 on a model without
      memory; tests/parity counts again.
    unread: how many of them make no parameter of ours.
    tokens: of a picture, in the room that a config gives it.
  """

  config: dict[str, Any]
  parameters: int
  unread: int
  tokens: int


# Of SigLIP the norm behind the last layer is not read; of Qwen2-VL's patches
# two kernels, one for each frame, become one.
_NORM, _KERNEL = 2 * 1152, 1280 * 3 * 14 * 14
MODELS = {
  "llava_onevision_0_5b": Model(ONEVISION_0_5B, 893_675_552, _NORM, 730),
  "llava_onevision_7b": Model(ONEVISION_7B, 8_030_807_584, _NORM, 730),
  "qwen2_vl_2b": Model(QWEN2_VL_2B, 2_208_985_600, _KERNEL, 256),
  "qwen2_vl_7b": Model(QWEN2_VL_7B, 8_291_375_616, _KERNEL, 256),
  "smolvlm_256m": Model(SMOLVLM_256M, 256_484_928, 0, 64),
  "smolvlm_500m": Model(SMOLVLM_500M, 507_482_304, 0, 64),
}
