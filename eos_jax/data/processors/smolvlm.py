"""Pictures of SmolVLM and Idefics3: tiles of the enlarged picture, then all.

The longer side is brought to a fixed length, both sides are stretched to whole
tiles, the tiles are read one by one and the whole, squeezed into a tile, last.
In the prompt each tile is announced by its row and column.

Sources: huggingface/transformers
`models/smolvlm/image_processing_pil_smolvlm.py` (the same as
`models/idefics3/image_processing_pil_idefics3.py`) and
`models/idefics3/processing_idefics3.py`.
"""

from collections.abc import Sequence
import dataclasses
import math

from jaxtyping import Bool
import numpy as np
from PIL import Image

from eos_jax.data.processors import folder as folder_lib
from eos_jax.data.processors import pixels

IMAGE_TOKEN = "<image>"
END_TOKEN = "<end_of_utterance>"
AROUND = "<fake_token_around_image>"
GLOBAL = "<global-img>"
_HALF = pixels.PixelSettings(
  int(Image.Resampling.LANCZOS), mean=(0.5,) * 3, std=(0.5,) * 3
)
_KNOWN = (
  "do_image_splitting",
  "do_pad",
  "max_image_size",
  "return_row_col_info",
)
# No side is made longer than this before it is stretched to whole tiles.
_LONGEST = 4096


@dataclasses.dataclass(frozen=True)
class Settings:
  """How SmolVLM reads a picture.

  Attributes:
    values: filter and normalisation of the pixels.
    longest: length of the longer side, pixels; None keeps the picture's.
    side: of a tile, pixels.
    split: whether to cut into tiles; else there is the squeezed whole alone.
    tokens: image tokens of a tile.
  """

  values: pixels.PixelSettings = _HALF
  longest: int | None = 2048
  side: int = 512
  split: bool = True
  tokens: int = 64

  @property
  def capacity(self) -> int:
    """Tiles of a square picture, and the whole."""
    if not self.split:
      return 1
    rows = math.ceil(min(self.longest or _LONGEST, _LONGEST) / self.side)
    return rows**2 + 1


def read_settings(folder: folder_lib.Folder) -> Settings:
  """Settings of a model folder.

  Raises:
    ValueError: a field has no value that can be used or is unknown.
  """
  fields = folder.picture
  folder.image_class(["SmolVLMImageProcessor", "Idefics3ImageProcessor"])
  fields.refuse_unknown(_KNOWN)
  side = _longest(fields, "max_image_size", 364)
  longest = _longest(fields, "size", 4 * 364)
  vision = folder.vision
  across = vision.whole("image_size", side) // vision.whole("patch_size", 14)
  tokens = across**2 // folder.config.whole("scale_factor", 2) ** 2
  return Settings(
    fields.pixel_settings(_HALF),
    longest if fields.flag("do_resize", True) else None,
    side,
    fields.flag("do_image_splitting", True),
    folder.processor.whole("image_seq_len", max(tokens, 1)),
  )


def special_tokens(settings: Settings) -> tuple[str, ...]:
  """Tokens that the tokenizer has to know in addition to the image token."""
  del settings
  return (AROUND, GLOBAL, "<end_of_utterance>")


def _longest(fields: folder_lib.Fields, name: str, default: int) -> int:
  """A length that is a number or {longest_edge: number}."""
  value = fields.get(name, default)
  if isinstance(value, dict):
    value = (
      value.get("longest_edge") if set(value) == {"longest_edge"} else None
    )
  if isinstance(value, bool) or not isinstance(value, int) or value < 1:
    raise fields.fault(name, "{longest_edge: pixels}", "correct the file")
  return value


def scaled_size(size: tuple[int, int], longest: int) -> tuple[int, int]:
  """Height and width with a longer side of `longest`, the shorter one even.

  >>> scaled_size((480, 640), 2048)
  (1536, 2048)
  """
  height, width = size
  ratio = width / height
  # The ratio is rounded before it is used, as in the original; exact fractions
  # would give another pixel now and then.
  if width >= height:
    short = int(longest / ratio)
    height, width = max(short + short % 2, 1), longest
  else:
    short = int(longest * ratio)
    height, width = longest, max(short + short % 2, 1)
  ratio = width / height
  if width >= height and width > _LONGEST:
    height, width = max(int(_LONGEST / ratio), 1), _LONGEST
  elif height > width and height > _LONGEST:
    height, width = _LONGEST, max(int(_LONGEST * ratio), 1)
  return height, width


