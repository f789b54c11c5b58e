"""Costs of operators against the products that they run, and by hand."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eos_jax import cost, ops

SHAPE = cost.ModelShape(
  vision_layers=3,
  vision_width=32,
  vision_mlp=48,
  vision_heads=4,
  patch_dim=12,
  vision_tokens=25,
  projector_hidden=20,
  layers=4,
  width=40,
  heads=6,
  kv_heads=2,
  head_dim=8,
  mlp=56,
  vocab=50,
)
ROWS, TEXT = 24, 7
# Kernels whose count follows from their stride.
KEEP = {"tome_kth": 8, "matryoshka": 6}
STRIDE = {"matryoshka": 2}


def _spec(name):
  spec = ops.PRESETS[name]
  if name in STRIDE:
    spec = spec.replace(stride=STRIDE[name])
  return spec


def _stages(spec, width, keys, vision_keys, keep):
  """Products of the stages, with every signal given."""
  rows = {
    field.name: jnp.arange(1.0, ROWS + 1)
    for field in dataclasses.fields(ops.Signals)
    if field.name not in ("grid", "extent", "images", "text_mask")
  }
  rows |= {
    "keys": jnp.ones((ROWS, keys)),
    "vision_keys": jnp.ones((ROWS, vision_keys)),
    "states": jnp.ones((ROWS, width)),
    "pivots": jnp.ones((8, width)),
    "text": jnp.ones((TEXT, width)),
  }
  signals = ops.Signals(**rows, grid=(4, 6))

  def reduce(x, signals):
    return ops.reduce_hard(
      ops.token_set(x), signals, spec.params(), spec=spec, keep=keep
    ).tokens.x

  return cost.function_flops(reduce, jnp.ones((ROWS, width)), signals)


def _distances(spec, width):
  """Differences, squares and sums that stand in for a product."""
  return 3 * ROWS**2 * width * ("density" in (spec.diversity, spec.assign))


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(ops.PRESETS))
def test_stages_run_the_products_that_are_counted(name):
  spec = _spec(name)
  keep = KEEP.get(name, 14)
  # In a vision block signals are free; one of its rows is the class token.
  ours = cost.operator_flops(
    SHAPE, spec, ROWS - 1, keep - 1, TEXT, site="vision.0"
  )
  head = SHAPE.vision_width // SHAPE.vision_heads
  theirs = _stages(spec, SHAPE.vision_width, head, head, keep)
  assert isinstance(ours, int)
  assert ours == theirs + _distances(spec, SHAPE.vision_width)


@pytest.mark.parametrize("name", ["relevance", "relevance_max"])
def test_relevance_is_a_product_with_the_text(name):
  spec = ops.presets.PRUNE.replace(scores=(name,), pi=(1.0,))
  ours = cost.operator_flops(SHAPE, spec, ROWS, 14, TEXT, site="decoder.1")
  assert ours == _stages(spec, SHAPE.width, 8, 8, 14)


def _scored_by(name):
  return ops.presets.PRUNE.replace(scores=(name,), pi=(1.0,))


def _product(m, k, n):
  return 2 * m * k * n


def _rows(number, length):
  """Queries of some rows, and their products with all keys, head by head."""
  total = _product(number, SHAPE.width, SHAPE.heads * SHAPE.head_dim)
  for _ in range(SHAPE.heads):
    total += _product(number, SHAPE.head_dim, length)
  return total


def _keys(length):
  return _product(length, SHAPE.width, SHAPE.kv_heads * SHAPE.head_dim)


@pytest.mark.parametrize(
  "name, expected",
  [
    ("last_row", _keys(31) + _rows(1, 31)),
    ("last_row_previous", _rows(1, 31)),
    ("text_rows", _keys(31) + _rows(7, 31) + _product(1, 7, 24)),
    ("received", _keys(31) + _rows(31, 31) + _product(1, 31, 24)),
    ("rater_rows", _rows(7, 31) + _product(30, SHAPE.width, 7)),
    ("key_norm", _keys(24)),
    ("class_row", 0),
    ("norm", 0),
    ("random", 0),
    ("grid", 0),
  ],
)
def test_signals_of_a_decoder_site_by_hand(name, expected):
  got = cost.operator_flops(
    SHAPE, _scored_by(name), 24, 9, 7, site="decoder.2", input_tokens=30
  )
  assert got == expected


def test_signals_share_the_keys_of_the_coming_layer():
  spec = ops.presets.PRUNE.replace(
    scores=("last_row", "text_rows", "key_norm"), pi=(0.5, 0.25, 0.25)
  )
  got = cost.operator_flops(SHAPE, spec, 24, 9, 7, site="decoder.2")
  assert got == _keys(31) + _rows(1, 31) + _rows(7, 31) + _product(1, 7, 24)


def test_affinities_have_the_width_of_what_they_compare():
  for affinity, width in {
    "x": SHAPE.width,
    "states": SHAPE.width,
    "vision_keys": SHAPE.vision_width // SHAPE.vision_heads,
  }.items():
    spec = ops.presets.MERGE.replace(affinity=affinity)
    merged = 2 * 24 * 9 * (SHAPE.width + 2)
    got = cost.operator_flops(SHAPE, spec, 24, 9, 7, site="decoder.0")
    assert got == 2 * 24 * 24 * width + merged
  # Keys of a decoder layer have to be projected first.
  spec = ops.presets.MERGE.replace(affinity="keys")
  got = cost.operator_flops(SHAPE, spec, 24, 9, 7, site="decoder.0")
  assert got == 2 * 24 * 24 * SHAPE.head_dim + merged + _keys(24)


def test_a_plan_costs_the_sum_of_its_sites():
  raters, tome = _scored_by("rater_rows"), ops.presets.TOME
  sites = (
    ops.PlannedSite("vision.1", 20, tome),
    ops.PlannedSite("decoder.0", 16, ops.presets.MERGE),
    ops.PlannedSite("decoder.2", 5, raters),
  )
  plan = ops.ReductionPlan("p", "tiny", 24, 4, sites)
  got = cost.plan_operator_flops(SHAPE, plan, 7)
  assert got == sum(
    cost.operator_flops(SHAPE, *args, 7, site=site, input_tokens=20)
    for site, *args in (
      ("vision.1", tome, 24, 20),
      ("decoder.0", ops.presets.MERGE, 20, 16),
      # Raters are found at the decoder input, in front of its first site.
      ("decoder.2", raters, 16, 5),
    )
  )
  empty = ops.ReductionPlan("p", "tiny", 24, 4)
  assert cost.plan_operator_flops(SHAPE, empty, 7) == 0


def test_an_unknown_kernel_is_named():
  spec = ops.presets.PRUNE.replace(select="best")
  with pytest.raises(ValueError, match="select names 'best'"):
    cost.operator_flops(SHAPE, spec, 24, 9, 7, site="decoder.0")


@pytest.mark.parametrize("name", ["hybrid", "sparsevlm", "tome", "evit"])
@pytest.mark.parametrize("site", ["vision.1", "decoder.2"])
def test_arrays_equal_integers_and_have_derivatives(name, site):
  # Large enough that int32 would overflow.
  shape = dataclasses.replace(SHAPE, width=4096, vision_width=4096)
  spec = ops.PRESETS[name]

  def at(before, keep):
    return cost.operator_flops(shape, spec, before, keep, 60, site=site)

  exact = at(2000, 700)
  got = jax.jit(at)(jnp.float32(2000), jnp.float32(700))
  assert exact > 2**31 and got.dtype == jnp.float32
  np.testing.assert_allclose(got, exact, rtol=1e-6)
  np.testing.assert_allclose(jax.jit(at)(2000, 700), exact, rtol=1e-6)
  grads = jax.grad(at, (0, 1))(jnp.float32(2000), jnp.float32(700))
  # Quadratic, so that the central difference is exact.
  for grad, (more, less) in zip(
    grads,
    ((at(2001, 700), at(1999, 700)), (at(2000, 701), at(2000, 699))),
    strict=True,
  ):
    np.testing.assert_allclose(grad, (more - less) / 2, rtol=1e-5)
