"""The static shape that an image is padded to changes no result."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eos_jax import models, ops
from eos_jax.ops import cells, spread
from tests.models import small

IMAGE, KEEP, LAYER = (4, 4), 9, 1
ROOMS = ((4, 4), (8, 8), (6, 5))
# Counts that the kernels fix: blocks of 2 x 2, and every third token.
FIXED = {"matryoshka": 4, "tome_kth": 5}
# One step of these merges at most half of the static rows, so that a plan with
# a fixed count exists in the smallest static shape only.
HALVES = ("tome", "tome_kth", "tome_port", "matryoshka")
QUICK = ("pool",)


def _config(room):
  cfg = small.config(layers=2, rope_axes=(0, 1), qkv_bias=True)
  vision = dataclasses.replace(
    cfg.vision,
    image_size=tuple(8 * side for side in room),
    layers=1,
    class_token=False,
    rotary=True,
    pre_norm=False,
    post_norm=False,
  )
  return dataclasses.replace(
    cfg, vision=vision, prefix=(), merge=2, projector_norm=True
  )


@functools.cache
def _seen(room):
  """Two images of the same sizes in a room: 4 x 4 tokens and 3 x 4."""
  cfg = _config(room)
  params = small.params(cfg)
  params["selector"] = models.init_selector(cfg, jax.random.key(3))
  pixels = jax.random.uniform(jax.random.key(1), (2, 32, 32, 3), minval=-1.0)
  height, width = cfg.vision.size
  image = jnp.zeros((2, height, width, 3)).at[:, :32, :32].set(pixels)
  valid = np.zeros((2, *room), bool)
  valid[0, :4, :4], valid[1, :3, :4] = True, True
  image = jnp.where(
    np.repeat(np.repeat(valid, 8, 1), 8, 2)[..., None], image, 0.5
  )
  key = jax.random.split(jax.random.key(4), 2)
  seen = small.see(
    cfg, params, image, None, valid=valid.reshape(2, 1, -1), key=key
  )
  return cfg, params, seen


def _kept(out, state, room):
  """Places of the rows that stay, and what is left of each."""
  found = []
  mass = np.exp(np.asarray(out.state.tokens.log_mass, np.float64))
  place = np.asarray(out.state.tokens.position)
  for row in range(2):
    there = mass[row] > 0.5
    places = zip(*np.divmod(place[row][there], room[1]), strict=True)
    found.append(sorted((int(r), int(c)) for r, c in places))
  return found


def _read(room, reduction):
  cfg, params, seen = _seen(room)
  run = small.read
  if isinstance(reduction, models.SoftReduction):
    run = jax.jit(models.read, static_argnums=0)
  out = run(cfg, params, seen, small.text(2), reduction)
  return np.asarray(out.logits), _kept(out, out.state, room)


def _masked(spec, keep, temperature=None):
  return models.SoftReduction(
    params=jax.tree.map(lambda leaf: leaf[None], spec.params()),
    temperature=jnp.float32(temperature or 1.0),
    keep=jnp.array([float(keep)]),
    sites=(f"decoder.{LAYER}",),
    spec=spec,
    hard=temperature is None,
  )


def _plan(spec, keep, room):
  site = ops.PlannedSite(f"decoder.{LAYER}", keep, spec)
  return ops.ReductionPlan("one", "small", room[0] * room[1], 2, (site,))


def _near_the_image(spec):
  """The same with a share of proximity, where it assigns by affinity."""
  return spec.replace(protect=0, omega=(0.5, 0.5))


@pytest.mark.slow
@pytest.mark.parametrize(
  "name",
  [
    name if name in QUICK else pytest.param(name, marks=pytest.mark.full)
    for name in sorted(ops.PRESETS)
  ],
)
def test_every_preset_is_the_same_in_any_static_shape(name):
  spec = _near_the_image(ops.PRESETS[name])
  keep = FIXED.get(name, KEEP)
  want, kept = _read(ROOMS[0], _masked(spec, keep))
  assert max(map(len, kept)) < 16
  for room in ROOMS[1:2] if name in QUICK else ROOMS[1:]:
    got, there = _read(room, _masked(spec, keep))
    assert there == kept
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)
  if name in HALVES or name in QUICK:
    return
  want, kept = _read(ROOMS[0], _plan(spec, keep, ROOMS[0]))
  got, there = _read(ROOMS[1], _plan(spec, keep, ROOMS[1]))
  assert there == kept
  np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)


@pytest.mark.full
@pytest.mark.parametrize("name", ["grid", "hybrid", "prune", "merge"])
def test_soft_forms_are_the_same_in_any_static_shape(name):
  spec = _near_the_image(ops.PRESETS[name])
  want, _ = _read(ROOMS[0], _masked(spec, KEEP, temperature=0.1))
  for room in ROOMS[1:]:
    got, _ = _read(room, _masked(spec, KEEP, temperature=0.1))
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_pooled_tokens_are_as_many_as_asked_for():
  """In a wider static shape 4 x 4 tokens became 6, 4 or 1 in place of 9."""
  spec = ops.presets.POOL.replace(protect=0)
  cfg, params, seen = _seen((8, 8))
  out = small.read(cfg, params, seen, small.text(2), _plan(spec, 9, (8, 8)))
  kept = np.asarray(out.state.tokens.log_mass) > -1
  assert kept.sum(axis=1).tolist() == [9, 9]


# Against the functions of static grids.


def test_the_order_within_a_raster_is_that_of_the_image_alone():
  room = (12, 13)
  run = jax.jit(spread.rank_within, static_argnums=1)
  sides = [
    (h, w) for h in (1, 2, 3, 5, 8, 11, 12) for w in (1, 2, 4, 7, 12, 13)
  ]
  for extent in sides:
    got = np.asarray(run(jnp.array(extent), room)).reshape(room)
    want = spread.rank(*extent).reshape(extent)
    np.testing.assert_array_equal(got[: extent[0], : extent[1]], want)


@pytest.mark.slow
def test_cells_within_a_raster_are_those_of_the_image_alone():
  room = (6, 7)
  run = jax.jit(cells.members, static_argnames=("grid", "slots"))
  for extent in [(6, 7), (4, 4), (3, 5), (1, 7)]:
    rows, columns = np.indices(extent)
    tokens = rows.size
    position = np.full(42, 41, np.int32)
    position[:tokens] = (rows * room[1] + columns).ravel()
    valid = np.arange(42) < tokens
    for count in range(1, tokens + 1):
      share, index = run(
        position,
        valid,
        count,
        grid=room,
        extent=jnp.array(extent),
        slots=42,
      )
      alone, first = run(
        np.arange(tokens),
        np.ones(tokens, bool),
        count,
        grid=extent,
        slots=tokens,
      )
      np.testing.assert_array_equal(share[:tokens, :tokens], alone)
      assert not share[tokens:].any() and not share[:, tokens:].any()
      np.testing.assert_array_equal(index[:count], first[:count])
