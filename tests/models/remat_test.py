"""What a backward pass computes again, it need not keep; loops for others."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eos_jax import models, ops
from tests.models import small

# So few layers that a CPU unrolls them.
CFG = small.config(layers=8)
# As drawn: larger ones let rounding grow over so many layers.
PARAMS = small.init(CFG, jax.random.key(0))
SPEC = ops.presets.HYBRID


def _soft(gamma):
  numbers = jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], SPEC.params())
  return models.SoftReduction(
    params=dataclasses.replace(numbers, gamma=gamma[None]),
    temperature=jnp.float32(0.2),
    keep=jnp.array([6.0]),
    sites=("decoder.1",),
    spec=SPEC,
  )


def _loss(params, gamma, remat):
  reduction = None if gamma is None else _soft(gamma)
  seen = models.see(CFG, params, small.pictures(4))
  text = small.text(4, length=7 if reduction else 96)
  out = models.read(CFG, params, seen, text, reduction, remat=remat)
  return jnp.mean(jnp.square(out.logits))


def _compiled(remat, gamma, platform="cpu"):
  # On several chips, which Pallas kernels cannot be spread over.
  with models.target.compiling_for(platform, 2):
    numbers = (0,) if gamma is None else (0, 1)
    grad = jax.grad(lambda p, g: _loss(p, g, remat), argnums=numbers)
    return jax.jit(grad).lower(PARAMS, gamma).compile()


GAMMA = jnp.float32(0.5)


@pytest.fixture(scope="module")
def plain():
  return _compiled("none", GAMMA)


def _same(one, other, share=1e-5):
  """Some gradients are 0 but for rounding: the greatest sets the scale."""
  one, other = (made(PARAMS, GAMMA) for made in (one, other))
  pairs = list(zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True))
  scale = max(float(np.abs(leaf).max()) for leaf, _ in pairs)
  for a, b in pairs:
    np.testing.assert_allclose(b, a, rtol=1e-3, atol=share * scale)


@pytest.mark.slow
@pytest.mark.parametrize("remat", models.REMAT)
def test_gradients_are_the_same(remat, plain):
  _same(plain, _compiled(remat, GAMMA))


@pytest.mark.full
def test_less_is_kept():
  kept = {
    remat: _compiled(remat, None).memory_analysis().temp_size_in_bytes
    for remat in ("none", *models.REMAT)
  }
  assert kept["layers"] < kept["products"] < 0.7 * kept["none"]


@pytest.mark.full
def test_layers_are_a_loop_for_other_platforms(plain):
  looped = _compiled("none", GAMMA, "tpu")
  # Attention there has another form, and differences grow over the layers.
  _same(plain, looped, share=1e-4)
  loops = [made.as_text().count(" while(") for made in (plain, looped)]
  assert loops[1] >= loops[0] + 2  # one forward, one backward
