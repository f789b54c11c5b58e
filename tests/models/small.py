"""A model small enough for tests: 16 visual tokens, 3 decoder layers."""

import functools

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


init = jax.jit(models.init, static_argnums=0)


def params(cfg: models.VLMConfig, seed: int = 0):
  """Random weights, large enough that attention is not uniform."""
  tree = init(cfg, jax.random.key(seed))
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


@functools.partial(jax.jit, static_argnums=(0, 4))
def _apply_static(cfg, params, image, text, reduction, **options):
  return models.apply(cfg, params, image, text, reduction, **options)


@functools.partial(jax.jit, static_argnums=0)
def _apply_traced(cfg, params, image, text, reduction, **options):
  return models.apply(cfg, params, image, text, reduction, **options)


def apply(cfg, params, image, text, reduction=None, **options) -> models.Output:
  """`models.apply`, jitted: op by op it would compile every primitive."""
  traced = isinstance(reduction, models.SoftReduction)
  run = _apply_traced if traced else _apply_static
  return run(cfg, params, image, text, reduction, **options)


generate = jax.jit(
  models.generate, static_argnums=(0, 4), static_argnames=("steps", "stop")
)
see = jax.jit(models.see, static_argnums=(0, 3))
read = jax.jit(models.read, static_argnums=(0, 4))
reduce_input = jax.jit(models.reduce_input, static_argnums=(0, 4))
