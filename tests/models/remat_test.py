"""What a backward pass computes again, it need not keep; loops for others."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eos_jax import models, ops
from tests.models import small

# Enough layers that what they keep is most of what a step needs, and few enough
# that a CPU unrolls them.
CFG = small.config(layers=8)
# As drawn: larger ones let rounding grow over so many layers.
PARAMS = small.init(CFG, jax.random.key(0))
SPEC = ops.presets.HYBRID


def _loss(params, gamma, remat):
  numbers = jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], SPEC.params())
  reduction = models.SoftReduction(
    params=dataclasses.replace(numbers, gamma=gamma[None]),
    temperature=jnp.float32(0.2),
    keep=jnp.array([6.0]),
    sites=("decoder.1",),
    spec=SPEC,
  )
  seen = models.see(CFG, params, small.pictures(4))
  out = models.read(CFG, params, seen, small.text(4), reduction, remat=remat)
  return jnp.mean(jnp.square(out.logits))


def _compiled(remat, platform="cpu"):
  # On several chips, which Pallas kernels cannot be spread over.
  with models.target.compiling_for(platform, 2):
    grad = jax.jit(jax.grad(lambda p, g: _loss(p, g, remat), argnums=(0, 1)))
    return grad.lower(PARAMS, jnp.float32(0.5)).compile()


def _same(one, other, share=1e-5):
  """Some gradients are 0 but for rounding: the greatest sets the scale."""
  pairs = list(zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True))
  scale = max(float(np.abs(leaf).max()) for leaf, _ in pairs)
  for a, b in pairs:
    np.testing.assert_allclose(b, a, rtol=1e-3, atol=share * scale)


@pytest.fixture(scope="module")
def plain():
  return _compiled("")


@pytest.mark.parametrize("remat", models.REMAT)
def test_gradients_are_the_same_and_less_is_kept(remat, plain):
  again = _compiled(remat)
  args = PARAMS, jnp.float32(0.5)
  _same(plain(*args), again(*args))
  kept = [c.memory_analysis().temp_size_in_bytes for c in (plain, again)]
  assert kept[1] < 0.9 * kept[0]


def test_layers_are_a_loop_for_other_platforms(plain):
  looped = _compiled("layers", "tpu")
  args = PARAMS, jnp.float32(0.5)
  # Attention there has another form, and differences grow over the layers.
  _same(plain(*args), looped(*args), share=1e-4)
  loops = [c.as_text().count(" while(") for c in (plain, looped)]
  assert loops[1] >= loops[0] + 2  # one forward, one backward
