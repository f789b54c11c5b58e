"""A model small enough for tests: 16 visual tokens, 3 decoder layers."""

import jax
import jax.numpy as jnp

from eos_jax import models


def config(**decoder) -> models.VLMConfig:
  numbers = {
    "vocab": 32,
    "layers": 3,
    "width": 16,
    "heads": 4,
    "kv_heads": 2,
    "head_dim": 4,
    "mlp": 24,
  }
  return models.VLMConfig(
    name="small",
    vision=models.VisionConfig(
      image_size=16, patch_size=4, layers=3, width=16, heads=2, mlp=32
    ),
    decoder=models.DecoderConfig(**numbers | decoder),
    projector=16,
    prefix=(1, 5),
  )


def params(cfg: models.VLMConfig, seed: int = 0):
  """Random weights, large enough that attention is not uniform."""
  tree = models.init(cfg, jax.random.key(seed))
  return jax.tree.map(lambda leaf: 2.0 * leaf, tree)


def pictures(batch: int, seed: int = 1):
  return jax.random.uniform(
    jax.random.key(seed), (batch, 16, 16, 3), minval=-1.0
  )


def text(batch: int, length: int = 7, prompt: int = 4, seed: int = 2):
  tokens = jax.random.randint(jax.random.key(seed), (batch, length), 6, 32)
  return models.Text(
    tokens=tokens,
    mask=jnp.ones((batch, length), bool),
    prompt_length=jnp.full((batch,), prompt),
  )
