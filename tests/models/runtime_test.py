"""The hard runtime under caching, batching, padding and several pictures."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eos_jax import cost, models, ops
from tests.models import small

CFG = small.config()
LENGTHS = np.array([8, 5, 6, 4, 7, 8, 5, 6])  # of the eight prompts
PROMPT, NEW = 8, 4
ATOL = 1e-4  # of logits, which are of the order of 1


def everything():
  """The dense model and all plans; the first alone in the short run."""
  plans = ("two_sites", *sorted(ops.PRESETS))
  return ["dense", *(pytest.param(n, marks=pytest.mark.full) for n in plans)]


def plan(name: str) -> ops.ReductionPlan | None:
  if name == "dense":
    return None
  if name == "two_sites":
    hybrid = ops.presets.HYBRID
    sites = (("decoder.0", 9, hybrid), ("decoder.2", 4, hybrid))
    return ops.ReductionPlan(
      "two", "small", 16, 3, tuple(ops.PlannedSite(*site) for site in sites)
    )
  return cost.budget_plan(
    ops.PRESETS[name],
    limit=10,
    tokens=16,
    layers=3,
    vision_layers=3,
    model="small",
  )


@functools.cache
def params():
  tree = small.init(CFG, jax.random.key(0))
  return tree | {"selector": models.init_selector(CFG, jax.random.key(9))}


@functools.partial(jax.jit, static_argnames="plan")
def read(params, image, text, keys, plan, valid=None):
  seen = models.see(CFG, params, image, plan, key=keys, valid=valid)
  out = models.read(CFG, params, seen, text, plan)
  return out.logits, out.trace


@functools.partial(jax.jit, static_argnames="plan")
def prefill(params, image, text, keys, plan):
  seen = models.see(CFG, params, image, plan, key=keys)
  logits, cache, _ = models.prefill(CFG, params, seen, text, plan, room=NEW)
  return logits, cache


advance = jax.jit(functools.partial(models.advance, CFG))
KEYS = jax.random.split(jax.random.key(4), 8)


def padded(rows, width, *, left=False):
  """Rows of different lengths as tokens and mask; padding is no zero."""
  tokens = np.full((len(rows), width), 9)
  mask = np.zeros((len(rows), width), bool)
  for i, row in enumerate(rows):
    place = slice(width - len(row), width) if left else slice(len(row))
    tokens[i, place], mask[i, place] = row, True
  return jnp.asarray(tokens), jnp.asarray(mask)


def text(rows, prompt_length, width, **options):
  tokens, mask = padded(rows, width, **options)
  return models.Text(tokens, mask, jnp.asarray(prompt_length))


def answer(image, prompts, plan):
  """Greedy tokens `[8, NEW]` by the cache, and the logits of each."""
  given = text(prompts, [len(p) for p in prompts], PROMPT)
  logits, cache = prefill(params(), image, given, KEYS, plan)
  tokens, found = [], []
  for step in range(NEW):
    found.append(np.asarray(logits))
    tokens.append(np.argmax(logits, axis=-1))
    if step < NEW - 1:
      going = jnp.ones((len(prompts), 1), bool)
      last = jnp.asarray(tokens[-1])[:, None]
      logits, cache = advance(params(), last, going, cache)
  return np.stack(tokens, 1), np.stack(found, 1)


def close(actual, expected):
  np.testing.assert_allclose(actual, expected, atol=ATOL, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", everything())
def test_cache_batch_and_padding_change_nothing(name):
  reduction, image = plan(name), small.pictures(8)
  draws = np.random.default_rng(0)
  prompts = [draws.integers(6, 32, n) for n in LENGTHS]
  tokens, cached = answer(image, prompts, reduction)
  whole = [
    np.concatenate([prompt, new])
    for prompt, new in zip(prompts, tokens, strict=True)
  ]
  width = PROMPT + NEW
  given = text(whole, LENGTHS, width)
  logits, _ = read(params(), image, given, KEYS, reduction)
  rows = np.asarray(given.mask)
  # Cached = uncached: the tokens are the greedy ones of the whole pass too.
  places = LENGTHS[:, None] - 1 + np.arange(NEW)[None]
  uncached = np.take_along_axis(np.asarray(logits), places[..., None], 1)
  close(cached, uncached)
  np.testing.assert_array_equal(np.argmax(uncached, -1), tokens)
  # Left-padded = right-padded.
  moved = text(whole, LENGTHS, width, left=True)
  left, _ = read(params(), image, moved, KEYS, reduction)
  close(np.asarray(left)[np.asarray(moved.mask)], np.asarray(logits)[rows])
  # Eight samples = eight times one.
  for i in range(8):
    one = jax.tree.map(lambda leaf, i=i: leaf[i : i + 1], given)
    alone, _ = read(params(), image[i : i + 1], one, KEYS[i : i + 1], reduction)
    close(alone[0][rows[i]], logits[i][rows[i]])
  # Unpadded.
  bare = text(whole[1:2], LENGTHS[1:2], len(whole[1]))
  alone, _ = read(params(), image[1:2], bare, KEYS[1:2], reduction)
  close(alone[0], logits[1][rows[1]])


@pytest.mark.slow
@pytest.mark.parametrize("name", everything())
def test_a_later_picture_leaves_an_earlier_one_alone(name):
  """The second picture stands behind the prompt that operators read."""
  reduction = plan(name)
  image = jnp.stack([small.pictures(2), small.pictures(2, seed=5)], axis=1)
  rows = np.random.default_rng(1).integers(6, 32, (2, 8))
  given = dataclasses.replace(
    text(rows, [4, 4], 8), slots=jnp.array([[0, 5], [2, 6]])
  )
  logits, trace = read(params(), image, given, KEYS[:2], reduction)
  other = image.at[:, 1].set(small.pictures(2, seed=8))
  changed, moved = read(params(), other, given, KEYS[:2], reduction)
  assert np.abs(changed[:, -1] - logits[:, -1]).max() > 1e-3
  for row, seen in enumerate((5, 6)):
    close(changed[row, :seen], logits[row, :seen])
  for site in trace:
    if site.startswith("vision."):
      continue  # pictures are separate samples there
    kept = trace[site].index.shape[1] // 2
    for field in ("index", "scores"):
      before = getattr(trace[site], field)[:, :kept]
      np.testing.assert_array_equal(
        before, getattr(moved[site], field)[:, :kept]
      )
    np.testing.assert_array_equal(
      trace[site].tokens.x[:, :kept], moved[site].tokens.x[:, :kept]
    )
