"""Model folders, pictures and conversations that tests and recordings share.

Folders are written as the published checkpoints have them, with tokenizers of
bytes and special tokens in place of the real vocabularies. The templates are
those of the published checkpoints.
"""

import json

import numpy as np
from PIL import Image
import tokenizers
from tokenizers import decoders, models, pre_tokenizers, processors

CLIP_MEAN = [0.48145466, 0.4578275, 0.40821073]
CLIP_STD = [0.26862954, 0.26130258, 0.27577711]
_HALF = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
_CLIP = {"image_mean": CLIP_MEAN, "image_std": CLIP_STD}
_COMMON = {
  "do_convert_rgb": True,
  "do_normalize": True,
  "do_rescale": True,
  "do_resize": True,
  "rescale_factor": 0.00392156862745098,
}

TEMPLATES = {
  "llava": (
    "{% for message in messages %}{% if message['role'] != 'system' %}{{"
    " message['role'].upper() + ': '}}{% endif %}{# Render all images first #}"
    "{% for content in message['content'] | selectattr('type', 'equalto',"
    " 'image') %}{{ '<image>\\n' }}{% endfor %}{# Render all text next #}{% if"
    " message['role'] != 'assistant' %}{% for content in message['content'] |"
    " selectattr('type', 'equalto', 'text') %}{{ content['text'] + ' '}}{%"
    " endfor %}{% else %}{% for content in message['content'] |"
    " selectattr('type', 'equalto', 'text') %}{% generation %}{{"
    " content['text'] + ' '}}{% endgeneration %}{% endfor %}{% endif %}{%"
    " endfor %}{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
  ),
  "onevision": (
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + ' '}}{#"
    " Render all images first #}{% for content in message['content'] |"
    " selectattr('type', 'equalto', 'image') %}{{ '<image>' }}{% endfor %}{#"
    " Render all text next #}{% if message['role'] != 'assistant' %}{% for"
    " content in message['content'] | selectattr('type', 'equalto', 'text')"
    " %}{{ '\\n' + content['text'] }}{% endfor %}{% else %}{% for content in"
    " message['content'] | selectattr('type', 'equalto', 'text') %}{%"
    " generation %}{{ '\\n' + content['text'] }}{% endgeneration %}{% endfor"
    " %}{% endif %}{{'<|im_end|>'}}{% endfor %}{% if add_generation_prompt"
    " %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
  ),
  "qwen2_vl": (
    "{% set image_count = namespace(value=0) %}{% for message in messages %}{%"
    " if loop.first and message['role'] != 'system' %}<|im_start|>system\nYou"
    " are a helpful assistant.<|im_end|>\n{% endif %}<|im_start|>{{"
    " message['role'] }}\n{% if message['content'] is string %}{{"
    " message['content'] }}<|im_end|>\n{% else %}{% for content in"
    " message['content'] %}{% if content['type'] == 'image' or 'image' in"
    " content or 'image_url' in content %}{% set image_count.value ="
    " image_count.value + 1 %}{% if add_vision_id %}Picture {{"
    " image_count.value }}: {% endif"
    " %}<|vision_start|><|image_pad|><|vision_end|>{% elif 'text' in content"
    " %}{{ content['text'] }}{% endif %}{% endfor %}<|im_end|>\n{% endif %}{%"
    " endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
  ),
  "smolvlm": (
    "<|im_start|>{% for message in messages %}{{message['role'] |"
    " capitalize}}{% if message['content'][0]['type'] == 'image' %}{{':'}}{%"
    " else %}{{': '}}{% endif %}{% for line in message['content'] %}{% if"
    " line['type'] == 'text' %}{{line['text']}}{% elif line['type'] == 'image'"
    " %}{{ '<image>' }}{% endif %}{% endfor %}<end_of_utterance>\n{% endfor"
    " %}{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
  ),
}
_SPECIALS = {
  "llava": ["<unk>", "<s>", "</s>", "<pad>", "<image>"],
  "onevision": ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<image>"],
  "qwen2_vl": [
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
  ],
  "smolvlm": [
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<fake_token_around_image>",
    "<image>",
    "<end_of_utterance>",
    "<global-img>",
    *(f"<row_{i}_col_{j}>" for i in range(1, 7) for j in range(1, 7)),
  ],
}
FAMILIES = tuple(TEMPLATES)
_BOS = {"llava": "<s>", "smolvlm": "<|im_start|>"}
IMAGE = {
  "llava": "<image>",
  "onevision": "<image>",
  "qwen2_vl": "<|image_pad|>",
  "smolvlm": "<image>",
}


