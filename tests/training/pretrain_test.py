"""Targets of the vision objective, and the optimiser of pretraining."""

import jax
import jax.numpy as jnp
import numpy as np

from eos_jax import models
from eos_jax.data import labels
from eos_jax.training import optimizer, pretrain

CFG = models.VisionConfig(
  image_size=96, patch_size=8, layers=1, width=8, heads=1, mlp=8
)


def _offsets(x, y):
  """Stored offsets of all patches to one instance's centre, in pixels."""
  rows, cols = np.mgrid[:12, :12]
  pixels = np.stack([x - (cols + 0.5) * 8, y - (rows + 0.5) * 8], axis=-1)
  return jnp.asarray(
    (2 * pixels + labels.OFFSET_ZERO).reshape(1, 144, 2).round()
  )


def test_all_patches_of_an_instance_name_the_same_place():
  place = pretrain.instance_place(_offsets(24.0, 72.0), CFG)
  np.testing.assert_allclose(
    place, np.broadcast_to([-0.5, 0.5], place.shape), atol=1e-6
  )


def test_one_patch_holds_the_centre_wherever_it_lies():
  for x, y, patch in [(20.0, 12.0, 14), (24.0, 16.0, 27), (95.0, 95.0, 143)]:
    centre = pretrain.holds_centre(_offsets(x, y), CFG)
    assert np.flatnonzero(centre[0]).tolist() == [patch]


def test_muon_turns_each_layers_matrix_and_leaves_the_rest_to_adam():
  params = {
    "blocks": {"q": {"kernel": jnp.ones((2, 6, 4))}},
    "heads": {"kind": {"kernel": jnp.ones((6, 4))}},
    "embed": {"position": jnp.ones((5, 6))},
  }
  keys = iter(jax.random.split(jax.random.key(0), 3))
  grads = jax.tree.map(
    lambda leaf: jax.random.normal(next(keys), leaf.shape), params
  )
  transform = optimizer.muon(
    learning_rate=0.1,
    adam_learning_rate=0.01,
    warmup=0,
    steps=10,
    weight_decay=0.0,
  )
  updates, _ = jax.jit(transform.update)(grads, transform.init(params), params)
  # Five Newton-Schulz steps bring singular values near 1, times the scale.
  scale = 0.1 * 0.2 * np.sqrt(6)
  for layer in updates["blocks"]["q"]["kernel"]:
    values = np.linalg.svd(np.asarray(layer), compute_uv=False) / scale
    assert (values > 0.6).all() and (values < 1.3).all()
  # The first step of Adam is equally large everywhere: Nesterov's look-ahead
  # makes it (1 + b1 / (1 + b1)) times the learning rate.
  size = 0.01 * (1 + 0.9 / 1.9)
  for name in ("heads", "embed"):
    for leaf in jax.tree.leaves(updates[name]):
      np.testing.assert_allclose(np.abs(leaf), size, rtol=1e-3)
