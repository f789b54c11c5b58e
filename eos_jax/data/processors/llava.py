"""Pictures of LLaVA-1.5: one square of CLIP's size for each.

Either the middle square is cut out, which is what converted checkpoints ask
for, or the picture is padded to a square with the mean colour first, as the
authors trained and evaluated (`image_aspect_ratio: pad`).

Sources: haotian-liu/LLaVA `llava/mm_utils.py` (`process_images`,
`expand2square`); huggingface/transformers
`models/llava/processing_llava.py`, and `image_processing_pil_*.py` of
`models/llava`, `models/clip` and `models/siglip`.
"""

from collections.abc import Sequence
import dataclasses
from typing import Any

import numpy as np

from eos_jax.data.processors import folder as folder_lib
from eos_jax.data.processors import pixels

IMAGE_TOKEN = "<image>"
END_TOKEN = "</s>"
ASPECTS = ("crop", "pad")
CLIP = pixels.PixelSettings(
  mean=(0.48145466, 0.4578275, 0.40821073),
  std=(0.26862954, 0.26130258, 0.27577711),
)
SIGLIP = pixels.PixelSettings(mean=(0.5,) * 3, std=(0.5,) * 3)
_KNOWN = ("crop_size", "do_center_crop", "do_pad")
# What absent fields mean to a class of transformers: values of the pixels,
# size, and side of the middle that is cut out, None where it is not.
_CLASSES: dict[str, tuple[pixels.PixelSettings, Any, int | None]] = {
  "LlavaImageProcessor": (CLIP, {"shortest_edge": 224}, 224),
  "CLIPImageProcessor": (CLIP, {"shortest_edge": 224}, 224),
  "SiglipImageProcessor": (SIGLIP, {"height": 224, "width": 224}, None),
}


@dataclasses.dataclass(frozen=True)
class Settings:
  """How LLaVA-1.5 reads a picture.

  Attributes:
    values: filter and normalisation of the pixels.
    size: what to resize to, pixels: the shorter side, or height and width
      whatever the shape was; None does not resize.
    side: height and width of the result, cut from the middle.
    aspect: "crop" the middle, or "pad" to a square before resizing.
    patch: side of a patch of the encoder, pixels.
    extra: further tokens that are passed on (0; 1 where the class
      token is kept).
  """

  values: pixels.PixelSettings = CLIP
  size: int | tuple[int, int] | None = 336
  side: tuple[int, int] = (336, 336)
  aspect: str = "crop"
  patch: int = 14
  extra: int = 0

  def __post_init__(self):
    if self.aspect not in ASPECTS:
      raise ValueError(
        f"aspect is {self.aspect!r}; expected one of {', '.join(ASPECTS)}"
      )

  @property
  def grid(self) -> tuple[int, int]:
    """Rows and columns of the patches."""
    return self.side[0] // self.patch, self.side[1] // self.patch

  @property
  def tokens(self) -> int:
    """Image tokens of any picture."""
    return self.grid[0] * self.grid[1] + self.extra


def read_settings(folder: folder_lib.Folder) -> Settings:
  """Settings of a model folder.

  `aspect` is "pad" if the authors' `image_aspect_ratio` in `config.json`, or
  `do_pad` of transformers' `LlavaImageProcessor`, says so.

  Raises:
    ValueError: a field has no value that can be used, is unknown, or leaves
      the size of the result to the picture.
  """
  fields = folder.picture
  kind = folder.image_class(list(_CLASSES))
  fields.refuse_unknown(_KNOWN)
  values, default_size, default_crop = _CLASSES[kind]
  aspect = _aspect(folder, kind)
  edge, *shape = fields.extent("size", default_size)
  size = (edge or tuple(shape)) if fields.flag("do_resize", True) else None
  if fields.flag("do_center_crop", default_crop is not None):
    _, *side = fields.extent("crop_size", default_crop)
    if not all(side):
      raise fields.fault("crop_size", "height and width", "correct the file")
  elif size and not edge:
    side = shape
  elif size and aspect == "pad":
    side = (edge, edge)
  else:
    raise fields.fault(
      "do_center_crop",
      "true, or a size of height and width, so that all pictures get one shape",
      "set it to true",
    )
  patch, extra = _encoder(folder)
  read = fields.padded_settings if aspect == "pad" else fields.pixel_settings
  settings = Settings(read(values), size, tuple(side), aspect, patch, extra)
  if settings.tokens < 1:
    raise ValueError(
      f"{fields.path}: images of {side[0]} x {side[1]} pixels have no whole"
      f" patch of {patch}; expected one at least; correct size, crop_size or"
      " patch_size"
    )
  return settings