def _llava(side, patch, **changes):
  picture = {
    **_COMMON,
    **_CLIP,
    "crop_size": {"height": side, "width": side},
    "do_center_crop": True,
    "image_processor_type": "CLIPImageProcessor",
    "resample": 3,
    "size": {"shortest_edge": side},
    **changes,
  }
  vision = {
    "model_type": "clip_vision_model",
    "image_size": side,
    "patch_size": patch,
  }
  processor = {
    "image_token": "<image>",
    "num_additional_image_tokens": 1,
    "patch_size": patch,
    "processor_class": "LlavaProcessor",
    "vision_feature_select_strategy": "default",
  }
  config = {
    "model_type": "llava",
    "vision_config": vision,
    "vision_feature_select_strategy": "default",
  }
  return config, picture, processor


def _onevision(side, patch, steps):
  edges = [side * step for step in range(1, steps + 1)]
  picture = {
    **_COMMON,
    **_HALF,
    "do_pad": True,
    "image_grid_pinpoints": [[h, w] for h in edges for w in edges],
    "image_processor_type": "LlavaOnevisionImageProcessor",
    "resample": 3,
    "size": {"height": side, "width": side},
  }
  vision = {
    "model_type": "siglip_vision_model",
    "image_size": side,
    "patch_size": patch,
  }
  processor = {
    "image_token": "<image>",
    "num_image_tokens": (side // patch) ** 2,
    "processor_class": "LlavaOnevisionProcessor",
    "video_token": "<video>",
    "vision_feature_select_strategy": "full",
  }
  config = {
    "model_type": "llava_onevision",
    "vision_aspect_ratio": "anyres_max_9",
    "vision_config": vision,
  }
  return config, picture, processor


def _qwen2_vl(least, most):
  picture = {
    **_COMMON,
    **_CLIP,
    "image_processor_type": "Qwen2VLImageProcessor",
    "max_pixels": most,
    "merge_size": 2,
    "min_pixels": least,
    "patch_size": 14,
    "temporal_patch_size": 2,
  }
  return {"model_type": "qwen2_vl", "vision_config": {}}, picture, {}


def _smolvlm(side, longest, tokens):
  picture = {
    **_COMMON,
    **_HALF,
    "do_image_splitting": True,
    "do_pad": True,
    "image_processor_type": "Idefics3ImageProcessor",
    "max_image_size": {"longest_edge": side},
    "resample": 1,
    "size": {"longest_edge": longest},
  }
  processor = {"image_seq_len": tokens, "processor_class": "Idefics3Processor"}
  config = {
    "model_type": "smolvlm",
    "scale_factor": 4,
    "vision_config": {"image_size": side, "patch_size": 16},
  }
  return config, picture, processor


# Name -> (family, the three files). The first four have the published sizes,
# the others are small enough to record pixels of.
FOLDERS = {
  "llava": ("llava", _llava(336, 14)),
  "onevision": ("onevision", _onevision(384, 14, 6)),
  "qwen2_vl": ("qwen2_vl", _qwen2_vl(3136, 1003520)),
  "smolvlm": ("smolvlm", _smolvlm(512, 2048, 64)),
  "tiny_llava": ("llava", _llava(28, 14)),
  "tiny_llava_pad": (
    "llava",
    _llava(28, 14, image_processor_type="LlavaImageProcessor", do_pad=True),
  ),
  "tiny_onevision": ("onevision", _onevision(24, 8, 3)),
  "tiny_qwen2_vl": ("qwen2_vl", _qwen2_vl(784, 6272)),
  "tiny_smolvlm": ("smolvlm", _smolvlm(24, 72, 2)),
}
TINY = tuple(name for name in FOLDERS if name.startswith("tiny"))


def tokenizer(family):
  """Bytes, a few merges, and the family's special tokens."""
  alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
  tokens = _SPECIALS[family] + alphabet
  # Texts with two line ends are one token in the real vocabularies, too.
  merges = [("\u010a", "\u010a"), ("t", "h"), ("th", "e")]
  tokens += ["".join(pair) for pair in merges]
  inner = tokenizers.Tokenizer(
    models.BPE({token: i for i, token in enumerate(tokens)}, merges)
  )
  inner.pre_tokenizer = pre_tokenizers.ByteLevel(
    add_prefix_space=False, use_regex=False
  )
  inner.decoder = decoders.ByteLevel()
  inner.add_special_tokens(_SPECIALS[family])
  if family == "llava":
    inner.post_processor = processors.TemplateProcessing(
      single="<s> $A", special_tokens=[("<s>", tokens.index("<s>"))]
    )
  return inner


def write(name, path, **changes):
  """Writes a model folder.

  Args:
    name: a key of `FOLDERS`.
    path: where.
    changes: fields of `preprocessor_config.json` to add or to replace; None
      leaves one out.
  """
  family, (config, picture, processor) = FOLDERS[name]
  inner = tokenizer(family)
  image_id = inner.token_to_id(IMAGE[family])
  picture = {
    field: value
    for field, value in {**picture, **changes}.items()
    if value is not None
  }
  files = {
    "config.json": {**config, "image_token_id": image_id},
    "preprocessor_config.json": picture,
    "processor_config.json": processor,
    "chat_template.json": {"chat_template": TEMPLATES[family]},
    "tokenizer_config.json": {
      "bos_token": _BOS.get(family),
      "clean_up_tokenization_spaces": False,
      "pad_token": _SPECIALS[family][0],
      "tokenizer_class": "PreTrainedTokenizerFast",
    },
  }
  path.mkdir(parents=True, exist_ok=True)
  for file, values in files.items():
    (path / file).write_text(json.dumps(values))
  inner.save(str(path / "tokenizer.json"))
  return path


def image_id(family):
  """Id of the image token in `tokenizer`."""
  return _SPECIALS[family].index(IMAGE[family])


def edit(path, file, **changes):
  """Changes fields of a JSON file of a folder, which may be new."""
  file = path / file
  values = json.loads(file.read_text()) if file.exists() else {}
  file.write_text(json.dumps(values | changes))


def picture(height, width, *, seed=0, mode="RGB"):
  """Waves and noise, so that every filter and every border shows."""
  rng = np.random.default_rng([seed, height, width])
  y, x = np.mgrid[:height, :width]
  channels = len(Image.new(mode, (1, 1)).getbands())
  waves = [
    np.sin(y * rng.uniform(0.05, 1.5) + x * rng.uniform(0.05, 1.5) + c)
    for c in range(channels)
  ]
  values = 128 + 90 * np.stack(waves, axis=-1)
  values += rng.normal(0, 20, values.shape)
  values = np.clip(values, 0, 255).astype(np.uint8)
  if mode == "P":
    return Image.fromarray(values[..., 0]).quantize(16)
  if channels == 1:
    values = values[..., 0]
  return Image.fromarray(values, mode=mode if mode == "CMYK" else None)


# What is recorded of the small folders: name, height, width, mode.
RECORDED = (
  ("wide", 20, 50, "RGB"),
  ("tall", 61, 33, "RGB"),
  ("square", 40, 40, "RGB"),
  ("row", 1, 90, "RGB"),
  ("column", 70, 1, "RGB"),
  ("pixel", 1, 1, "RGB"),
  ("grey", 30, 41, "L"),
  ("alpha", 31, 26, "RGBA"),
  ("grey_alpha", 22, 37, "LA"),
  ("palette", 25, 36, "P"),
  ("cmyk", 33, 28, "CMYK"),
  ("large", 300, 410, "RGB"),
)

# Sizes whose token counts are recorded at published settings.
SIZES = (
  *((h, w) for h in (1, 20, 113, 336, 480, 997, 2311) for w in (15, 201, 640)),
  (384, 384),
  (768, 1152),
  (1080, 1920),
  (1920, 1080),
  (3000, 4000),
  (28, 5600),
  (5600, 29),
  (2048, 2048),
  (511, 513),
  (400, 4000),
)


def _text(text):
  return {"type": "text", "text": text}


_IMAGE = {"type": "image"}
CONVERSATIONS = {
  "question": [
    {"role": "user", "content": [_IMAGE, _text("What is the colour?")]}
  ],
  "text_only": [{"role": "user", "content": [_text("Say  the word.\n\n")]}],
  "text_first": [
    {"role": "user", "content": [_text("Look here: "), _IMAGE, _text("Well?")]}
  ],
  "two_pictures": [
    {
      "role": "user",
      "content": [_IMAGE, _text("and"), _IMAGE, _text("differ how?")],
    }
  ],
  "turns": [
    {"role": "system", "content": [_text("Be brief.")]},
    {"role": "user", "content": [_IMAGE, _text("Who is the other?")]},
    {"role": "assistant", "content": [_text("Nobody.")]},
    {"role": "user", "content": [_IMAGE, _text("And here, the \u4e2d\u6587?")]},
  ],
  "answered": [
    {"role": "user", "content": [_IMAGE, _text("Is it red?")]},
    {"role": "assistant", "content": [_text("Yes.")]},
  ],
}
# Conversations end where an answer begins unless they hold it.
REPLY = {name: name != "answered" for name in CONVERSATIONS}


def pictures_of(conversation, *, large=False):
  """A picture of another size for each that a conversation mentions."""
  sizes = ((20, 50), (61, 33)) if not large else ((480, 640), (700, 333))
  count = sum(
    part["type"] == "image" for turn in conversation for part in turn["content"]
  )
  return [picture(*size, seed=7) for size in sizes[:count]]
