"""Questions about images, whatever their source."""

from collections.abc import Hashable, Iterator
import contextlib
import dataclasses
import io
import pathlib
from typing import Any, Protocol

import numpy as np
from PIL import Image

from eos_jax import naming
from eos_jax.data.processors import image_file, pixels


class LazyImage(Hashable, Protocol):
  """An image that is decoded when a row is made; equal ones show the same."""

  def open(self) -> np.ndarray:
    """Returns the decoded image, uint8 `[height, width, 3]`."""
    raise NotImplementedError

  def digest(self) -> str:
    """Returns a digest of the contents."""
    raise NotImplementedError


# A file, the bytes of a file, a decoded image, or what decodes one.
ImageSource = pathlib.Path | str | bytes | np.ndarray | Image.Image | LazyImage


@dataclasses.dataclass(frozen=True)
class Item:
  """A question about images, and the expected answer.

  Attributes:
    name: identifies the item in messages.
    question: the text after the images.
    answer: the expected text; "" if it is not known.
    images: in the order in which they are shown.
    later: further questions with their answers, in their order.
    task: which scores the item counts for; "" = the name of its source.
    file: the file it comes from, for messages.
    row: its number in that file, from 1.
  """

  name: str
  question: str
  answer: str
  images: tuple[Any, ...]
  later: tuple[tuple[str, str], ...] = ()
  task: str = ""
  file: str = dataclasses.field(default="", compare=False)
  row: int = dataclasses.field(default=0, compare=False)


@contextlib.contextmanager
def named(item: Any) -> Iterator[None]:
  """Names an item, which has a name, in ValueErrors."""
  try:
    yield
  except ValueError as error:
    name = naming.quoted(item.name)
    raise ValueError(f"question {name}: {error}") from error


def open_image(source: ImageSource) -> Image.Image:
  """Decodes an image.

  Args:
    source: files and bytes are read by `processors.open_picture`, which turns
      them upright; decoded images are taken as they are.

  Raises:
    ValueError: the image cannot be decoded, is too large, or is none.
  """
  if isinstance(source, Image.Image):
    return source
  if isinstance(source, (pathlib.Path, str, bytes)):
    return image_file.open_picture(source)
  array = source.open() if hasattr(source, "open") else source
  return Image.fromarray(pixels.rgb(array))


def encoded(source: Any) -> pathlib.Path | bytes | LazyImage:
  """Returns what is hashable and identifies an image by its contents."""
  if isinstance(source, str):
    return pathlib.Path(source)
  if isinstance(source, bytes) or hasattr(source, "open"):
    return source
  file = io.BytesIO()
  # Transparent parts become white, as where the image itself is shown.
  Image.fromarray(pixels.rgb(source)).save(file, format="PNG")
  return file.getvalue()
