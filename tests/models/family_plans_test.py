"""Plans in models of every family's shape: caching, padding, soft and hard."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eos_jax import models, ops
from eos_jax.evaluation import evaluator
from eos_jax.models import tiles
from tests.models import small

PROMPT, NEW = 6, 4
LENGTHS = (6, 4, 5)
ATOL = 1e-4  # of logits, which are of the order of 1

_SIGLIP = {"class_token": False, "patch_bias": True, "pre_norm": False}
_ROTARY = _SIGLIP | {"patch_bias": False, "rotary": True, "post_norm": False}


def _config(vision, decoder=None, **options):
  cfg = small.config(**(decoder or {}))
  vision = dataclasses.replace(cfg.vision, **vision)
  return dataclasses.replace(cfg, vision=vision, **options)


CONFIGS = {
  "llava_1_5": _config({"post_norm": False}, prefix=(1,)),
  "onevision": _config(
    _SIGLIP | {"image_size": 8, "post_norm": False},
    {"qkv_bias": True},
    prefix=(),
    tiles=(1, 2),
  ),
  "qwen2_vl": _config(
    _ROTARY | {"image_size": (24, 32)},
    {"qkv_bias": True, "tied": True, "rope_axes": (0, 1)},
    prefix=(),
    merge=2,
    projector_norm=True,
  ),
  "smolvlm": _config(
    _SIGLIP | {"image_size": 32},
    prefix=(),
    merge=2,
    projector=0,
    projector_bias=False,
  ),
}
PLANS = ("fastv", "visionzip", "tome", "pool", "searched")
CASES = [(family, name) for family in CONFIGS for name in PLANS]


def _plan(cfg, name):
  if name == "searched":
    hybrid = ops.presets.HYBRID
    sites = (("decoder.0", 7, hybrid), ("decoder.2", 3, hybrid))
    return ops.ReductionPlan(
      "two",
      cfg.name,
      cfg.tokens,
      cfg.decoder.layers,
      tuple(ops.PlannedSite(*site) for site in sites),
    )
  return evaluator.preset_plan(cfg, ops.PRESETS[name], cfg.tokens * 0.6)


def _layout(cfg):
  """Three pictures: 2 x 4 tokens of tiles, 2 x 3, and the whole alone."""
  parts = []
  for columns in (4, 3, 0):
    index, newline = list(range(4)), [False] * 4
    for row in range(2 if columns else 1):
      for column in range(columns):
        index.append((1 + column // 2) * 4 + row * 2 + column % 2)
        newline.append(False)
      index.append(0)
      newline.append(True)
    spare = cfg.tokens - len(index)
    valid = np.arange(cfg.tokens) < len(index)
    newline = np.array(newline + [False] * spare)
    weight = np.zeros((cfg.tokens, 4), np.float32)
    weight[:, 0] = valid & ~newline
    index = np.array(index + [0] * spare)[:, None].repeat(4, axis=1)
    parts.append((index, weight, newline, valid))
  arrays = (jnp.asarray(np.stack(field)) for field in zip(*parts, strict=True))
  return tiles.Layout(*(array[:, None] for array in arrays))


def _given(cfg):
  """Pictures of a batch of three, and what `see` wants beside them."""
  height, width = cfg.vision.size
  shape = (3, 1, height, width, 3)
  if cfg.tiles is not None:
    shape = (3, 1, cfg.crops, height, width, 3)
  image = jax.random.uniform(jax.random.key(1), shape, minval=-1.0)
  if cfg.tiles is not None:
    return image, {"layout": _layout(cfg)}
  rows, columns = cfg.grid
  valid = np.ones((3, 1, rows, columns), bool)
  if cfg.merge > 1:  # pictures smaller than their room
    valid[1, :, -1], valid[2, :, :, -1] = False, False
  return image, {"valid": jnp.asarray(valid.reshape(3, 1, -1))}


@functools.partial(jax.jit, static_argnames=("cfg", "plan"))
def _read(cfg, params, image, text, plan, given):
  key = jax.random.split(jax.random.key(4), image.shape[0])
  seen = models.see(cfg, params, image, plan, key=key, **given)
  return models.read(cfg, params, seen, text, plan).logits


@functools.partial(jax.jit, static_argnames=("cfg", "plan"))
def _prefill(cfg, params, image, text, plan, given):
  key = jax.random.split(jax.random.key(4), image.shape[0])
  seen = models.see(cfg, params, image, plan, key=key, **given)
  logits, cache, _ = models.prefill(cfg, params, seen, text, plan, room=NEW)
  return logits, cache


_advance = jax.jit(models.advance, static_argnums=0)


def _text(rows, width, *, left=False):
  tokens = np.full((len(rows), width), 9)
  mask = np.zeros((len(rows), width), bool)
  slots = []
  for i, row in enumerate(rows):
    start = width - len(row) if left else 0
    tokens[i, start : start + len(row)] = row
    mask[i, start : start + len(row)] = True
    slots.append([start + 2])
  return models.Text(
    jnp.asarray(tokens),
    jnp.asarray(mask),
    jnp.asarray(LENGTHS[: len(rows)]),
    slots=jnp.asarray(slots),
  )


@pytest.mark.full
@pytest.mark.parametrize("family, name", CASES)
def test_cache_and_padding_change_nothing(family, name):
  cfg = CONFIGS[family]
  plan, params = _plan(cfg, name), small.init(cfg, jax.random.key(0))
  image, given = _given(cfg)
  draws = np.random.default_rng(0)
  prompts = [draws.integers(6, 32, n) for n in LENGTHS]
  text = _text(prompts, PROMPT)
  logits, cache = _prefill(cfg, params, image, text, plan, given)
  tokens, cached = [], []
  for step in range(NEW):
    cached.append(np.asarray(logits))
    tokens.append(np.argmax(logits, axis=-1))
    if step < NEW - 1:
      going = jnp.ones((3, 1), bool)
      last = jnp.asarray(tokens[-1])[:, None]
      logits, cache = _advance(cfg, params, last, going, cache)
  tokens, cached = np.stack(tokens, 1), np.stack(cached, 1)
  whole = [
    np.concatenate([prompt, new])
    for prompt, new in zip(prompts, tokens, strict=True)
  ]
  text = _text(whole, PROMPT + NEW)
  logits = np.asarray(_read(cfg, params, image, text, plan, given))
  places = np.array(LENGTHS)[:, None] - 1 + np.arange(NEW)[None]
  uncached = np.take_along_axis(logits, places[..., None], 1)
  np.testing.assert_allclose(cached, uncached, atol=ATOL, rtol=1e-5)
  np.testing.assert_array_equal(np.argmax(uncached, -1), tokens)
  moved = _text(whole, PROMPT + NEW, left=True)
  left = np.asarray(_read(cfg, params, image, moved, plan, given))
  np.testing.assert_allclose(
    left[np.asarray(moved.mask)],
    logits[np.asarray(text.mask)],
    atol=ATOL,
    rtol=1e-5,
  )
  # Unpadded, and alone.
  first = lambda tree: jax.tree.map(lambda leaf: leaf[:1], tree)
  bare = _text(whole[:1], len(whole[0]))
  alone = _read(cfg, params, image[:1], bare, plan, first(given))
  np.testing.assert_allclose(
    alone[0], logits[0][: len(whole[0])], atol=ATOL, rtol=1e-5
  )


@pytest.mark.slow
@pytest.mark.parametrize(
  "family",
  [
    pytest.param(name, marks=pytest.mark.full) if name != "qwen2_vl" else name
    for name in CONFIGS
  ],
)
def test_a_soft_search_decided_hard_equals_the_plan(family):
  cfg, spec = CONFIGS[family], ops.presets.HYBRID
  params, (image, given) = small.init(cfg, jax.random.key(0)), _given(cfg)
  text = _text([np.arange(6, 6 + n) for n in LENGTHS], PROMPT)
  plan = _plan(cfg, "searched")
  hard = small.apply(cfg, params, image, text, plan, **given)
  soft = models.SoftReduction(
    params=jax.tree.map(
      lambda leaf: jnp.broadcast_to(leaf, (2, *leaf.shape)), spec.params()
    ),
    temperature=jnp.float32(1e-3),
    keep=jnp.array([7.0, 3.0]),
    sites=("decoder.0", "decoder.2"),
    spec=spec,
    hard=True,
  )
  masked = small.apply(cfg, params, image, text, soft, **given)
  mask = np.asarray(text.mask)
  np.testing.assert_allclose(
    masked.logits[mask], hard.logits[mask], rtol=1e-3, atol=1e-4
  )
