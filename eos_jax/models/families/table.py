"""How the tensors of a published checkpoint become the parameters of a model.

Everything here is data and pure functions of names, shapes and NumPy arrays.
"""

from collections.abc import Callable, Mapping
import dataclasses
import math
import re
from typing import Any

import numpy as np

from eos_jax.models import config as config_lib

Shape = tuple[int, ...]

# Paths of the embedding of tokens, and of the output head.
EMBEDDING, HEAD = "decoder.embed", "decoder.head.out"


@dataclasses.dataclass(frozen=True)
class Form:
  """How one tensor is stored there and here.

  Attributes:
    ours: the tensor as the model wants it, without its layer axis.
    theirs: the shape of the stored tensor, from the model's.
  """

  ours: Callable[[np.ndarray], np.ndarray]
  theirs: Callable[[Shape], Shape]


def _patches(kernel):
  """Convolution `[D, 3, p, p]` to rows and columns of a patch, channels, D."""
  return kernel.transpose(2, 3, 1, 0).reshape(-1, kernel.shape[0])


def _convolution(shape):
  side = math.isqrt(shape[0] // 3)
  return shape[1], 3, side, side


def _frames(kernel):
  """Convolution `[D, 3, 2, p, p]` over two frames that show the same."""
  # In the stored precision the sum would be rounded before the cast.
  kernel = kernel.astype(np.promote_types(kernel.dtype, np.float32))
  return _patches(kernel[:, :, 0] + kernel[:, :, 1])


def _film(shape):
  width, channels, *side = _convolution(shape)
  return width, channels, 2, *side


FORMS = {
  "same": Form(lambda value: value, lambda shape: shape),
  # PyTorch multiplies by the transpose: its linear weights are `[out, in]`.
  "linear": Form(lambda value: value.T, lambda shape: shape[::-1]),
  "patches": Form(_patches, _convolution),
  "frames": Form(_frames, _film),
}


@dataclasses.dataclass(frozen=True)
class Weight:
  """One parameter of the model, and the tensors that it is made of.

  Attributes:
    path: dotted path of the parameter.
    source: name of the tensor; `{}` stands for the number of the layer where
      the parameter has a leading layer axis.
    form: one of `FORMS`.
    part: number of the parameter, and how many there are, where the tensor
      holds several along its first axis; None = it holds this one.
  """

  path: str
  source: str
  form: str = "same"
  part: tuple[int, int] | None = None

  @property
  def stacked(self) -> bool:
    """Whether the parameter has a leading layer axis."""
    return "{}" in self.source

  def names(self, shape: Shape) -> tuple[str, ...]:
    """Names of its tensors, in the order of the layers.

    Args:
      shape: of the parameter.
    """
    if not self.stacked:
      return (self.source,)
    return tuple(self.source.format(layer) for layer in range(shape[0]))

  def stored(self, shape: Shape) -> Shape:
    """Shape of each of its tensors, from that of the parameter.

    Parameters of one tensor have the same shape.
    """
    first, *rest = FORMS[self.form].theirs(shape[1:] if self.stacked else shape)
    _, parts = self.part or (0, 1)
    return first * parts, *rest

  def ours(self, tensor: np.ndarray) -> np.ndarray:
    """The parameter, or its entry for a layer, from its tensor."""
    if self.part is not None:
      number, parts = self.part
      tensor = np.split(tensor, parts)[number]
    return FORMS[self.form].ours(tensor)


def affine(
  path: str, source: str, form: str = "linear", kernel: str = "kernel"
) -> tuple[Weight, Weight]:
  """Weight and bias of a linear layer, or of a norm."""
  return (
    Weight(f"{path}.{kernel}", f"{source}.weight", form),
    Weight(f"{path}.bias", f"{source}.bias"),
  )


def norm(path: str, source: str) -> tuple[Weight, Weight]:
  """Scale and bias of a layer norm."""
  return affine(path, source, form="same", kernel="scale")


def linear(path: str, source: str) -> Weight:
  """Weight of a linear layer without a bias."""
  return Weight(f"{path}.kernel", f"{source}.weight", "linear")


@dataclasses.dataclass(frozen=True)
class Surplus:
  """Tensors that may be in a checkpoint and are not read.

  Attributes:
    pattern: regular expression of their whole names.
    reason: why they are not needed.
  """

  pattern: str
  reason: str


@dataclasses.dataclass(frozen=True)
class Table:
  """The weights of a family.

  Attributes:
    weights: every parameter of the model, once.
    renames: regular expressions and what they become, applied one after the
      other; they bring the layouts in circulation to the names of `weights`.
    surplus: what is left out.
    head: name of the output head; it is read where it is one of `weights`, and
      left out where it equals the embedding.
  """

  weights: tuple[Weight, ...]
  renames: tuple[tuple[str, str], ...] = ()
  surplus: tuple[Surplus, ...] = ()
  head: str = ""

  @property
  def embedding(self) -> str:
    """Name of the embedding of tokens."""
    return next(w.source for w in self.weights if w.path == EMBEDDING)

  def canonical(self, name: str) -> str:
    """The name of a tensor in the layout of `weights`."""
    for pattern, replacement in self.renames:
      name = re.sub(pattern, replacement, name)
    return name

  def why_left_out(self, name: str) -> str:
    """Why a tensor, by its canonical name, is not needed; "" = it is."""
    read = any(weight.source == name for weight in self.weights)
    if name == self.head and not read:
      return "the head is the embedding table"
    for surplus in self.surplus:
      if re.fullmatch(surplus.pattern, name):
        return surplus.reason
    return ""


@dataclasses.dataclass(frozen=True)
class Description:
  """What a config.json says.

  Attributes:
    family: name of the family.
    cfg: the model.
    table: its weights.
    image_token: id that stands for a picture in a prompt.
    dtype: of the stored weights, by the config.
  """

  family: str
  cfg: config_lib.VLMConfig
  table: Table
  image_token: int
  dtype: str

  def with_own_head(self) -> "Description":
    """The same model with an output head that is not the embedding."""
    decoder = dataclasses.replace(self.cfg.decoder, tied=False)
    head = linear(HEAD, self.table.head.removesuffix(".weight"))
    table = dataclasses.replace(self.table, weights=(*self.table.weights, head))
    cfg = dataclasses.replace(self.cfg, decoder=decoder)
    return dataclasses.replace(self, cfg=cfg, table=table)

  def with_head_as_embedding(self) -> "Description":
    """The same tied model, whose file holds the head and no embedding."""
    rename = (f"^{re.escape(self.table.head)}$", self.table.embedding)
    table = dataclasses.replace(
      self.table, renames=(*self.table.renames, rename)
    )
    return dataclasses.replace(self, table=table)


# A family: reads the object in a config.json, or raises ValueError.
Describe = Callable[[Mapping[str, Any]], Description]
