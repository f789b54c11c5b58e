"""Laws that hold for every preset, in its three forms."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eos_jax import ops
from tests.ops import forms

V, D = forms.V, forms.D
NAMES = sorted(ops.PRESETS)
# The count of kernels that fix it, on 16 tokens of a 4 x 4 grid.
FIXED = {"matryoshka": 4, "tome_kth": V // 3}
# A kept row may stand twice in the cache operator, so its lists are compared
# by what is in them.
TWICE = ("csp",)
# Grid, stride, parity and pivot order are no properties of a set of tokens.
ORDERED = (
  "grid",
  "hybrid",
  "matryoshka",
  "pool",
  "prumerge_plus",
  "tome",
  "tome_kth",
  "tome_port",
  "visionzip",
)


def _spec(name):
  return ops.PRESETS[name].replace(protect=0)


def _keep(name):
  return FIXED.get(name, 9)


def _there(out):
  return np.asarray(out.tokens.log_mass) > ops.LOG_ZERO / 2


def _read(tokens, query):
  """What a query reads from tokens by attention; row order is no matter."""
  x = tokens.x.astype(jnp.float32)
  logits = x @ query.astype(jnp.float32) + tokens.log_mass + tokens.bias
  return jax.nn.softmax(logits) @ x


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_masked_is_hard_scattered_back(name):
  spec, keep = _spec(name), _keep(name)
  tokens, signals = forms.example(3, absent=(5,) if name in TWICE else ())
  args = (tokens, signals, spec.params())
  mask = forms.masked(*args, spec=spec, keep=keep)
  hard = forms.hard(*args, spec=spec, keep=keep)
  index = np.asarray(hard.index)[_there(hard)]
  if name in TWICE:
    assert set(index) == set(np.flatnonzero(_there(mask)))
    return
  if spec.select in ("cells", "blocks"):  # output row k is cell k
    index = np.arange(keep)
  assert sorted(index) == np.flatnonzero(_there(mask)).tolist()
  assert _there(hard).sum() == keep
  for field in ("x", "size", "bias", "position"):
    rows = np.asarray(getattr(mask.tokens, field))[index]
    np.testing.assert_allclose(
      rows, getattr(hard.tokens, field), rtol=1e-5, atol=1e-6
    )
  np.testing.assert_allclose(
    mask.assignment[:, index], hard.assignment, rtol=1e-4, atol=1e-6
  )


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_discrete_operators_are_masked_and_the_others_tend_to_it(name):
  spec, keep = _spec(name), _keep(name)
  if name == "pool_soft":
    # With T and tau both finite a removed token that is nearly kept receives.
    spec = spec.replace(tau=2.0)
  tokens, signals = forms.example(4)
  args = (tokens, signals, spec.params())
  mask = forms.masked(*args, spec=spec, keep=keep)
  temperature = 1.0 if ops.discrete_parts(spec) else 1e-4
  soft = forms.soft(*args, spec=spec, keep=float(keep), temperature=temperature)
  np.testing.assert_allclose(
    jnp.exp(soft.tokens.log_mass), jnp.exp(mask.tokens.log_mass), atol=2e-3
  )
  query = jax.random.normal(jax.random.key(1), (D,))
  np.testing.assert_allclose(
    _read(soft.tokens, query), _read(mask.tokens, query), rtol=5e-3, atol=5e-3
  )


@pytest.mark.slow
@pytest.mark.parametrize(
  "dtype",
  [jnp.float32, pytest.param(jnp.bfloat16, marks=pytest.mark.full)],
  ids=str,
)
@pytest.mark.parametrize("name", NAMES)
def test_padding_influences_nothing_and_gets_no_gradient(name, dtype):
  if name in FIXED:
    keep = 4
  else:
    keep = 7
  spec, absent = _spec(name), jnp.array([2, 7, 15])
  tokens, signals = forms.example(6, absent=(2, 7, 15), dtype=dtype)

  def run(x, signals):
    moved = dataclasses.replace(tokens, x=x)
    out = ops.reduce_masked(
      moved, signals, spec.params(), spec=spec, keep=keep
    ).tokens
    query = jnp.ones(D)
    return jnp.sum(_read(out, query)), out

  run = jax.jit(jax.value_and_grad(run, has_aux=True))
  (value, out), grad = run(tokens.x, signals)
  assert out.x.dtype == dtype
  assert bool(jnp.isfinite(value)) and bool(jnp.all(jnp.isfinite(grad)))
  np.testing.assert_array_equal(grad[absent], 0)
  other = dataclasses.replace(
    signals,
    **{
      field: getattr(signals, field).at[absent].set(7)
      for field in ops.required_signals(spec)
      if field not in ("grid", "text", "pivots")
    },
  )
  (moved, _), _ = run(tokens.x.at[absent].set(50), other)
  np.testing.assert_allclose(moved, value, rtol=1e-5)


@pytest.mark.parametrize("name", sorted(set(NAMES) - set(ORDERED)))
def test_permuting_tokens_permutes_the_result(name):
  spec = _spec(name)
  tokens, signals = forms.example(8)
  pivots = signals.pivots
  order = jax.random.permutation(jax.random.key(2), V)
  other, moved = forms.permuted(tokens, signals, order)
  moved = dataclasses.replace(moved, pivots=pivots)
  query = jnp.linspace(-1, 1, D)
  read = lambda tokens, signals: _read(
    forms.masked(tokens, signals, spec.params(), spec=spec, keep=9).tokens,
    query,
  )
  np.testing.assert_allclose(
    read(other, moved), read(tokens, signals), rtol=1e-5, atol=1e-6
  )


@pytest.mark.parametrize("name", NAMES)
def test_sizes_never_exceed_what_was_there(name):
  spec, keep = _spec(name), _keep(name)
  tokens, signals = forms.example(9)
  out = forms.hard(tokens, signals, spec.params(), spec=spec, keep=keep).tokens
  assert float(jnp.max(out.size)) <= V + 1e-4
  assert float(jnp.min(out.size)) > 0 or spec.sizes == "similarity"


@pytest.mark.slow
@pytest.mark.parametrize(
  "name", ["evit", "prumerge", "visionzip", "sparsevlm", "diffrate", "prune"]
)
def test_a_traced_count_leaves_the_rows_behind_it_empty(name):
  spec = _spec(name)
  tokens, signals = forms.example(10)
  run = jax.jit(ops.reduce_hard, static_argnames=("spec", "keep"))
  args = (tokens, signals, spec.params())
  few = run(*args, spec=spec, keep=5)
  padded = run(*args, spec=spec, keep=11, count=jnp.int32(5))
  assert _there(padded).tolist() == [True] * 5 + [False] * 6
  for field in ("x", "size", "bias"):
    np.testing.assert_allclose(
      getattr(padded.tokens, field)[:5],
      getattr(few.tokens, field),
      rtol=1e-5,
      atol=1e-6,
    )


@pytest.mark.slow
def test_a_count_for_each_image():
  spec = ops.presets.GLOBALCOM2
  tokens, signals = forms.example(11)
  image = (jnp.arange(V) >= 6).astype(jnp.int32)
  tokens = dataclasses.replace(tokens, image=image)
  signals = dataclasses.replace(signals, images=2, grid=(2, 4))
  counts = jnp.array([2, 5])
  args = (tokens, signals, spec.params())
  for form in (
    lambda: forms.hard(*args, spec=spec, keep=7, count=counts),
    lambda: forms.masked(*args, spec=spec, keep=counts),
    lambda: forms.soft(*args, spec=spec, keep=counts, temperature=0.05),
  ):
    out = form().tokens
    mass = jnp.exp(out.log_mass)
    for number, count in enumerate((2, 5)):
      kept = jnp.sum(jnp.where(out.image == number, mass, 0))
      np.testing.assert_allclose(kept, count, rtol=1e-5)


# Where the grid, the place in the list or clusters decide, there is no tie.
@pytest.mark.slow
@pytest.mark.parametrize(
  "name", sorted(set(NAMES) - {*ORDERED, "sparsevlm", "sparsevlm_1_5"})
)
def test_ties_go_to_the_lowest_index(name):
  """All tokens and signals alike: only the index can decide."""
  spec = _spec(name)
  tokens, signals = forms.example(12)
  same = lambda a: jnp.broadcast_to(a[:1], a.shape)
  tokens = dataclasses.replace(tokens, x=same(tokens.x))
  signals = jax.tree.map(same, signals)
  out = forms.hard(tokens, signals, spec.params(), spec=spec, keep=5)
  own = 2 if name in TWICE else 1
  rows = out.index.tolist()[: 5 - spec.fused]
  if own == 1:
    assert rows == list(range(5 - spec.fused))
  else:  # kappa = 0.9 of five: four and one
    assert rows == [0, 1, 2, 3, 0]


@pytest.mark.slow
def test_values_that_are_no_numbers_go_first_and_stay_alone():
  spec = ops.presets.FASTV
  tokens, signals = forms.example(13)
  row = signals.last_row_previous.at[4].set(jnp.nan).at[9].set(jnp.inf)
  bad = dataclasses.replace(signals, last_row_previous=row)
  good = dataclasses.replace(
    signals,
    last_row_previous=signals.last_row_previous.at[jnp.array([4, 9])].set(
      jnp.min(signals.last_row_previous)
    ),
  )
  both = jax.tree.map(lambda a, b: jnp.stack([a, b]), bad, signals)
  run = lambda signals: forms.hard(
    tokens, signals, spec.params(), spec=spec, keep=6
  )
  out = jax.vmap(run)(both)
  assert bool(jnp.all(jnp.isfinite(out.tokens.x)))
  assert not {4, 9} & set(out.index[0].tolist())
  np.testing.assert_array_equal(out.index[0], run(good).index)
  # The other sample of the batch does not notice.
  np.testing.assert_array_equal(out.index[1], run(signals).index)


@pytest.mark.slow
def test_sizes_that_are_not_positive_stay_finite_and_alone():
  spec = ops.presets.MERGE_PROPORTIONAL
  tokens, signals = forms.example(15)
  bad = dataclasses.replace(tokens, size=tokens.size.at[3].set(-2.0))
  both = jax.tree.map(lambda a, b: jnp.stack([a, b]), bad, tokens)
  run = lambda tokens: (
    forms.masked(tokens, signals, spec.params(), spec=spec, keep=9).tokens
  )
  out = jax.vmap(run)(both)
  assert all(bool(jnp.all(jnp.isfinite(a))) for a in (out.x, out.bias))
  alone = run(tokens)
  np.testing.assert_allclose(out.x[1], alone.x, rtol=1e-6)
  np.testing.assert_allclose(out.bias[1], alone.bias, rtol=1e-6)


@pytest.mark.parametrize(
  "change, message",
  [
    (dict(keep=-1.0), "keep is -1.0, use a number of tokens >= 0"),
    (dict(temperature=0.0), "temperature is 0.0, use a number > 0"),
    (
      dict(x=jnp.ones((2, V, D))),
      r"tokens.x has shape \(2, 16, 6\), it needs \[V, D\] of one example",
    ),
    (
      dict(size=jnp.ones(3)),
      r"tokens.size has shape \(3,\), it needs \(16,\)",
    ),
    (
      dict(class_row=jnp.ones(4)),
      r"signals.class_row has shape \(4,\), it needs 16 rows",
    ),
    (
      dict(grid=(3, 4)),
      r"signals.grid is \(3, 4\) with images=1, 12 cells for 16 tokens",
    ),
    (dict(grid=(0, 4)), r"signals.grid is \(0, 4\), use two counts >= 1"),
  ],
  ids=lambda value: str(value)[:24],
)
def test_static_mistakes_are_named(change, message):
  spec = ops.presets.PRUNE
  tokens, signals = forms.example(14)
  numbers = {"keep": 5.0, "temperature": 0.1}
  for name, value in change.items():
    if name in numbers:
      numbers[name] = value
    elif hasattr(tokens, name):
      tokens = dataclasses.replace(tokens, **{name: value})
    else:
      signals = dataclasses.replace(signals, **{name: value})
  run = ops.reduce_soft.__wrapped__  # without the annotations' own checks
  with pytest.raises(ValueError, match=message):
    run(tokens, signals, spec.params(), spec=spec, **numbers)
