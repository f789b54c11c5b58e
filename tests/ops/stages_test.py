"""Cells, assignment, combination and propagation on hand-made cases."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eos_jax import ops
from eos_jax.ops import assign, cells, combine, propagate
from eos_jax.ops import site as site_lib
from tests.ops import forms

SPEC = ops.OperatorSpec(name="by_hand", assign="softmax", gamma=1.0, tau=0.5)


def _site(x, spec=SPEC, **fields):
  tokens = dataclasses.replace(ops.token_set(x), **fields)
  return site_lib.Site(
    tokens=tokens,
    signals=ops.Signals(),
    params=spec.params(),
    spec=spec,
    scores=jnp.zeros(x.shape[0]),
    cosine=ops.cosine_matrix(x),
  )


def _kept(count, rows):
  """A hard selection of some rows, output at all of them."""
  stays = jnp.array([i in rows for i in range(count)])
  kept = jnp.where(stays, 0.0, ops.LOG_ZERO)
  rest = jnp.where(stays, ops.LOG_ZERO, 0.0)
  index = jnp.array(rows, jnp.int32)
  return site_lib.Selection(kept, rest, index, kept[index])


X = jnp.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [2.0, 0.0]])


@pytest.mark.slow
def test_softmax_shares_by_hand():
  site = _site(X)
  shares = assign.softmax(site, _kept(4, [0, 1]), None)
  # Token 3 has cosines 1 and 0, token 2 is half way.
  warm = np.exp(2) / (np.exp(2) + 1)
  np.testing.assert_allclose(shares[3], [warm, 1 - warm], rtol=1e-4)
  np.testing.assert_allclose(shares[2], [0.5, 0.5], rtol=1e-4)
  # A receiver sends to the other one only, never to itself.
  np.testing.assert_allclose(shares[:2], [[0, 1], [1, 0]], atol=1e-6)


@pytest.mark.slow
def test_no_receiver_no_share():
  site = _site(X)
  only = _kept(4, [0])
  shares = assign.softmax(site, only, None)
  assert float(shares[0, 0]) == 0
  alone = dataclasses.replace(
    site, tokens=dataclasses.replace(site.tokens, image=jnp.arange(4))
  )
  np.testing.assert_array_equal(assign.softmax(alone, only, None), 0)


def test_threshold_hard_and_soft():
  site = _site(X, SPEC.replace(theta=0.9))
  hard = assign.softmax(site, _kept(4, [0, 1]), None)
  np.testing.assert_allclose(hard.sum(1), [0, 0, 0, 1], atol=1e-6)
  soft = assign.softmax(site, _kept(4, [0, 1]), jnp.float32(0.1))
  best = np.array([0.0, 0.0, np.sqrt(0.5), 1.0])
  np.testing.assert_allclose(
    soft.sum(1), 1 / (1 + np.exp(-(best - 0.9) / 0.1)), rtol=1e-3
  )


def test_proximity():
  near = assign.proximity(jnp.arange(12), jnp.array([0, 11]), grid=(3, 4))
  np.testing.assert_allclose(near[0], [1, 0], atol=1e-6)
  np.testing.assert_allclose(near[3, 0], 1 - 3 / np.sqrt(13), rtol=1e-5)


def test_assignment_without_shares_of_the_selection_is_refused():
  with pytest.raises(ValueError, match="'selected'.*'top_k'"):
    assign.selected(_site(X), _kept(4, [0]), None)


def _combined(spec, size=None, scores=None):
  site = _site(X, spec)
  if size is not None:
    tokens = dataclasses.replace(site.tokens, size=jnp.array(size))
    site = dataclasses.replace(site, tokens=tokens)
  if scores is not None:
    site = dataclasses.replace(site, scores=jnp.array(scores))
  shares = jnp.array([[0.0], [0.0], [1.0], [1.0]])
  return combine.combine(site, _kept(4, [0]), shares)


def test_size_weighted_mean():
  y, size = _combined(SPEC, size=[2.0, 1.0, 3.0, 1.0])
  np.testing.assert_allclose(y[0], (2 * X[0] + 3 * X[2] + X[3]) / 6, rtol=1e-5)
  np.testing.assert_allclose(size, [6])


def test_plain_mean_and_sum():
  one = SPEC.replace(alpha="one", beta="one")
  y, _ = _combined(one, size=[2.0, 1.0, 3.0, 1.0])
  np.testing.assert_allclose(y[0], (X[0] + X[2] + X[3]) / 3, rtol=1e-5)
  y, _ = _combined(one.replace(eta=0.0))
  np.testing.assert_allclose(y[0], X[0] + X[2] + X[3], rtol=1e-5)


def test_token_plus_mean_of_its_sources():
  spec = SPEC.replace(alpha="one", beta="one", eta=0.0, zeta=1)
  y, _ = _combined(spec)
  np.testing.assert_allclose(y[0], X[0] + (X[2] + X[3]) / 2, rtol=1e-5)


def test_token_plus_score_weighted_sum():
  spec = SPEC.replace(alpha="score", beta="one", eta=0.0)
  scores = [0.0, 0.0, 1.0, -2.0]
  y, _ = _combined(spec, scores=scores)
  w = 1 / (1 + np.exp(-np.array(scores)))
  np.testing.assert_allclose(y[0], X[0] + w[2] * X[2] + w[3] * X[3], rtol=1e-5)


def test_sum_without_a_centre_and_reweighting():
  spec = SPEC.replace(alpha="one", beta="one", eta=0.0, chi=0)
  y, _ = _combined(spec)
  np.testing.assert_allclose(y[0], X[2] + X[3], rtol=1e-5)
  y, _ = _combined(spec.replace(chi=1, gamma=0.0, rho=0.5))
  np.testing.assert_allclose(y[0], 1.25 * X[0], rtol=1e-5)


def test_transfer_scales_features_and_sizes():
  y, size = _combined(SPEC.replace(gamma=0.5))
  np.testing.assert_allclose(y[0], (X[0] + 0.5 * (X[2] + X[3])) / 2, rtol=1e-5)
  np.testing.assert_allclose(size, [2])


def test_bias_adds_the_growth_of_log_size_and_the_score_weight():
  spec = SPEC.replace(delta=0.5, rho_attn=2.0)
  site = _site(X, spec, bias=jnp.full(4, 0.25), size=jnp.full(4, 2.0))
  out = propagate.propagate(
    site, _kept(4, [0, 2]), X[:2], jnp.array([2.0, 6.0])
  )
  weight = 2 * np.log(0.5)
  np.testing.assert_allclose(
    out.bias,
    [0.25 + weight, 0.25 + 0.5 * np.log(3) + weight],
    rtol=1e-5,
  )
  assert out.position.tolist() == [0, 2]


def _members(grid):
  """`cells.members` of the full raster, compiled once for every count."""
  places = grid[0] * grid[1]
  return jax.jit(
    lambda count: cells.members(
      jnp.arange(places, dtype=jnp.int32),
      jnp.ones(places, bool),
      count,
      grid=grid,
      slots=places,
    )
  )


@pytest.mark.slow
@pytest.mark.parametrize("grid", [(4, 4), (12, 12), (3, 5)])
def test_cells_are_exact_and_share_every_token(grid):
  members, places = _members(grid), grid[0] * grid[1]
  for count in [*range(1, places, 1 + places // 30), places]:
    share, index = members(count)
    np.testing.assert_allclose(share.sum(1), 1, rtol=1e-6)
    assert (np.asarray(share).sum(0) > 0).tolist() == [
      k < count for k in range(places)
    ]
    used = np.arange(count)
    assert (np.asarray(share)[index[:count], used] > 0).all()
    rows, columns = ops.cell_shape(count, grid)
    assert rows * columns == count
  np.testing.assert_array_equal(share, np.eye(places))
  assert index.tolist() == list(range(places))


def test_cells_average_present_tokens_only():
  tokens, _ = forms.example(0, absent=(0, 1, 4))
  spec = ops.presets.POOL
  out = forms.hard(
    tokens,
    ops.Signals(grid=forms.GRID),
    spec.params(),
    spec=spec,
    keep=4,
  )
  np.testing.assert_allclose(out.tokens.x[0], tokens.x[5], rtol=1e-5)
  assert int(out.index[0]) == 5
