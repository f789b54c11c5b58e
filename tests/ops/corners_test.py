"""The corners are limits: distances as they are approached, and the leak."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eos_jax import ops
from tests.ops import forms

# Without a second share: its least budget leaves a log-mass of -69 everywhere.
SPEC = ops.presets.HYBRID.replace(diversity="none")
V, K, D = 144, 16, 16
SEED = 0
# Corner -> its numbers, and how it is approached by s = 1, 1/2, 1/4, ..
CORNERS = {
  "prune": (dict(gamma=0.0, rho=0.0), lambda s: dict(gamma=s)),
  "reweight": (
    dict(gamma=0.0, rho=0.7, rho_attn=0.4),
    lambda s: dict(gamma=s, rho=0.7, rho_attn=0.4),
  ),
  "merge": (
    dict(gamma=1.0, tau=ops.TAU_FLOOR, rho=0.0),
    lambda s: dict(gamma=1.0, tau=s, rho=0.0),
  ),
  "pool": (
    dict(gamma=1.0, tau=1e6, rho=0.0),
    lambda s: dict(gamma=1.0, tau=1 / s, rho=0.0),
  ),
}
STEPS = (1.0, 0.3, 0.1, 0.03, 0.01, 1e-3, 1e-4)


def temperature_at(s):
  """Temperature of the soft top-k on the way to a corner.

  Faster than s: pooling is the limit of tau T -> 0 with tau -> infinity, for
  with both finite a removed token that was nearly kept still receives. (For
  the same reason the picture is one in which the choice is clear.)
  """
  return max(min(0.1, s * s), 1e-7)


def picture(seed=SEED, tokens=V):
  """A picture of smooth regions on a grid, with every signal HYBRID reads."""
  keys = jax.random.split(jax.random.key(seed), 6)
  side = int(tokens**0.5)
  coarse = jax.random.normal(keys[0], (side // 3, side // 3, D))
  x = jnp.repeat(jnp.repeat(coarse, 3, 0), 3, 1).reshape(tokens, D)
  x = x + 0.3 * jax.random.normal(keys[1], (tokens, D))
  rows = [jax.nn.softmax(jax.random.normal(k, (tokens,))) for k in keys[2:5]]
  signals = ops.Signals(
    last_row=rows[0], text_rows=rows[1], class_row=rows[2], grid=(side, side)
  )
  return ops.token_set(x), signals


def distance(corner, s):
  """Root mean square distance of soft outputs to the hard corner's rows."""
  exact, approach = CORNERS[corner]
  tokens, signals = picture()
  params = lambda numbers: SPEC.replace(**numbers).params()
  hard = forms.hard(tokens, signals, params(exact), spec=SPEC, keep=K).tokens
  soft = forms.soft(
    tokens,
    signals,
    params(approach(s)),
    spec=SPEC,
    keep=float(K),
    temperature=temperature_at(s),
  ).tokens
  rows = np.asarray(hard.position)
  scale = float(jnp.sqrt(jnp.mean(hard.x**2)))
  gap = float(jnp.sqrt(jnp.mean((soft.x[rows] - hard.x) ** 2)))
  mass = float(jnp.max(jnp.abs(jnp.exp(soft.log_mass[rows]) - 1)))
  return gap / scale, mass


def table():
  """Markdown: relative distance to each corner as its limit is approached."""
  lines = [
    "| corner | " + " | ".join(f"s = {s:.3g}" for s in STEPS) + " |",
    "|---" * (len(STEPS) + 1) + "|",
  ]
  for corner in CORNERS:
    cells = [distance(corner, s)[0] for s in STEPS]
    lines.append(
      f"| {corner} | " + " | ".join(f"{cell:.1e}" for cell in cells) + " |"
    )
  return "\n".join(lines)


@pytest.mark.slow
@pytest.mark.parametrize("corner", CORNERS)
def test_soft_operators_tend_to_the_corner(corner):
  far, _ = distance(corner, 1.0)
  middle, _ = distance(corner, 1e-2)
  near, mass = distance(corner, 1e-4)
  assert near < 1e-3
  assert near < middle / 20 < far / 20
  assert mass < 1e-3


def leak(temperature, tau, gamma):
  """Share of attention mass on rows that a hard decision removes.

  What counts is mass times size (delta = 1 adds log sizes to attention).
  """
  tokens, signals = picture()
  params = SPEC.replace(gamma=gamma, tau=tau, delta=1.0).params()
  soft = forms.soft(
    tokens,
    signals,
    params,
    spec=SPEC,
    keep=float(K),
    temperature=temperature,
  ).tokens
  hard = forms.hard(tokens, signals, params, spec=SPEC, keep=K).tokens
  stays = np.zeros(V, bool)
  stays[np.asarray(hard.position)] = True
  weight = np.asarray(jnp.exp(soft.log_mass) * soft.size)
  return float(weight[~stays].sum() / weight.sum())


@pytest.mark.parametrize("temperature", [0.5, 0.05])
def test_merging_leaks_no_more_than_pruning(temperature):
  pruned = leak(temperature, 0.01, 0.0)
  merged = leak(temperature, 0.01, 1.0)
  assert merged <= pruned + 1e-6
  if temperature == 0.05:
    assert merged < 0.05


_KEEPS = (0.5, 1.0, V - 0.5, float(V), V + 30.0)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16], ids=str)
@pytest.mark.parametrize("temperature", [1e-3, 0.5])
def test_every_count_is_met_with_finite_gradients(temperature, dtype):
  tokens, signals = picture(seed=3)
  tokens = dataclasses.replace(tokens, x=tokens.x.astype(dtype))
  absent = jnp.arange(V) >= V - 20
  tokens = dataclasses.replace(
    tokens, log_mass=jnp.where(absent, ops.LOG_ZERO, tokens.log_mass)
  )
  params = SPEC.replace(gamma=1.0, tau=ops.TAU_FLOOR).params()

  @jax.jit
  def run(x, params, keep):
    moved = dataclasses.replace(tokens, x=x)
    out = ops.reduce_soft(
      moved, signals, params, spec=SPEC, keep=keep, temperature=temperature
    ).tokens
    mass = jnp.exp(out.log_mass)
    return mass @ jnp.sum(out.x.astype(jnp.float32), 1), jnp.sum(mass)

  gradient = jax.jit(jax.grad(run, (0, 1, 2), has_aux=True))
  for keep in _KEEPS:
    grads, mass = gradient(tokens.x, params, keep)
    np.testing.assert_allclose(mass, min(keep, V - 20), rtol=1e-5)
    for leaf in jax.tree.leaves(grads):
      assert bool(jnp.all(jnp.isfinite(leaf)))
    np.testing.assert_array_equal(grads[0][V - 20 :], 0)
