"""Heads that pretrain the vision encoder; they are not part of the VLM.

Patch heads name what a patch shows and keep low-level detail alive, so that
background patches stay different from one another; the scene head makes the
class token gather what the whole picture shows, as CLIP's caption loss does.
"""

import dataclasses
from typing import Any

import flax.linen as nn
import jax

from eos_jax.array_typing import Array, Float
from eos_jax.models import layers


@dataclasses.dataclass(frozen=True)
class HeadSizes:
  """Number of classes of each head.

  Attributes:
    kinds: what a patch shows (background, shapes, letters, bars, ...).
    colors: its colour.
    sizes: size class or bar height.
    scene: entries of the multi-label description of a picture.
    detail: values of the low-level description of a patch.
  """

  kinds: int
  colors: int
  sizes: int
  scene: int
  detail: int = 12


class _Heads(nn.Module):
  sizes: HeadSizes

  @nn.compact
  def __call__(self, patches, class_token):
    sizes = self.sizes
    dense = layers.Dense
    return {
      "kind": dense(sizes.kinds, name="kind")(patches),
      "color": dense(sizes.colors, name="color")(patches),
      "size": dense(sizes.sizes, name="size")(patches),
      "place": dense(2, name="place")(patches),
      "centre": dense(1, name="centre")(patches)[..., 0],
      "detail": dense(sizes.detail, name="detail")(patches),
      "scene": dense(sizes.scene, name="scene")(class_token),
    }


def init(sizes: HeadSizes, width: int, key: Array) -> Any:
  """Random parameters of all heads."""
  patches = jax.numpy.zeros((1, 1, width))
  return _Heads(sizes).init(key, patches, patches[:, 0])["params"]


def apply(
  sizes: HeadSizes,
  params: Any,
  patches: Float[Array, "B V D"],
  class_token: Float[Array, "B D"],
) -> dict[str, Array]:
  """Predictions by head: `[B, V, classes]`, and `[B, scene]` for "scene"."""
  return _Heads(sizes).apply({"params": params}, patches, class_token)
