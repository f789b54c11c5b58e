"""Sequences of every kind: where pictures stand, and what is missing."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eos_jax import models, ops
from eos_jax.models import sequence
from tests.models import small

CFG = small.config()
AXES = small.config(rope_axes=(1, 2))


def _params(cfg=CFG):
  return small.init(cfg, jax.random.key(0))


def _plan(*keeps, spec=ops.presets.PRUNE, sites=("decoder.0", "decoder.2")):
  planned = zip(sites, keeps, strict=False)
  return ops.ReductionPlan(
    "test",
    "small",
    16,
    3,
    tuple(ops.PlannedSite(site, keep, spec) for site, keep in planned),
  )


def _text(length, *, prompt=None, slots=None, seed=2):
  text = small.text(1, length=length, prompt=prompt or length, seed=seed)
  slots = None if slots is None else jnp.array([slots])
  return dataclasses.replace(text, slots=slots)


def _assert_close(actual, expected):
  np.testing.assert_allclose(actual, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
  "cfg, plan",
  [
    pytest.param(CFG, None, marks=pytest.mark.full),
    pytest.param(CFG, _plan(6, 3), marks=pytest.mark.full),
    pytest.param(AXES, None, marks=pytest.mark.full),
    (AXES, _plan(6, 3)),
  ],
  ids=["dense", "plan", "three axes, dense", "three axes, plan"],
)
def test_text_in_front_of_the_picture_is_a_longer_prefix(cfg, plan):
  params, image = _params(cfg), small.pictures(1)
  text = _text(7)
  ids = tuple(int(i) for i in text.tokens[0, :3])
  longer = dataclasses.replace(cfg, prefix=(*cfg.prefix, *ids))
  behind = jax.tree.map(lambda leaf: leaf[:, 3:], (text.tokens, text.mask))
  want = small.apply(
    longer, params, image, models.Text(*behind, jnp.array([4])), plan
  )
  got = small.apply(
    cfg, params, image, dataclasses.replace(text, slots=jnp.array([[3]])), plan
  )
  _assert_close(got.logits[:, 3:], want.logits)


@pytest.mark.slow
@pytest.mark.parametrize(
  "cfg",
  [CFG, pytest.param(AXES, marks=pytest.mark.full)],
  ids=["one axis", "three axes"],
)
def test_a_sample_without_a_picture_is_text_alone(cfg):
  params, image = _params(cfg), small.pictures(2)
  text = small.text(2)
  valid = jnp.array([[False], [True]])[..., None] & jnp.ones((2, 1, 16), bool)
  plan = _plan(6, 3)
  both = small.apply(cfg, params, image, text, plan, valid=valid)
  with_picture = small.apply(cfg, params, image, text, plan)
  _assert_close(both.logits[1], with_picture.logits[1])
  # Another picture, or more rows of none, change nothing.
  other = image.at[0].set(-image[0])
  _assert_close(
    small.apply(cfg, params, other, text, plan, valid=valid).logits[0],
    both.logits[0],
  )
  _assert_close(
    small.apply(cfg, params, image, text, valid=valid).logits[0], both.logits[0]
  )
  # Its positions are those of a text right behind the prefix.
  seen = small.see(cfg, params, image, None, valid=valid)
  places = sequence.positions(
    cfg.decoder,
    sequence.begin(
      params["decoder"], cfg.prefix, seen.visual, seen.state, text
    ),
  )
  assert np.ravel(places[0, 18:25].T)[:7].tolist() == list(range(2, 9))


@pytest.mark.slow
def test_absent_second_pictures_change_nothing():
  params = _params()
  image = small.pictures(2).reshape(1, 2, 16, 16, 3)
  text = _text(7, slots=(1, 4))
  valid = jnp.array([True, False])[None, :, None] & jnp.ones((1, 2, 16), bool)
  plan = _plan(6, 3)
  two = small.apply(CFG, params, image, text, plan, valid=valid)
  one = small.apply(
    CFG,
    params,
    image[:, 0],
    dataclasses.replace(text, slots=text.slots[:, :1]),
    plan,
  )
  _assert_close(two.logits, one.logits)


@pytest.mark.slow
def test_each_picture_has_the_budget_of_the_plan():
  params = _params()
  image = small.pictures(6).reshape(2, 3, 16, 16, 3)
  text = dataclasses.replace(small.text(2), slots=jnp.array([[0, 0, 2]] * 2))
  out = small.apply(CFG, params, image, text, _plan(5, 2))
  assert out.trace["decoder.0"].index.shape == (2, 15)
  assert out.trace["decoder.2"].index.shape == (2, 6)
  image_of = np.asarray(out.trace["decoder.0"].tokens.image)
  assert image_of.tolist() == [[0] * 5 + [1] * 5 + [2] * 5] * 2
  pointed = np.asarray(out.trace["decoder.0"].index) // 16
  np.testing.assert_array_equal(pointed, image_of)


@pytest.mark.slow
@pytest.mark.parametrize(
  "name", ["prune", "tome", "fastv", "pool", "visionzip"]
)
def test_a_picture_with_fewer_tokens_than_the_count(name):
  """Of 16 rows 3 are real and 6 may stay: the others are never heard."""
  params, image, text = _params(), small.pictures(2), small.text(2)
  spec = ops.PRESETS[name]
  site = {"tome": "vision.1", "fastv": "decoder.1"}.get(name, "decoder.0")
  keep = 8 if name == "tome" else 6
  plan = _plan(keep, spec=spec, sites=(site,))
  valid = jnp.zeros((2, 1, 16), bool).at[0, 0, jnp.array([0, 1, 4])].set(True)
  valid = valid.at[1].set(True)
  few = small.apply(CFG, params, image, text, plan, valid=valid)
  assert np.isfinite(few.logits).all()
  patches = image.reshape(2, 4, 4, 4, 4, 3)  # rows, side, columns, side
  patches = patches.at[0, 2:].add(0.5).at[0, :, :, 2:].add(0.5)
  other = patches.reshape(image.shape)
  moved = small.apply(CFG, params, other, text, plan, valid=valid)
  _assert_close(moved.logits[0], few.logits[0])
  present = np.asarray(few.state.tokens.log_mass[0]) > -1
  assert 1 <= present.sum() <= 3


@pytest.mark.slow
@pytest.mark.parametrize(
  "plan",
  [
    pytest.param(None, marks=pytest.mark.full),
    _plan(6, 3),
    pytest.param(
      _plan(4, spec=ops.PRESETS["fastv"], sites=("decoder.1",)),
      marks=pytest.mark.full,
    ),
  ],
  ids=["dense", "prune", "fastv"],
)
def test_no_text_behind_the_picture(plan):
  """The last row of the prompt is then the last visual token."""
  params, image = _params(), small.pictures(1)
  text = _text(4, slots=(4,))
  logits, cache, _ = _prefill(CFG, params, image, text, plan)
  token = jnp.argmax(logits, -1)[:, None]
  more = dataclasses.replace(
    text,
    tokens=jnp.concatenate([text.tokens, token], axis=1),
    mask=jnp.ones((1, 5), bool),
  )
  second, _ = _advance(CFG, params, token, jnp.ones((1, 1), bool), cache)
  want = small.apply(CFG, params, image, more, plan).logits[:, -1]
  _assert_close(second, want)


@pytest.mark.slow
def test_no_text_at_all():
  params, image = _params(), small.pictures(1)
  text = models.Text(
    jnp.zeros((1, 0), jnp.int32), jnp.zeros((1, 0), bool), jnp.zeros(1, int)
  )
  plan = _plan(4, spec=ops.PRESETS["fastv"], sites=("decoder.1",))
  logits, _, trace = _prefill(CFG, params, image, text, plan)
  assert np.isfinite(logits).all()
  assert trace["decoder.1"].index.shape == (1, 4)


@pytest.mark.slow
def test_keeping_everything_equals_dense_to_the_last_bit():
  params, image, text = small.params(CFG), small.pictures(2), small.text(2)
  dense = small.apply(CFG, params, image, text).logits
  for name in ("prune", "merge", "random"):
    plan = _plan(16, 16, spec=ops.PRESETS[name])
    seen = small.see(CFG, params, image, plan, key=jax.random.key(0))
    kept = small.read(CFG, params, seen, text, plan)
    assert set(kept.trace) == {"decoder.0", "decoder.2"}
    np.testing.assert_array_equal(kept.logits, dense, err_msg=name)


def test_pictures_and_their_columns_have_to_agree():
  text = _text(5, slots=(1, 2))
  with pytest.raises(ValueError, match="2 columns for 1 pictures"):
    small.apply(CFG, _params(), small.pictures(1), text)
  with pytest.raises(ValueError, match="slots and segments"):
    dataclasses.replace(text, segments=jnp.ones((1, 5), int))


_prefill = jax.jit(
  lambda cfg, params, image, text, plan: models.prefill(
    cfg, params, models.see(cfg, params, image, plan), text, plan, room=3
  ),
  static_argnums=(0, 4),
)
_advance = jax.jit(models.advance, static_argnums=0)
