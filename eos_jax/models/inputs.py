"""What a batch says to the model, whosever model it is.

A batch is a dict of arrays. The shipped model's has one 8-bit picture a row,
in front of the text. Those of published models have normalised pictures and, as
they need, where these stand in the text and which tokens they have.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from eos_jax.array_typing import Array
from eos_jax.models import config as config_lib
from eos_jax.models import reduction as reduction_lib
from eos_jax.models import sequence, tiles, vlm

# What `see` reads of a batch.
SHOWN = ("image", "present", "layout")

# Bytes up to which questions and encoded pictures stay for the next time.
_KEPT = 2**30


def normalize(image: Array) -> Array:
  """Pictures as the shipped encoder reads them: 8 bits to [-1, 1].

  Those in floating point are normalised already.
  """
  if image.dtype != jnp.uint8:
    return image
  return image.astype(jnp.float32) / 127.5 - 1.0


def see(
  cfg: config_lib.VLMConfig,
  params: Any,
  batch: Mapping[str, Any],
  reduction: reduction_lib.Reduction = None,
  *,
  key: Array | None = None,
) -> vlm.Seen:
  """`models.see` of the pictures of a batch.

  Args:
    cfg: shape of the model.
    params: its parameters.
    batch: image, uint8 `[B, height, width, 3]` or as `models.see` wants it;
      perhaps present, bool `[B, I, V]`, which is its `valid`; perhaps layout,
      the fields of a `tiles.Layout` by name.
    reduction: acts in the encoder.
    key: of the score "random".
  """
  layout = batch.get("layout")
  return vlm.see(
    cfg,
    params,
    normalize(batch["image"]),
    reduction,
    valid=batch.get("present"),
    layout=None if layout is None else tiles.Layout(**layout),
    key=key,
  )


def text(batch: Mapping[str, Any]) -> sequence.Text:
  """The text of a batch: tokens, mask, prompt_length, and perhaps slots."""
  return sequence.Text(
    tokens=batch["tokens"],
    mask=batch["mask"],
    prompt_length=batch["prompt_length"],
    slots=batch.get("slots"),
  )


def prompt(batch: Mapping[str, Any]) -> sequence.Text:
  """The text of a batch up to the answers; padded after."""
  columns = jnp.arange(batch["tokens"].shape[1])[None]
  known = {"mask": columns < batch["prompt_length"][:, None]}
  return text({**batch, **known})


def batch_shapes(
  cfg: config_lib.VLMConfig,
  rows: int,
  *,
  max_images: int,
  text_length: int,
  raw: bool = False,
  dtype: Any = jnp.float32,
) -> dict[str, Any]:
  """Returns the shapes of a batch, as a tree of `jax.ShapeDtypeStruct`.

  Args:
    cfg: shape of the model, with the static shape of images.
    rows: B.
    max_images: I.
    text_length: T.
    raw: whether there is one 8-bit image a row, in front of the text, as for
      "tiny".
    dtype: of normalised images.
  """
  shape = jax.ShapeDtypeStruct
  words = {
    "tokens": shape((rows, text_length), jnp.int32),
    "mask": shape((rows, text_length), jnp.bool_),
    "prompt_length": shape((rows,), jnp.int32),
    "loss_mask": shape((rows, text_length), jnp.bool_),
  }
  size = cfg.vision.size
  if raw:
    return words | {"image": shape((rows, *size, 3), jnp.uint8)}
  many = (rows, max_images)
  words["slots"] = shape(many, jnp.int32)
  if cfg.tiles is None:
    return words | {
      "image": shape((*many, *size, 3), dtype),
      "present": shape((*many, cfg.tokens), jnp.bool_),
    }
  each = (*many, cfg.tokens)
  return words | {
    "image": shape((*many, cfg.crops, *size, 3), dtype),
    "layout": {
      "index": shape((*each, 4), jnp.int32),
      "weight": shape((*each, 4), jnp.float32),
      "newline": shape(each, jnp.bool_),
      "valid": shape(each, jnp.bool_),
    },
  }


class Kept:
  """Batches that are made once, where all of them may stay on the devices."""

  def __init__(self):
    self._found: list[Any] | None = None

  def batches(
    self,
    make: Callable[[int], Iterator[tuple[Any, Any]]],
    count: int,
    start: int = 0,
  ) -> Iterator[Any]:
    """Yields batches, made or kept.

    Args:
      make: yields each batch from a number on, with those of its arrays that
        lie on the devices.
      count: number of all batches.
      start: batches to pass over; what is then made is not kept.
    """
    if self._found is not None:
      yield from self._found[start:]
      return
    found: list[Any] | None = None if start else []
    for batch, arrays in make(start):
      held = sum(leaf.nbytes for leaf in jax.tree.leaves(arrays))
      if found is not None and held * count <= _KEPT:
        found.append(batch)
      else:
        found = None
      yield batch
    self._found = found