def _aspect(folder: folder_lib.Folder, kind: str) -> str:
  """Whether pictures are cropped or padded to a square."""
  ratio = folder.config.get("image_aspect_ratio", "square")
  if ratio not in ("pad", "square"):
    raise folder.config.fault(
      "image_aspect_ratio",
      '"pad" or "square"',
      "use another family for tiled pictures",
    )
  # CLIP's own processor has a `do_pad` too, which does nothing to a square.
  padded = folder.picture.flag("do_pad", False)
  own = kind == "LlavaImageProcessor"
  return "pad" if (own and padded) or ratio == "pad" else "crop"


def _encoder(folder: folder_lib.Folder) -> tuple[int, int]:
  """Side of a patch, and further tokens that are passed on."""
  patch = folder.processor.whole(
    "patch_size", folder.vision.whole("patch_size", 14)
  )
  # CLIP has a class token. Folders older than the field do not say so.
  kind = str(folder.vision.get("model_type", "clip_vision_model"))
  extra = folder.processor.whole(
    "num_additional_image_tokens", int(kind.startswith("clip")), least=0
  )
  name = "vision_feature_select_strategy"
  place = folder.processor if folder.processor.get(name) else folder.config
  strategy = place.get(name, "default")
  if strategy not in ("default", "full"):
    raise place.fault(name, '"default" or "full"', "correct the file")
  return patch, extra - (strategy == "default")


def special_tokens(settings: Settings) -> tuple[str, ...]:
  """Tokens that the tokenizer has to know in addition to the image token."""
  del settings
  return ()


def preprocess(
  pictures: Sequence[pixels.Picture],
  settings: Settings,
  *,
  capacity: int | None = None,
) -> pixels.Pictures:
  """Pictures as squares of the encoder's size.

  Args:
    pictures: I pictures of any size and mode.
    settings: of the model.
    capacity: parts a picture; it has one, so this is 1 or None.

  Returns:
    `Pictures` with pixels `[I, 1, side, side, 3]`; grid counts patches.
  """

  def cut(image):
    square = pixels.normalize(_square(image, settings), settings.values)
    return pixels.Cut(square[None], settings.grid, settings.tokens)

  return pixels.cut_all(
    pictures,
    cut,
    capacity=1 if capacity is None else capacity,
    shape=(*settings.side, 3),
  )


def _square(image: pixels.RGB, settings: Settings) -> np.ndarray:
  """8-bit pixels of the encoder's size."""
  size, resample, crop = settings.size, settings.values.resample, settings.side
  if settings.aspect == "pad" and image.shape[0] != image.shape[1]:
    color = pixels.mean_color(settings.values)
    if size is None:
      return pixels.square_region(image, color, crop)
    size = (size, size) if isinstance(size, int) else size
    square = pixels.resize_square(image, color, size, resample)
    return pixels.center_crop(square, crop)
  if size is None:
    return pixels.center_crop(image, crop)
  if isinstance(size, int):
    size = pixels.shortest_edge_size(image.shape[:2], size)
  top, left, bottom, right = pixels.center_region(size, crop)
  region = max(top, 0), max(left, 0), min(bottom, size[0]), min(right, size[1])
  middle = pixels.resize(image, size, resample, region=region)
  return pixels.center_crop(middle, crop)  # what is missing becomes black
