"""Questions about images, whatever their source."""

from collections.abc import Hashable
import dataclasses
import io
import pathlib
from typing import Any, Protocol

import numpy as np
from PIL import Image

from eos_jax.data.processors import image_file


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


def open_image(source: ImageSource) -> Image.Image:
  """Decodes an image.

  Args:
    source: files and bytes are read by `processors.open_picture`, which turns
      them upright; decoded images are taken as they are.

  Raises:
    ValueError: the image cannot be decoded, or is too large.
  """
  if isinstance(source, Image.Image):
    return source
  if isinstance(source, (pathlib.Path, str, bytes)):
    return image_file.open_picture(source)
  array = source if isinstance(source, np.ndarray) else source.open()
  if array.dtype != np.uint8 or array.ndim not in (2, 3):
    raise ValueError(
      f"an image is an array {array.dtype}{list(array.shape)}; expected uint8"
      " [height, width, 3]; scale floats to 0..255 and convert them"
    )
  return Image.fromarray(array)


def encoded(source: Any) -> pathlib.Path | bytes | LazyImage:
  """Returns what is hashable and identifies an image by its contents."""
  if isinstance(source, str):
    return pathlib.Path(source)
  if not isinstance(source, (np.ndarray, Image.Image)):
    return source
  file = io.BytesIO()
  open_image(source).save(file, format="PNG")
  return file.getvalue()
