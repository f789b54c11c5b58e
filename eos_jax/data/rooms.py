"""Pictures of published families as arrays of static shape: a room for them.

`Processor.prepare` gives what a family's processor in transformers gives. The
models here want arrays whose shapes no picture decides: a row has a room for so
many pictures, of so many tiles or of so large a size. A picture in the sense of
the model is what has a budget of its own: for SmolVLM every tile is one, for
LLaVA-OneVision all tiles of a picture are.

Pictures that are larger than their room are scaled down as the family itself
scales pictures: LLaVA-OneVision chooses among those of its resolutions that
have room, Qwen2-VL lowers its limit of the area. Others are read as ever.
"""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
from types import ModuleType
from typing import Any

import numpy as np

from eos_jax.data import processors
from eos_jax.data.processors import llava, onevision, pixels, qwen2_vl, smolvlm


@dataclasses.dataclass(frozen=True)
class Room:
  """What a row has room for.

  Attributes:
    pictures: I, in the sense of the model.
    tokens: V, visual tokens of each (`VLMConfig.tokens`).
    size: height and width of what the encoder reads at once, pixels
      (`VLMConfig.vision.size`).
    tiles: rows and columns of tiles of a picture (`VLMConfig.tiles`).
  """

  pictures: int
  tokens: int
  size: tuple[int, int]
  tiles: tuple[int, int] | None = None


@dataclasses.dataclass(frozen=True)
class Default:
  """The static shape of images that a family has unless another is set.

  Attributes:
    pictures: images of a row; of SmolVLM, tiles.
    tiles: rows and columns of tiles of an image of LLaVA-OneVision; or ().
    size: height and width of an image of Qwen2-VL, pixels; or ().
  """

  pictures: int = 1
  tiles: tuple[int, ...] = ()
  size: tuple[int, ...] = ()


def default(processor: processors.Processor) -> Default:
  """Returns the static shape of the images of a family."""
  return _FAMILIES[processor.family].default


def misfit(processor: processors.Processor, room: Room) -> str:
  """Why a processor's pictures are not those of a room; "" = they are."""
  settings = processor.settings
  made = _FAMILIES[processor.family].makes(settings, room)
  wanted = room.size, room.tokens
  if made != wanted:
    (height, width), tokens = made
    return (
      f"{processor.where}: the preprocessor makes pictures of {height} x"
      f" {width} pixels and {tokens} visual tokens, the model reads"
      f" {room.size[0]} x {room.size[1]} and {room.tokens}; take config.json"
      " and preprocessor_config.json from one model"
    )
  if processor.family is onevision and not _listed(settings, room.tiles):
    return (
      f"{processor.where}: none of the preprocessor's resolutions has"
      f" {room.tiles[0]} x {room.tiles[1]} tiles or fewer; make room for more"
      " tiles, or for (0, 0)"
    )
  return ""


def show(
  processor: processors.Processor,
  pictures: Sequence[pixels.Picture],
  prompt: str,
  room: Room,
) -> tuple[Mapping[str, Any], str]:
  """The pictures of one prompt, filled up to their room.

  Args:
    processor: of the model folder.
    pictures: of any size and mode.
    prompt: has one image token a picture.
    room: for them.

  Returns:
    What `models.inputs.see` reads: image, and present or layout, each with a
    leading axis of I pictures in the sense of the model, zeros after the last;
    and the prompt with one image token for each of these.

  Raises:
    ValueError: there are none or more than the room is for, or one cannot be
      read.
  """
  if not pictures:
    raise ValueError("there is no picture; give at least one")
  arrays, prompt = _FAMILIES[processor.family].show(
    processor, pictures, prompt, room
  )
  count = len(arrays["image"])
  if count > room.pictures:
    raise ValueError(
      f"{len(pictures)} pictures are {count} for the model, tiles counted, and"
      f" there is room for {room.pictures}; raise the number of pictures, or"
      " give smaller ones"
    )
  return _filled(arrays, room.pictures - count), prompt


