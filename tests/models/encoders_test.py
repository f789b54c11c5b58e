"""Encoders of other families: no class token, rotary, merged patches."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eos_jax import models, ops
from eos_jax.models import layers, loading, projector, vision
from tests.models import small


def _vision(**changes):
  return dataclasses.replace(small.config().vision, **changes)


def _encode(cfg, image, valid=None, reduction=None):
  params = jax.jit(vision.init, static_argnums=0)(cfg, jax.random.key(3))
  encode = jax.jit(vision.encode, static_argnums=(0, 3))
  return encode(cfg, params, image, reduction, valid=valid)


def _siglip(**changes):
  options = {"class_token": False, "patch_bias": True, "pre_norm": False}
  return _vision(**options | changes)


def test_parameters_are_those_of_the_options():
  plain = loading.flat(
    jax.eval_shape(lambda key: vision.init(_vision(), key), jax.random.key(0))
  )
  bare = loading.flat(
    jax.eval_shape(lambda key: vision.init(_siglip(), key), jax.random.key(0))
  )
  rotary = loading.flat(
    jax.eval_shape(
      lambda key: vision.init(_siglip(rotary=True), key), jax.random.key(0)
    )
  )
  assert plain["embed.position"].shape == (17, 16)
  assert bare["embed.position"].shape == (16, 16)
  assert plain.keys() - bare.keys() == {
    "embed.class_token",
    "embed.norm.bias",
    "embed.norm.scale",
  }
  assert bare.keys() - plain.keys() == {"embed.patch.bias"}
  assert bare.keys() - rotary.keys() == {"embed.position"}


@pytest.mark.slow
def test_without_a_class_token_its_row_is_what_patches_receive():
  cfg = _siglip(layers=1, post_norm=False)
  image = small.pictures(2)
  params = vision.init(cfg, jax.random.key(3))
  # One head's attention, by hand, from the embedded patches.
  x = vision.PatchEmbed(cfg).apply({"params": params["embed"]}, image)
  part = jax.tree.map(lambda leaf: leaf[0], params["blocks"])
  block = models.blocks.VisionBlock(cfg)
  q, k, _ = block.apply({"params": part}, x, method="project")
  scores = jnp.einsum("bhqd,bhkd->bhqk", q, k) * (16 / 2) ** -0.5
  expected = jnp.mean(jax.nn.softmax(scores, axis=-1), axis=(1, 2))
  out = vision.encode(cfg, params, image)
  assert out.class_token is None
  row = out.state.signals.class_row
  np.testing.assert_allclose(row, expected, rtol=1e-5)
  np.testing.assert_allclose(jnp.sum(row, axis=1), 1, rtol=1e-5)


@pytest.mark.slow
def test_padding_changes_nothing_in_patches_that_are_there():
  # A picture of 2 x 3 patches in the corner of a room of 4 x 4.
  cfg = _siglip(rotary=True)
  exact = dataclasses.replace(cfg, image_size=(8, 12))
  picture = small.pictures(1)[:, :8, :12]
  room = jnp.full((1, 16, 16, 3), 7.0).at[:, :8, :12].set(picture)
  valid = np.zeros((1, 4, 4), bool)
  valid[:, :2, :3] = True
  alone = _encode(exact, picture)
  padded = _encode(cfg, room, valid=valid.reshape(1, -1))
  there = np.flatnonzero(valid)
  for name in ("class_row", "vision_keys"):
    np.testing.assert_allclose(
      getattr(padded.state.signals, name)[:, there],
      getattr(alone.state.signals, name),
      rtol=2e-5,
      atol=1e-6,
    )
  np.testing.assert_allclose(
    padded.patches[:, there], alone.patches, rtol=2e-5, atol=1e-5
  )


def test_rotary_attention_depends_on_distances_alone():
  rng = np.random.default_rng(0)
  q, k = rng.normal(size=(2, 1, 1, 1, 8)).astype(np.float32)

  def score(query, key):
    turned = [
      layers.rotate(
        jnp.asarray(x),
        layers.rotary_2d(jnp.array([[row]]), jnp.array([[column]]), 8),
      )
      for x, (row, column) in ((q, query), (k, key))
    ]
    return float(jnp.vdot(*turned))

  near = score((0, 0), (2, 5))
  assert score((3, 4), (5, 9)) == pytest.approx(near, rel=1e-4)
  assert score((0, 0), (5, 2)) != pytest.approx(near, rel=1e-2)


def test_rotary_halves_have_one_set_of_frequencies():
  cos, sin = layers.rotary_2d(jnp.array([[3]]), jnp.array([[5]]), 8)
  angle = np.array([3.0, 3.0e-2, 5.0, 5.0e-2])
  np.testing.assert_allclose(cos[0, 0, 0], np.cos(angle), rtol=1e-5)
  np.testing.assert_allclose(sin[0, 0, 0], np.sin(angle), rtol=1e-5)


@pytest.mark.slow
def test_a_site_in_an_encoder_without_a_class_token_protects_nothing():
  site = ops.PlannedSite("vision.1", 6, ops.PRESETS["prune"])
  plan = ops.ReductionPlan("p", "small", 16, 3, (site,))
  out = _encode(_siglip(), small.pictures(2), reduction=plan)
  assert out.patches.shape == (2, 6, 16)
  assert np.all(np.diff(out.state.tokens.position) > 0)


def _merging(**changes):
  cfg = small.config()
  encoder = dataclasses.replace(
    cfg.vision, class_token=False, rotary=True, pre_norm=False, post_norm=False
  )
  options = {"vision": encoder, "merge": 2, "projector_norm": True}
  return dataclasses.replace(cfg, **options | changes)


def test_squares_are_row_by_row_outside_and_inside():
  cfg = _merging()
  rows = projector.squares(jnp.arange(16)[None], cfg)
  assert rows.tolist() == [
    [[0, 1, 4, 5], [2, 3, 6, 7], [8, 9, 12, 13], [10, 11, 14, 15]]
  ]
  spread = projector.spread(jnp.array([[True, False, False, True]]), cfg)
  assert np.flatnonzero(spread).tolist() == [0, 1, 4, 5, 10, 11, 14, 15]


@pytest.mark.slow
def test_merged_patches_are_tokens_on_a_coarser_raster():
  cfg = _merging()
  assert (cfg.tokens, cfg.grid) == (4, (2, 2))
  assert cfg.sites == ("decoder.0", "decoder.1", "decoder.2")
  params = small.params(cfg)
  seen = small.see(cfg, params, small.pictures(2))
  out = vision.encode(cfg.vision, params["vision"], small.pictures(2))
  assert seen.visual.shape == (2, 4, 16)
  np.testing.assert_allclose(
    seen.state.signals.class_row,
    np.mean(projector.squares(out.state.signals.class_row, cfg), axis=-1),
    rtol=1e-5,
  )
  assert seen.state.signals.vision_keys.shape == (2, 4, 8)
  assert seen.state.tokens.position.tolist() == [[0, 1, 2, 3]] * 2


@pytest.mark.slow
def test_a_projector_of_one_matrix():
  cfg = _merging(projector=0, projector_bias=False, projector_norm=False)
  params = small.params(cfg)
  assert list(loading.flat(params["projector"])) == ["fc.kernel"]
  seen = small.see(cfg, params, small.pictures(1))
  # Compiled as what it is compared with: values are as large as 90.
  encode = jax.jit(functools.partial(vision.encode, cfg.vision))
  out = encode(params["vision"], small.pictures(1))
  rows = projector.squares(out.patches, cfg).reshape(1, 4, -1)
  expected = rows @ params["projector"]["fc"]["kernel"]
  np.testing.assert_allclose(seen.visual, expected, rtol=1e-4, atol=1e-5)


def test_a_plan_with_a_site_in_a_merging_encoder_is_refused():
  site = ops.PlannedSite("vision.1", 2, ops.PRESETS["prune"])
  plan = ops.ReductionPlan("p", "small", 4, 3, (site,))
  cfg = _merging()
  with pytest.raises(ValueError, match=r"unknown sites \['vision.1'\]"):
    small.see(cfg, small.params(cfg), small.pictures(1), plan)


@pytest.mark.parametrize(
  "changes, message",
  [
    ({"image_size": (16, 3)}, "has no whole patch of patch_size=4"),
    ({"rotary": True}, "needs class_token=False"),
    ({"width": 12, "rotary": True, "class_token": False}, "a multiple of 4"),
  ],
)
def test_impossible_encoders_are_refused(changes, message):
  with pytest.raises(ValueError, match=message):
    _vision(**changes)


@pytest.mark.parametrize(
  "changes, message",
  [
    ({"merge": 3}, "no whole squares of side merge=3"),
    ({"tiles": (1, 1)}, "with merge=1"),
    ({"merge": 1, "tiles": (0, 2)}, "both positive or both 0"),
  ],
)
def test_impossible_models_are_refused(changes, message):
  with pytest.raises(ValueError, match=message):
    _merging(**changes)


def test_activations_are_those_of_the_config():
  assert tuple(layers.ACTIVATIONS) == models.config.ACTIVATIONS
