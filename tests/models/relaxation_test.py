"""Relaxations of the operators inside the model."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eos_jax import models, ops
from tests.models import small

CFG = small.config()
SPEC = ops.presets.PRUNE


@functools.cache
def _inputs():
  return small.params(CFG), small.pictures(2), small.text(2)


def _reduction(relaxation, *, key=0, retention=0.4, hard=False):
  numbers = jax.tree.map(lambda leaf: leaf[None], SPEC.params())
  numbers = dataclasses.replace(
    numbers, retention=jnp.reshape(jnp.float32(retention), (1,))
  )
  return models.SoftReduction(
    params=numbers,
    temperature=jnp.float32(0.3),
    keep=jnp.array([6.0]) if hard else None,
    sites=("decoder.1",),
    spec=SPEC,
    hard=hard,
    relaxation=relaxation,
    key=None if key is None else jax.random.key(key),
  )


@jax.jit
def _traced(inputs, reduction):
  out = models.apply(CFG, *inputs, reduction)
  return out.logits, out.trace["decoder.1"].tokens


def _run(reduction):
  return _traced(_inputs(), reduction)


def _slope(like):
  """Derivative of a loss by the retention."""
  inputs = _inputs()

  def loss(retention):
    numbers = dataclasses.replace(like.params, retention=retention)
    changed = dataclasses.replace(like, params=numbers)
    return jnp.sum(_traced(inputs, changed)[0] ** 2)

  return jax.jit(jax.grad(loss))(like.params.retention)


@pytest.mark.slow
def test_straight_through_runs_the_hard_decision():
  reduction = _reduction("straight_through")  # 0.4 x 16 = 6.4, rounded to 6
  logits, tokens = _run(reduction)
  hard, exact = _run(_reduction("annealed", hard=True))
  np.testing.assert_array_equal(tokens.log_mass, exact.log_mass)
  np.testing.assert_allclose(logits, hard, rtol=1e-5, atol=1e-5)
  slope = _slope(reduction)
  assert np.isfinite(slope).all() and np.abs(slope).max() > 0


@pytest.mark.slow
def test_noise_is_drawn_by_the_key_and_keeps_the_budget():
  plain, _ = _run(_reduction("annealed"))
  seen = []
  for key in (0, 1, 0):
    logits, tokens = _run(_reduction("concrete", key=key))
    np.testing.assert_allclose(jnp.exp(tokens.log_mass).sum(1), 6.4, rtol=1e-4)
    seen.append(np.asarray(logits))
  np.testing.assert_array_equal(seen[0], seen[2])
  for other in (seen[1], plain):
    assert np.abs(seen[0] - other).max() > 1e-3


@pytest.mark.slow
def test_a_noise_gate_leaves_removed_tokens_visible_as_noise():
  _, whole = _run(_reduction("noise_gate", retention=1.0))
  _, soft = _run(_reduction("annealed"))
  logits, gated = _run(_reduction("noise_gate"))
  np.testing.assert_array_equal(gated.log_mass, soft.log_mass)
  mass = np.exp(np.asarray(gated.log_mass))
  gone, kept = mass < 0.3, mass > 0.7
  assert gone.any() and kept.any()
  moved = np.abs(np.asarray(gated.x) - np.asarray(whole.x)).mean(-1)
  assert moved[gone].mean() > 1.5 * moved[kept].mean()
  other, _ = _run(_reduction("noise_gate", key=1))
  assert np.abs(logits - other).max() > 1e-3
  reduction = _reduction("noise_gate")
  assert np.isfinite(_slope(reduction)).all()


def test_a_relaxation_is_known_and_has_its_key():
  with pytest.raises(ValueError, match="give it a key"):
    _run(_reduction("concrete", key=None))
  with pytest.raises(ValueError, match="relaxation is 'sharp'"):
    _run(_reduction("sharp"))
