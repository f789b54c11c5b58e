"""Published models for tasks: from a folder to parameters on devices."""

from collections.abc import Callable, Mapping
import dataclasses
import functools
import hashlib
import json
import pathlib
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import tqdm

from eos_jax import models
from eos_jax.data import instruction_rows, processors, rooms
from eos_jax.models import families, loading
from eos_jax.tasks import common
from eos_jax.training import converted, fits, partition, shared_settings


class Room(Protocol):
  """Settings of the room that a row has.

  Attributes:
    text_length: tokens of text.
    pictures: of a row.
    tiles: rows and columns of tiles of a picture, or ().
    size: height and width of a picture, or ().
  """

  text_length: int
  pictures: int
  tiles: tuple[int, ...]
  size: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Source:
  """A model's folder, before its weights are read.

  Attributes:
    description: what its config says.
    dtype: that its parameters will have.
    host: bytes of the host that reading takes beside them.
    load: reads the weights, given shardings.
  """

  description: families.Description
  dtype: Any
  host: int
  load: Callable[[Callable[[Any], Any]], Any]


def source(model: shared_settings.ModelSettings) -> Source:
  """A folder in Hugging Face's layout, or one that was converted from it.

  Raises:
    ValueError: it cannot be read, or was converted to another dtype.
  """
  folder, dtype = pathlib.Path(model.path), model.dtype
  if converted.finished(folder):
    description, mark = converted.check(folder)
    if dtype not in ("", mark["dtype"]):
      raise ValueError(
        f"{folder} was converted to {mark['dtype']}, and dtype is {dtype!r};"
        " use config.model.dtype='', or convert it again"
      )
    load = lambda place: converted.restore(folder, shardings=place)[1]
    return Source(description, jnp.dtype(mark["dtype"]), 0, load)
  outside = {"allow_outside": model.allow_outside}
  contents = loading.inspect(folder, **outside)
  dtype = jnp.dtype(dtype or loading.stored_dtype(contents.description))

  def load(place):
    with tqdm.tqdm(
      desc="reading", unit="B", unit_scale=True, dynamic_ncols=True
    ) as bar:
      watch = functools.partial(common.advance, bar)
      return loading.load(
        folder, dtype=dtype, shardings=place, watch=watch, **outside
      )[1]

  passing = loading.passing(contents, dtype)
  return Source(contents.description, dtype, passing, load)


def with_room(
  description: families.Description,
  room: Room,
  processor: processors.Processor | None = None,
) -> models.VLMConfig:
  """The model with the room that its pictures are given.

  Args:
    description: of the model.
    room: of a row.
    processor: of its folder; where that begins no text with the token that the
      model's config names, neither does the model.

  Raises:
    ValueError: its family needs another room, or has no choice.
  """
  cfg, family = description.cfg, description.family
  tiled, any_size = cfg.tiles is not None, cfg.vision.rotary
  for name, wanted in (("tiles", tiled), ("size", any_size)):
    value = getattr(room, name)
    if bool(value) != wanted:
      what = "rows and columns of tiles" if name == "tiles" else "pixels"
      raise ValueError(
        f"{name} is {value}, and models of the family {family}"
        f" {'need it: give ' + what if wanted else 'have none: use ()'}"
      )
  if tiled:
    cfg = dataclasses.replace(cfg, tiles=tuple(room.tiles))
  if any_size:
    vision = dataclasses.replace(cfg.vision, image_size=tuple(room.size))
    cfg = dataclasses.replace(cfg, vision=vision)
  if processor is not None and cfg.prefix:
    text = processor.text
    begun = text.encode(processor.prompt([{"role": "user", "content": "?"}]))
    if begun[:1] != [text.inner.token_to_id(text.begin)]:
      cfg = dataclasses.replace(cfg, prefix=())
  return cfg


def rows(
  processor: processors.Processor,
  cfg: models.VLMConfig,
  room: Room,
  protocol: str = "",
) -> instruction_rows.Rows:
  """What makes rows of questions for a model.

  Args:
    processor: of the model's folder.
    cfg: from `with_room`.
    room: of a row.
    protocol: that is asked by, of `data.benchmarks.prompts.PROTOCOLS`, or "".

  Raises:
    ValueError: the processor is not that of the model.
  """
  rows = cfg.decoder.vocab
  where = f"{processor.where}/tokenizer.json"
  processor.text.check_rows(rows, "the model's config.json", where=where)
  return instruction_rows.Rows(
    processor,
    cfg.prefix,
    rooms.Room(room.pictures, cfg.tokens, cfg.vision.size, cfg.tiles),
    room.text_length,
    protocol,
  )


def load(
  found: Source, mesh: jax.sharding.Mesh, besides: Mapping[str, int]
) -> tuple[Any, str]:
  """Says what a model takes, refuses one without room, and reads it.

  Args:
    found: from `source`.
    mesh: devices, over which parameters are cut.
    besides: further bytes on each device, by what they are for.

  Returns:
    The parameters, and their fingerprint.

  Raises:
    fits.TooLarge: there is no room for it.
  """
  need = fits.measure(
    found.description, found.dtype, mesh, besides=besides, host=found.host
  )
  room = fits.room()
  print(fits.report(need, room), flush=True)
  fits.check(need, room)
  params = found.load(functools.partial(partition.param_shardings, mesh))
  sums = json.dumps(converted.sums(params), sort_keys=True)
  return params, hashlib.sha256(sums.encode()).hexdigest()
