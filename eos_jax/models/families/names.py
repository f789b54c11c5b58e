"""Names of published models, by their sizes.

A plan carries the name of its model. A model has the name of a published one
if its encoder and its decoder have all of its sizes. The name of any other is
made of its family and sizes, so that the plans of another model do not fit it.
"""

from eos_jax import files
from eos_jax.models import config as config_lib

# Largest number of parameters that a config may describe.
MOST_PARAMETERS = 10**13

_CLIP_L = (336, 14, 23, 1024, 16, 4096)
_SIGLIP = (384, 14, 26, 1152, 16, 4304)
_QWEN2_VL = (0, 14, 32, 1280, 16, 5120)  # images of any size
_SIGLIP_B = (512, 16, 12, 768, 12, 3072)
# By family: sizes of encoder and decoder as `sizes` returns them.
_PUBLISHED = {
  "llava_1_5": {
    (_CLIP_L, (32, 4096, 32, 32, 128, 11_008)): "llava_1_5_7b",
    (_CLIP_L, (40, 5120, 40, 40, 128, 13_824)): "llava_1_5_13b",
  },
  "llava_onevision": {
    (_SIGLIP, (24, 896, 14, 2, 64, 4864)): "llava_onevision_0_5b",
    (_SIGLIP, (28, 3584, 28, 4, 128, 18_944)): "llava_onevision_7b",
  },
  "qwen2_vl": {
    (_QWEN2_VL, (28, 1536, 12, 2, 128, 8960)): "qwen2_vl_2b",
    (_QWEN2_VL, (28, 3584, 28, 4, 128, 18_944)): "qwen2_vl_7b",
  },
  "smolvlm": {
    (_SIGLIP_B, (30, 576, 9, 3, 64, 1536)): "smolvlm_256m",
    (_SIGLIP_B, (32, 960, 15, 5, 64, 2560)): "smolvlm_500m",
  },
}

Sizes = tuple[int, int, int, int, int, int]


def name(family: str, cfg: config_lib.VLMConfig) -> str:
  """Name of the published model of these sizes, else one made of them.

  The latter has decoder layers and width, and a digest of all sizes, such as
  "llava_1_5_24x2048_0c51a2".
  """
  own = sizes(cfg)
  decoder = cfg.decoder
  made = f"{family}_{decoder.layers}x{decoder.width}_{files.digest(own)[:6]}"
  return _PUBLISHED.get(family, {}).get(own, made)


def sizes(cfg: config_lib.VLMConfig) -> tuple[Sizes, Sizes]:
  """All sizes but the vocabulary, which fine-tuning may extend.

  Returns:
    Of the encoder: side of an image in pixels (0 = any), patch, layers, width,
    heads, hidden features. Of the decoder: layers, width, heads, key heads,
    features of a head, hidden features.
  """
  vision, decoder = cfg.vision, cfg.decoder
  side = 0 if vision.rotary else vision.size[0]
  return (
    (
      side,
      vision.patch_size,
      vision.layers,
      vision.width,
      vision.heads,
      vision.mlp,
    ),
    (
      decoder.layers,
      decoder.width,
      decoder.heads,
      decoder.kv_heads,
      decoder.head_dim,
      decoder.mlp,
    ),
  )


def parameters(cfg: config_lib.VLMConfig) -> int:
  """Number of parameters, norms and biases not counted."""
  vision, decoder = cfg.vision, cfg.decoder
  rows = 3 * vision.patch_size**2
  if not vision.rotary:
    rows += vision.tokens  # learned positions
  encoder = vision.layers * (4 * vision.width + 2 * vision.mlp) + rows
  merged = vision.width * cfg.merge**2
  hidden = cfg.projector or merged
  heads = 2 * (decoder.heads + decoder.kv_heads) * decoder.head_dim
  layers = decoder.layers * (heads + 3 * decoder.mlp)
  return (
    vision.width * encoder
    + hidden * (merged + decoder.width)
    + decoder.width * (layers + decoder.vocab * (1 if decoder.tied else 2))
  )