def tile_grid(
  size: tuple[int, int], settings: Settings
) -> tuple[tuple[int, int], tuple[int, int]]:
  """What a picture is resized to first, and its rows and columns of tiles.

  Returns:
    (height, width) in pixels, and (rows, columns), which are (1, 1) for a
    picture that fits one tile.
  """
  if settings.longest is not None:
    size = scaled_size(size, settings.longest)
  height, width = size
  ratio, side = width / height, settings.side
  if width >= height:
    cols = math.ceil(width / side)
    rows = math.ceil(int(cols * side / ratio) / side)
  else:
    rows = math.ceil(height / side)
    cols = math.ceil(int(rows * side * ratio) / side)
  return size, (rows, cols)


def tile_names(grid: tuple[int, int]) -> list[str]:
  """The tokens that announce tiles, row by row.

  >>> tile_names((1, 2))
  ['<row_1_col_1>', '<row_1_col_2>']
  """
  rows, cols = grid
  return [
    f"<row_{row}_col_{col}>"
    for row in range(1, rows + 1)
    for col in range(1, cols + 1)
  ]


def image_prompt(grid: tuple[int, int], settings: Settings) -> str:
  """The text that stands for a picture: its tiles by row and column.

  Args:
    grid: rows and columns of tiles; (0, 0) if there is the whole alone.
    settings: of the model.

  >>> image_prompt((0, 0), Settings(tokens=1))
  '<fake_token_around_image><global-img><image><fake_token_around_image>'
  """
  tile = IMAGE_TOKEN * settings.tokens
  cols = grid[1]
  tiles = [f"{AROUND}{name}{tile}" for name in tile_names(grid)]
  lines = [
    "".join(tiles[start : start + cols]) + "\n"
    for start in range(0, len(tiles), max(cols, 1))
  ]
  if lines:
    lines.append("\n")
  return "".join([*lines, AROUND, GLOBAL, tile, AROUND])


def token_count(grid: tuple[int, int], settings: Settings) -> int:
  """Image tokens of a picture; the tokens around its tiles do not count.

  >>> token_count((3, 4), Settings()), token_count((0, 0), Settings())
  (832, 64)
  """
  return (grid[0] * grid[1] + 1) * settings.tokens


def pixel_mask(
  pictures: pixels.Pictures,
) -> Bool[np.ndarray, "I capacity side side"]:
  """Which pixels are there: all of a tile or none, since tiles are stretched.

  The encoder makes the positions and the mask of its patches from it.
  """
  shape = pictures.pixels.shape[:4]
  return np.broadcast_to(pictures.valid[:, :, None, None], shape)


def _tiles(image: pixels.RGB, settings: Settings, capacity: int):
  """8-bit tiles, the whole last, and their rows and columns."""
  side, resample = settings.side, settings.values.resample
  size, (rows, cols) = tile_grid(image.shape[:2], settings)
  if settings.split and (rows, cols) != (1, 1):  # before they take memory
    pixels.check_capacity(
      rows * cols + 1, capacity, kind="tiles", size=image.shape[:2]
    )
  # Two steps, as the original does; one would give other pixels.
  image = pixels.resize(image, size, resample)
  if not settings.split:
    return pixels.resize(image, (side, side), resample)[None], (0, 0)
  image = pixels.resize(image, (rows * side, cols * side), resample)
  if (rows, cols) == (1, 1):
    return image[None], (0, 0)
  tiles = image.reshape(rows, side, cols, side, 3).swapaxes(1, 2)
  tiles = tiles.reshape(-1, side, side, 3)
  whole = pixels.resize(image, (side, side), resample)
  return np.concatenate([tiles, whole[None]]), (rows, cols)


def preprocess(
  pictures: Sequence[pixels.Picture],
  settings: Settings,
  *,
  capacity: int | None = None,
) -> pixels.Pictures:
  """Pictures as tiles row by row, the whole last.

  Args:
    pictures: I pictures of any size and mode.
    settings: of the model.
    capacity: tiles a picture, the whole among them; None is what a square
      picture has.

  Returns:
    `Pictures` with pixels `[I, capacity, side, side, 3]`; grid counts tiles
    and is 0 where there is the whole alone. See also `pixel_mask`.
  """
  capacity = settings.capacity if capacity is None else capacity

  def cut(image):
    tiles, grid = _tiles(image, settings, capacity)
    return pixels.Cut(
      pixels.normalize(tiles, settings.values),
      grid,
      token_count(grid, settings),
    )

  return pixels.cut_all(
    pictures,
    cut,
    capacity=capacity,
    shape=(settings.side, settings.side, 3),
  )
