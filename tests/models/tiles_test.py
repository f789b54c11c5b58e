"""Tiles of a picture as one row of tokens."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eos_jax import models, ops
from eos_jax.models import tiles
from tests.models import small


def _config(room=(1, 2)):
  cfg = small.config()
  encoder = dataclasses.replace(
    cfg.vision, image_size=8, class_token=False, pre_norm=False
  )
  return dataclasses.replace(cfg, vision=encoder, tiles=room)


def _layout(cfg, rows, columns):
  """Of one picture whose tiles leave `rows` by `columns` tokens, in order."""
  index = [0, 1, 2, 3]
  newline = [False] * 4
  for row in range(rows):
    for column in range(columns):
      tile = 1 + row // 2 * cfg.tiles[1] + column // 2
      index.append(tile * 4 + row % 2 * 2 + column % 2)
      newline.append(False)
    index.append(0)
    newline.append(True)
  spare = cfg.tokens - len(index)
  valid = np.arange(cfg.tokens) < len(index)
  newline = np.array(newline + [False] * spare)
  index = np.array(index + [0] * spare)
  weight = np.zeros((cfg.tokens, 4), np.float32)
  weight[:, 0] = valid & ~newline
  whole = (index[:, None].repeat(4, axis=1), weight, newline, valid)
  return tiles.Layout(*(array[None, None] for array in whole))


def _image(pictures=1, crops=3):
  image = small.pictures(pictures * crops, seed=9)[:, :8, :8]
  return image.reshape(1, pictures, crops, 8, 8, 3)


def test_the_raster_has_the_whole_on_top_and_the_plane_below():
  cfg = _config()
  assert (cfg.crops, cfg.newlines, cfg.tokens) == (3, 2, 14)
  assert cfg.grid == (4, 5)
  assert cfg.sites == ("decoder.0", "decoder.1", "decoder.2")
  found = tiles.raster_positions(cfg, _layout(cfg, 2, 4))[0].tolist()
  assert found == [0, 1, 5, 6, *range(10, 15), *range(15, 20)]
  # Padding is cut off: rows are shorter, their ends nearer.
  found = tiles.raster_positions(cfg, _layout(cfg, 2, 3))[0].tolist()
  assert found[:12] == [0, 1, 5, 6, *range(10, 14), *range(15, 19)]


def test_a_picture_without_tiles_is_the_whole_and_a_newline():
  cfg = _config(room=(0, 0))
  assert (cfg.crops, cfg.newlines, cfg.tokens) == (1, 1, 5)
  assert cfg.grid == (3, 2)
  found = tiles.raster_positions(cfg, _layout(cfg, 1, 0))[0].tolist()
  assert found == [0, 1, 2, 3, 4]


def test_tokens_are_weighted_features_and_newlines():
  cfg = _config(room=(0, 0))
  features = jnp.arange(8.0).reshape(1, 4, 2)
  layout = _layout(cfg, 1, 0)
  weight = np.array(layout.weight)
  weight[0, 0, 1] = [0.25, 0.75, 0, 0]
  index = np.array(layout.index)
  index[0, 0, 1] = [1, 3, 0, 0]
  layout = dataclasses.replace(layout, index=index, weight=weight)
  found = tiles.lay_out(features, layout, jnp.array([-1.0, -2.0]))
  assert found[0].tolist() == [[0, 1], [5, 6], [4, 5], [6, 7], [-1, -2]]
  assert tiles.lay_out(features[..., 0], layout)[0].tolist() == [0, 5, 4, 6, 0]


@pytest.mark.slow
def test_the_guide_is_the_whole_picture_resized_over_the_plane():
  cfg = _config()
  thumbnail = np.random.default_rng(0).uniform(size=4).astype(np.float32)
  thumbnail = jnp.asarray(thumbnail)
  class_row = jnp.concatenate([thumbnail, jnp.full(8, 9.0)])[None]
  for columns in (3, 4):
    found = tiles.guide(cfg, _layout(cfg, 2, columns), class_row)[0]
    expected = ops.signals.crop_guide(thumbnail, side=2, shape=(2, columns))
    rows = np.pad(expected, ((0, 0), (0, 1))).reshape(-1)
    behind = cfg.tokens - 4 - rows.size
    np.testing.assert_allclose(
      found, np.concatenate([np.zeros(4), rows, np.zeros(behind)]), rtol=1e-6
    )
  alone = _config(room=(0, 0))
  found = tiles.guide(alone, _layout(alone, 1, 0), class_row[:, :4])
  assert found.tolist() == [[0] * 5]


@pytest.mark.slow
def test_order_of_the_decoder_is_that_of_the_layout():
  cfg = _config()
  params = small.params(cfg)
  seen = small.see(cfg, params, _image(), layout=_layout(cfg, 2, 3))
  assert seen.visual.shape == (1, 14, 16)
  assert seen.state.rank[0, :12].tolist() == list(range(12))
  assert seen.state.count.tolist() == [[12]]
  newline = params["newline"].astype(jnp.float32)
  np.testing.assert_allclose(seen.visual[0, 7], newline, rtol=1e-6)
  assert seen.state.signals.class_row[0, 7] == 0
  assert jnp.all(seen.state.signals.class_row[0, :7] > 0)


@pytest.mark.slow
def test_padding_behind_the_tokens_changes_nothing():
  wide, cfg = _config(room=(1, 3)), _config()
  params = small.params(cfg)
  text = small.text(1)
  exact = small.apply(cfg, params, _image(), text, layout=_layout(cfg, 2, 4))
  image = np.zeros((1, 1, 4, 8, 8, 3), np.float32)
  image[:, :, :3] = _image()
  image[:, :, 3] = 5  # a tile that is not there
  roomy = small.apply(wide, params, image, text, layout=_layout(wide, 2, 4))
  np.testing.assert_allclose(roomy.logits, exact.logits, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["prune", "merge_proportional", "pool"])
def test_soft_equals_hard(name):
  cfg, spec = _config(), ops.PRESETS[name]
  params, text = small.params(cfg), small.text(1)
  given = {"layout": _layout(cfg, 2, 4)}
  site = ops.PlannedSite("decoder.1", 6, spec)
  plan = ops.ReductionPlan("p", "small", cfg.tokens, 3, (site,))
  hard = small.apply(cfg, params, _image(), text, plan, **given)
  soft = models.SoftReduction(
    params=jax.tree.map(lambda leaf: leaf[None], spec.params()),
    temperature=jnp.float32(1e-4),
    keep=jnp.array([6.0]),
    sites=("decoder.1",),
    spec=spec,
    hard=True,
  )
  masked = small.apply(cfg, params, _image(), text, soft, **given)
  np.testing.assert_allclose(masked.logits, hard.logits, rtol=1e-4, atol=1e-4)


def test_a_layout_is_needed_with_tiles_and_refused_without():
  cfg = _config()
  with pytest.raises(ValueError, match="reads tiles, and a layout is missing"):
    small.see(cfg, small.params(cfg), _image())
  with pytest.raises(ValueError, match="has room for 14 tokens a picture, til"):
    wide = _config(room=(2, 2))
    small.see(
      wide, small.params(wide), _image(crops=5), layout=_layout(cfg, 2, 4)
    )
  plain = small.config()
  with pytest.raises(ValueError, match="does not read tiles, and a layout is"):
    small.see(
      plain,
      small.params(plain),
      small.pictures(1),
      layout=_layout(cfg, 2, 4),
    )


@pytest.mark.slow
def test_an_engine_answers_about_tiles():
  cfg, spec = _config(), ops.PRESETS["prune"]
  params, layout = small.params(cfg), _layout(cfg, 2, 4)
  site = ops.PlannedSite("decoder.1", 6, spec)
  plan = ops.ReductionPlan("p", "small", cfg.tokens, 3, (site,))
  engine = models.Engine(cfg, params, stop=(), buckets=(5,), room=1)
  talk = engine.begin(_image(), [[6, 7, 8, 9]], plan=plan, layout=layout)
  text = models.Text(
    jnp.array([[6, 7, 8, 9]]), jnp.ones((1, 4), bool), jnp.array([4])
  )
  out = small.apply(cfg, params, _image(), text, plan, layout=layout)
  np.testing.assert_allclose(
    talk.logits, out.logits[:, -1], rtol=1e-4, atol=1e-4
  )