def _filled(arrays, spare):
  """Arrays with `spare` further pictures of zeros."""
  if isinstance(arrays, Mapping):
    return {name: _filled(value, spare) for name, value in arrays.items()}
  return np.pad(arrays, [(0, spare)] + [(0, 0)] * (arrays.ndim - 1))


@dataclasses.dataclass(frozen=True)
class _Family:
  """What a family makes of pictures.

  Attributes:
    makes: size of what the encoder reads at once and tokens of a picture, from
      settings and room.
    show: as `show`, without filling up.
    default: static shape of the images.
  """

  makes: Callable[[Any, Room], tuple[tuple[int, int], int]]
  show: Callable[..., tuple[Mapping[str, Any], str]]
  default: Default = Default()


def _show_tiles(processor, pictures, prompt, room):
  """Every tile is a picture (SmolVLM), or there are none (LLaVA-1.5)."""
  settings, family = processor.settings, processor.family
  capacity = 1 if family is llava else settings.capacity
  ready = family.preprocess(pictures, settings, capacity=capacity)
  image = ready.pixels[ready.valid]
  present = np.ones((len(image), room.tokens), bool)
  prompt = processor.expand(prompt, ready, once=True)
  return {"image": image, "present": present}, prompt


def _listed(settings, tiles):
  """The resolutions that have no more tiles either way."""
  down, across = (settings.side * max(count, 1) for count in tiles)
  return tuple(
    (height, width)
    for height, width in settings.resolutions
    if height <= down and width <= across
  )


def _show_onevision(processor, pictures, prompt, room):
  """All tiles of a picture are one; several pictures are one tile each."""
  settings, tiles = processor.settings, room.tiles
  settings = dataclasses.replace(settings, resolutions=_listed(settings, tiles))
  tiled = len(pictures) == 1 and min(tiles) > 0
  ready = onevision.preprocess(
    pictures, settings, capacity=1 + tiles[0] * tiles[1], tiled=tiled
  )
  layouts = [
    onevision.layout(tuple(size), settings, tiled=tiled, capacity=room.tokens)
    for size in ready.sizes.tolist()
  ]
  layout = {
    field.name: np.stack([getattr(one, field.name) for one in layouts])
    for field in dataclasses.fields(onevision.Layout)
  }
  return {"image": ready.pixels, "layout": layout}, prompt


def _onevision_makes(settings, room):
  (down, across), side = room.tiles, settings.patches
  tokens = (1 + down * across) * side**2 + max(down * side, 1)
  return (settings.side,) * 2, tokens


def _show_qwen2_vl(processor, pictures, prompt, room):
  """A picture lies in the corner of its room."""
  settings = processor.settings
  rows, columns = (edge // settings.block for edge in room.size)
  image, present = [], np.zeros((len(pictures), rows, columns), bool)
  for place, picture in enumerate(pictures):
    canvas, (down, across) = qwen2_vl.place(picture, settings, room.size)
    image.append(canvas)
    present[place, :down, :across] = True
  present = present.reshape(len(pictures), -1)
  return {"image": np.stack(image), "present": present}, prompt


def _qwen2_vl_makes(settings, room):
  rows, columns = (edge // settings.block for edge in room.size)
  return (rows * settings.block, columns * settings.block), rows * columns


_FAMILIES: dict[ModuleType, _Family] = {
  llava: _Family(lambda own, _: (own.side, own.tokens), _show_tiles),
  smolvlm: _Family(
    lambda own, _: ((own.side, own.side), own.tokens),
    _show_tiles,
    Default(pictures=17),
  ),
  onevision: _Family(_onevision_makes, _show_onevision, Default(tiles=(2, 2))),
  qwen2_vl: _Family(_qwen2_vl_makes, _show_qwen2_vl, Default(size=(672, 672))),
}
