"""Rotary positions on one axis and on three."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eos_jax import models, ops
from eos_jax.models import layers
from tests.models import small

AXES = (1, 2)  # a rotary pair for the row, one for the column
CFG = small.config(rope_axes=AXES)


def _rotate(x, positions, theta, axes=()):
  return layers.rotate(x, layers.rotary(positions, x.shape[-1], theta, axes))


def _vectors(seed, count=5):
  return jax.random.normal(jax.random.key(seed), (1, 1, count, 8))


def test_equal_places_on_all_axes_are_one_position():
  x, axes = _vectors(0), (0, 1, 2, 1)
  position = jnp.array([[3, 0, 7, 2, 5]])
  on_three = jnp.stack([position] * 3, axis=-1)
  want = _rotate(x, position, 100.0)
  np.testing.assert_allclose(_rotate(x, on_three, 100.0, axes), want)
  np.testing.assert_allclose(_rotate(x, position, 100.0, axes), want)


def test_each_pair_turns_by_its_own_axis():
  x = _vectors(0)
  places = jax.random.randint(jax.random.key(1), (1, 5, 3), 0, 9)
  got = _rotate(x, places, 100.0, (2, 0, 1, 0))
  for pair, axis in enumerate((2, 0, 1, 0)):
    alone = _rotate(x, places[..., axis], 100.0)
    for half in (pair, pair + 4):
      np.testing.assert_allclose(got[..., half], alone[..., half], rtol=1e-6)


def test_scores_depend_on_distances_along_each_axis():
  q, k = _vectors(0), _vectors(1)
  places = jax.random.randint(jax.random.key(2), (1, 5, 3), 0, 9)

  def scores(shift):
    turn = functools.partial(
      _rotate,
      positions=places + jnp.array(shift)[None, None],
      theta=100.0,
    )
    axes = (0, 1, 2, 1)
    return jnp.einsum("bhqd,bhkd->bhqk", turn(q, axes=axes), turn(k, axes=axes))

  np.testing.assert_allclose(scores([0, 0, 0]), scores([4, 1, 7]), atol=1e-5)


def test_wrong_axes_are_refused():
  with pytest.raises(ValueError, match=r"each of the 2 rotary pairs of head_"):
    small.config(rope_axes=(1, 2, 1))
  with pytest.raises(ValueError, match="must name an axis, 0, 1 or 2"):
    small.config(rope_axes=(1, 3))


@pytest.mark.slow
def test_a_picture_and_its_transpose_differ_by_the_axes_alone():
  """Rows and columns play the same part: swapping both changes nothing."""
  params, text = small.params(CFG), small.text(2)
  seen = small.see(CFG, params, small.pictures(2), None)
  turned = seen.visual.reshape(2, 4, 4, -1).swapaxes(1, 2).reshape(2, 16, -1)
  swapped = small.config(rope_axes=(2, 1))
  # Text attends to all visual tokens; among these the causal order differs,
  # so that one layer is compared.
  one = lambda cfg: dataclasses.replace(
    cfg, decoder=dataclasses.replace(cfg.decoder, layers=1)
  )
  decoder = params["decoder"]
  first = jax.tree.map(lambda leaf: leaf[:1], decoder["blocks"])
  params = {**params, "decoder": {**decoder, "blocks": first}}
  straight = small.read(one(CFG), params, seen, text, None).logits
  other = small.read(
    one(swapped),
    params,
    dataclasses.replace(seen, visual=turned),
    text,
    None,
  ).logits
  np.testing.assert_allclose(straight, other, rtol=1e-4, atol=1e-5)
  wrong = dataclasses.replace(seen, visual=turned)
  wrong = small.read(one(CFG), params, wrong, text, None).logits
  assert np.abs(straight - wrong).max() > 1e-3


@pytest.mark.full
@pytest.mark.parametrize("renumbered", [False, True])
def test_cached_decoding_equals_uncached_on_axes(renumbered):
  params, image = small.params(CFG), small.pictures(2)
  text = small.text(2, length=4)
  mask = jnp.ones((2, 4), bool)
  prompt = models.Text(text.tokens, mask, jnp.sum(mask, axis=1))
  positions = "renumbered" if renumbered else "original"
  spec = ops.PRESETS["prune"].replace(positions=positions)
  plan = ops.ReductionPlan(
    name="test",
    model=CFG.name,
    tokens=16,
    layers=3,
    sites=(
      ops.PlannedSite("decoder.0", 9, spec),
      ops.PlannedSite("decoder.2", 4, spec),
    ),
  )
  answer = small.generate(CFG, params, image, prompt, plan, steps=4, stop=())
  tokens, mask = np.zeros((2, 8), int), np.zeros((2, 8), bool)
  tokens[:, :4], mask[:, :4] = text.tokens, True
  for place in range(4):
    whole = models.Text(
      jnp.asarray(tokens), jnp.asarray(mask), prompt.prompt_length
    )
    logits = small.apply(CFG, params, image, whole, plan).logits
    token = np.argmax(logits[:, 3 + place], axis=-1)
    np.testing.assert_array_equal(token, answer[:, place])
    tokens[:, 4 + place], mask[:, 4 + place] = token, True
