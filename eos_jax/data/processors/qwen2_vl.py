"""Pictures of Qwen2-VL and Qwen2.5-VL: patches, as many as the size asks for.

Both sides are rounded to whole blocks of patches within limits of the area.
Patches come block by block, because the encoder merges each block into one
image token, and repeat the picture in time, because it reads pairs of frames.

Sources: huggingface/transformers
`models/qwen2_vl/image_processing_pil_qwen2_vl.py` and
`models/qwen2_vl/processing_qwen2_vl.py`; QwenLM/Qwen2-VL
`qwen-vl-utils/src/qwen_vl_utils/vision_process.py`.
"""

from collections.abc import Sequence
import dataclasses
import math

from jaxtyping import Float32
import numpy as np

from eos_jax.data.processors import folder as folder_lib
from eos_jax.data.processors import llava, pixels

IMAGE_TOKEN = "<|image_pad|>"
END_TOKEN = "<|im_end|>"
_KNOWN = (
  "max_pixels",
  "merge_size",
  "min_pixels",
  "patch_size",
  "temporal_patch_size",
)
_STEEPEST = 200


@dataclasses.dataclass(frozen=True)
class Settings:
  """How Qwen2-VL reads a picture.

  Attributes:
    values: filter and normalisation of the pixels.
    least: smallest area after resizing, pixels.
    most: largest area after resizing, pixels; it decides the number of
      patches, so lower it (`dataclasses.replace`) for small compiled models.
    patch: side of a patch, pixels.
    merge: patches on each side of a block, which is one image token.
    frames: how often a still picture is repeated in a patch.
  """

  values: pixels.PixelSettings = llava.CLIP
  least: int = 56 * 56
  most: int = 28 * 28 * 1280
  patch: int = 14
  merge: int = 2
  frames: int = 2

  @property
  def capacity(self) -> int:
    """Patches of any picture that is read.

    The area decides, but for long ones under a small limit: a side is never
    shorter than a block, and small pictures are rounded up.
    """
    longest = math.sqrt(self.most * _STEEPEST) // self.block
    grown = math.sqrt(self.least) / self.block
    steep = math.sqrt(_STEEPEST)
    grown = grown**2 + grown * (steep + 1 / steep) + 1
    blocks = max(self.most // self.block**2, longest, grown)
    return int(blocks) * self.merge**2

  @property
  def block(self) -> int:
    """Side of a block of patches, pixels."""
    return self.patch * self.merge

  @property
  def features(self) -> int:
    """Numbers in a patch."""
    return 3 * self.frames * self.patch**2


def read_settings(folder: folder_lib.Folder) -> Settings:
  """Settings of a model folder.

  Limits of the area are `min_pixels` and `max_pixels`, alone or in `size`, or
  `shortest_edge` and `longest_edge` in `size`, which are areas too whatever
  their names say.

  Raises:
    ValueError: a field has no value that can be used or is unknown.
  """
  fields = folder.picture
  folder.image_class(["Qwen2VLImageProcessor", "Qwen2_5_VLImageProcessor"])
  fields.refuse_unknown(_KNOWN)
  if not fields.flag("do_resize", True):
    raise fields.fault(
      "do_resize", "true, so that patches fill the picture", "set it to true"
    )
  size = fields.get("size", {})
  if not isinstance(size, dict):
    raise fields.fault(
      "size", "{shortest_edge, longest_edge}, areas in pixels", "correct it"
    )
  limits = []
  for own, other, default in (
    ("min_pixels", "shortest_edge", Settings.least),
    ("max_pixels", "longest_edge", Settings.most),
  ):
    value = fields.get(own)
    value = size.get(own, size.get(other)) if value is None else value
    limits.append(default if value is None else value)
  least, most = limits
  whole = all(isinstance(v, int) and not isinstance(v, bool) for v in limits)
  if not whole or not 0 < least <= most:
    raise ValueError(
      f"{fields.path}: areas are {least} to {most} pixels; expected whole"
      " numbers, 0 < min_pixels <= max_pixels; correct the file"
    )
  return Settings(
    fields.pixel_settings(llava.CLIP),
    least,
    most,
    fields.whole("patch_size", 14),
    fields.whole("merge_size", 2),
    fields.whole("temporal_patch_size", 2),
  )


def special_tokens(settings: Settings) -> tuple[str, ...]:
  """Tokens that the tokenizer has to know in addition to the image token."""
  del settings
  return ("<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>")


def smart_size(size: tuple[int, int], settings: Settings) -> tuple[int, int]:
  """Height and width in whole blocks, near to the shape and within the area.

  Raises ValueError for pictures more than 200 times as long as wide.

  >>> smart_size((480, 640), Settings())
  (476, 644)
  """
  height, width = size
  if max(size) > _STEEPEST * min(size):
    raise ValueError(
      f"a picture of {height} x {width} pixels is more than {_STEEPEST} times"
      " as long as wide, which Qwen2-VL does not read; crop or pad it"
    )
  block = settings.block
  # Python's rounding to even is the original's, too.
  rounded = round(height / block) * block, round(width / block) * block
  area = rounded[0] * rounded[1]
  if area > settings.most:
    shrink = math.sqrt(height * width / settings.most)
    return tuple(
      max(block, math.floor(edge / shrink / block) * block) for edge in size
    )
  if area < settings.least:
    grow = math.sqrt(settings.least / (height * width))
    return tuple(math.ceil(edge * grow / block) * block for edge in size)
  return rounded


def patch_grid(size: tuple[int, int], settings: Settings) -> tuple[int, int]:
  """Rows and columns of the patches of a picture."""
  height, width = smart_size(size, settings)
  return height // settings.patch, width // settings.patch


def token_count(size: tuple[int, int], settings: Settings) -> int:
  """Image tokens of a picture.

  >>> token_count((480, 640), Settings())
  391
  """
  rows, cols = patch_grid(size, settings)
  return rows * cols // settings.merge**2


def _patches(
  image: Float32[np.ndarray, "height width 3"], settings: Settings
) -> Float32[np.ndarray, "patches features"]:
  """Patches in the order of blocks; features are (channel, time, y, x)."""
  side, merge = settings.patch, settings.merge
  rows, cols = (edge // (side * merge) for edge in image.shape[:2])
  blocks = image.reshape(rows, merge, side, cols, merge, side, 3)
  blocks = blocks.transpose(0, 3, 1, 4, 6, 2, 5)[:, :, :, :, :, None]
  blocks = np.repeat(blocks, settings.frames, axis=5)
  return blocks.reshape(rows * cols * merge**2, settings.features)


def _resized(image: pixels.RGB, settings: Settings):
  """The whole picture at its size in blocks, normalised."""
  size = smart_size(image.shape[:2], settings)
  resized = pixels.resize(image, size, settings.values.resample)
  return pixels.normalize(resized, settings.values)


def fitting(
  size: tuple[int, int], settings: Settings, room: tuple[int, int]
) -> Settings:
  """Settings under which a picture is no larger than a room.

  Their limit of the area is lowered as far as needed; a picture that fits is
  read as ever.

  Args:
    size: height and width of the picture, pixels.
    settings: of the model.
    room: height and width, pixels; at least one block each.

  >>> smart_size((900, 1200), fitting((900, 1200), Settings(), (448, 448)))
  (336, 448)
  """
  while True:
    found = smart_size(size, settings)
    if all(edge <= most for edge, most in zip(found, room, strict=True)):
      return settings
    scale = min(most / edge for edge, most in zip(size, room, strict=True))
    # One more, so that an edge that fills the room is not rounded down.
    area = math.ceil(size[0] * size[1] * scale**2) + 1
    area = min(area, found[0] * found[1] - 1, settings.most - 1)
    least = min(settings.least, area)
    settings = dataclasses.replace(settings, most=area, least=least)


def place(
  picture: pixels.Picture, settings: Settings, room: tuple[int, int]
) -> tuple[Float32[np.ndarray, "height width 3"], tuple[int, int]]:
  """A picture in the upper left corner of a room, made to fit.

  Args:
    picture: of any mode, and any size but very long ones.
    settings: of the model.
    room: height and width of the result, pixels; whole blocks.

  Returns:
    The normalised pixels, zeros around the picture, and its rows and columns
    in image tokens.
  """
  image = pixels.rgb(picture)
  settings = fitting(image.shape[:2], settings, room)
  found = _resized(image, settings)
  canvas = np.zeros((*room, 3), np.float32)
  height, width = found.shape[:2]
  canvas[:height, :width] = found
  return canvas, (height // settings.block, width // settings.block)


def preprocess(
  pictures: Sequence[pixels.Picture],
  settings: Settings,
  *,
  capacity: int | None = None,
) -> pixels.Pictures:
  """Pictures as patches in the order of the encoder's blocks.

  Args:
    pictures: I pictures of any mode, and any size but very long ones.
    settings: of the model.
    capacity: patches a picture; None is what the largest area has.

  Returns:
    `Pictures` with pixels `[I, capacity, features]`, the features of a patch
    in the order (channel, time, y, x); grid counts patches.
  """

  def cut(image):
    size = image.shape[:2]
    return pixels.Cut(
      _patches(_resized(image, settings), settings),
      patch_grid(size, settings),
      token_count(size, settings),
    )

  return pixels.cut_all(
    pictures,
    cut,
    capacity=settings.capacity if capacity is None else capacity,
    shape=(settings.features,),
    kind="patches",
  )
