"""From the encoder's patches to the decoder's visual tokens."""

import flax.linen as nn
import jax.numpy as jnp

from eos_jax.array_typing import Array, Bool, Float
from eos_jax.models import config as config_lib
from eos_jax.models import layers


class Projector(nn.Module):
  """From the encoder's patches to visual tokens of the decoder.

  A linear layer or a two-layer MLP over each patch, or over each square of
  them, whose features are put side by side.
  """

  cfg: config_lib.VLMConfig

  @nn.compact
  def __call__(self, x: Float[Array, "B N D"]) -> Float[Array, "B V F"]:
    cfg = self.cfg
    if cfg.projector_norm:
      x = layers.LayerNorm(cfg.vision.norm_eps, name="norm")(x)
    if cfg.merge > 1:
      x = squares(x, cfg)
      x = x.reshape(*x.shape[:2], -1)
    if not cfg.projector:
      return self._dense(cfg.decoder.width, "fc")(x)
    x = self._dense(cfg.projector, "fc1")(x)
    x = layers.ACTIVATIONS[cfg.projector_activation](x)
    return self._dense(cfg.decoder.width, "fc2")(x)

  def _dense(self, features, name):
    return layers.Dense(features, use_bias=self.cfg.projector_bias, name=name)


def squares(
  rows: Float[Array, "B N *D"], cfg: config_lib.VLMConfig
) -> Float[Array, "B V merge2 *D"]:
  """Rows of patches as rows of squares of `merge` by `merge` patches."""
  (height, width), side = cfg.grid, cfg.merge
  batch, _, *rest = rows.shape
  parted = rows.reshape(batch, height, side, width, side, *rest)
  return parted.swapaxes(2, 3).reshape(batch, height * width, side**2, *rest)


def spread(
  valid: Bool[Array, "B V"], cfg: config_lib.VLMConfig
) -> Bool[Array, "B N"]:
  """Which patches are real, from which tokens are."""
  valid = valid.reshape(-1, *cfg.grid)
  for axis in (1, 2):
    valid = jnp.repeat(valid, cfg.merge, axis=axis)
  return valid.reshape(len(valid), -1)
