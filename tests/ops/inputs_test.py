"""What an operator is given: images, counts, padding, dtypes, positions."""

import dataclasses

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest

from eos_jax import ops
from eos_jax.ops import needs
from tests.ops import forms, products

V, D = forms.V, forms.D
NAMES = sorted(ops.PRESETS)
# Each preset takes seconds to compile: one in every run, the others in full.
EACH = [
  pytest.param(name, marks=[] if name == "merge" else [pytest.mark.full])
  for name in NAMES
]
FIXED = {"matryoshka": 4, "tome_kth": V // 3}
PAD = (2, 7, 15)


@pytest.fixture
def unchecked():
  """Without the annotations' own checks, which users do not have."""
  jaxtyping.config.update("jaxtyping_disable", True)
  yield
  jaxtyping.config.update("jaxtyping_disable", False)


def _spec(name):
  return ops.PRESETS[name].replace(protect=0)


def _keep(name):
  return FIXED.get(name, 9)


def _two_images(seed=3, **signals):
  tokens, given = forms.example(seed)
  half = V // 2
  tokens = dataclasses.replace(
    tokens,
    image=(jnp.arange(V) >= half).astype(jnp.int32),
    position=jnp.arange(V) % half,
  )
  given = dataclasses.replace(given, images=2, grid=(2, 4), **signals)
  return tokens, given


@pytest.mark.slow
@pytest.mark.parametrize("name", EACH)
def test_images_stay_apart_or_are_refused(name):
  spec, keep = _spec(name), _keep(name)
  tokens, signals = _two_images()
  args = (tokens, signals, spec.params())
  if needs.one_image_parts(spec):
    for form in (
      lambda: ops.reduce_hard(*args, spec=spec, keep=keep),
      lambda: ops.reduce_masked(*args, spec=spec, keep=keep),
      lambda: ops.reduce_soft(*args, spec=spec, keep=9.0, temperature=0.1),
    ):
      with pytest.raises(ValueError, match=f"'{name}': signals.images is 2"):
        form()
    alone = dataclasses.replace(signals, images=1, grid=(4, 4))
    with pytest.raises(ValueError, match="tokens.image names several images"):
      ops.reduce_hard(tokens, alone, spec.params(), spec=spec, keep=keep)
    return
  for out in (
    forms.hard(*args, spec=spec, keep=keep),
    forms.masked(*args, spec=spec, keep=keep),
    forms.soft(*args, spec=spec, keep=float(keep), temperature=0.1),
  ):
    crosses = tokens.image[:, None] != out.tokens.image[None, :]
    np.testing.assert_array_equal(jnp.where(crosses, out.assignment, 0), 0)
    np.testing.assert_array_equal(out.tokens.image, tokens.image[out.index])


def test_who_refuses_several_images():
  refusing = {n for n in NAMES if needs.one_image_parts(_spec(n))}
  assert refusing == {
    "evit",
    "matryoshka",
    "pool",
    "prumerge",
    "prumerge_plus",
    "sparsevlm",
    "sparsevlm_1_5",
    "tome",
    "tome_kth",
    "tome_port",
  }


@pytest.mark.parametrize(
  "name, counts, message",
  [
    ("fastv", [4, 4, 4], "count has 3 counts, but signals.images is 2"),
    ("fastv", [10, 10], "20 tokens in all, but keep has room for 12"),
    ("fastv", [-1, 5], "use a number of tokens >= 0"),
    ("csp", [4, 4], "select=two_lists divides one count for all"),
    ("divprune", [4, 4], "diversity=max_min divides one count for all"),
    ("fastv", [[4, 4]], r"count has shape \(1, 2\)"),
  ],
)
def test_counts_that_do_not_fit_are_refused(name, counts, message):
  tokens, signals = _two_images()
  spec = _spec(name)
  with pytest.raises(ValueError, match=message):
    ops.reduce_hard.__wrapped__(
      tokens,
      signals,
      spec.params(),
      spec=spec,
      keep=12,
      count=jnp.array(counts),
    )


@pytest.mark.parametrize("counts", [[10, 10], [-1, 4], [14, 0]])
def test_traced_counts_that_do_not_fit_leave_no_number(counts):
  tokens, signals = _two_images()
  spec = _spec("prune")

  @jax.jit
  def reduced(count):
    return ops.reduce_hard.__wrapped__(
      tokens, signals, spec.params(), spec=spec, keep=12, count=count
    ).tokens.x

  assert np.all(np.isnan(reduced(jnp.array(counts))))
  assert np.all(np.isfinite(reduced(jnp.array([8, 4]))))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tome", "tome_port", "csp", "prune", "pool"])
def test_one_count_for_one_image(name):
  spec = _spec(name)
  tokens, signals = forms.example(3)
  args = (tokens, signals, spec.params())
  one = forms.masked(*args, spec=spec, keep=jnp.array([9]))
  other = forms.masked(*args, spec=spec, keep=jnp.array(9))
  for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
    np.testing.assert_array_equal(a, b)
  with pytest.raises(ValueError, match="keep has 2 counts"):
    ops.reduce_masked(*args, spec=spec, keep=jnp.array([4, 5]))


@pytest.mark.slow
@pytest.mark.parametrize("name", EACH)
def test_padding_may_hold_anything(name):
  """NaN in padding reaches no kept row and no gradient, in any form."""
  spec = _spec(name)
  keep = 4 if name in FIXED else 9  # a bipartite step leaves at least half
  tokens, signals = forms.example(6, absent=PAD)
  rows = jnp.array(PAD)
  read = [
    field
    for field in needs.required_signals(spec)
    if field not in ("grid", "text", "pivots")
  ]

  def spoiled(value):
    fields = {f: getattr(signals, f).at[rows].set(value) for f in read}
    moved = {
      f: getattr(tokens, f).at[rows].set(value) for f in ("x", "size", "bias")
    }
    return (
      dataclasses.replace(tokens, **moved),
      dataclasses.replace(signals, **fields),
    )

  def run(given, signals, form):
    def loss(floats, numbers):
      moved = dataclasses.replace(given, **floats)
      params = dataclasses.replace(spec.params(), **numbers)
      if form == "masked":
        out = ops.reduce_masked(moved, signals, params, spec=spec, keep=keep)
      else:
        out = ops.reduce_soft(
          moved, signals, params, spec=spec, keep=float(keep), temperature=0.2
        )
      out = out.tokens
      seen = (out.log_mass > ops.LOG_ZERO / 2)[:, None]
      weight = jnp.where(seen, jnp.exp(out.log_mass + out.bias)[:, None], 0)
      return jnp.sum(weight * jnp.where(seen, jnp.sin(out.x), 0))

    floats = {"x": given.x, "size": given.size}
    numbers = {"gamma": jnp.float32(spec.gamma), "rho": jnp.float32(spec.rho)}
    return jax.value_and_grad(loss, (0, 1))(floats, numbers)

  run = jax.jit(run, static_argnums=2)
  for form in ("masked", "soft"):
    good, bad = run(*spoiled(1.0), form), run(*spoiled(jnp.nan), form)
    for a, b in zip(jax.tree.leaves(good), jax.tree.leaves(bad), strict=True):
      assert bool(jnp.all(jnp.isfinite(b)))
      np.testing.assert_allclose(b, a, rtol=1e-6, atol=1e-6)
    np.testing.assert_array_equal(bad[1][0]["x"][rows], 0)
  if spec.select == "kth":
    return  # the hard count is that of all rows
  hard = [
    forms.hard(*spoiled(v), spec.params(), spec=spec, keep=keep)
    for v in (1.0, jnp.nan)
  ]
  for a, b in zip(*map(jax.tree.leaves, hard), strict=True):
    np.testing.assert_allclose(b, a, rtol=1e-6, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["merge", "csp", "tome", "pool", "prumerge"])
def test_empty_rows_have_no_index(name):
  spec = _spec(name)
  absent = tuple(range(5, V))
  tokens, signals = forms.example(7, absent=absent)
  out = forms.hard(tokens, signals, spec.params(), spec=spec, keep=12)
  there = np.asarray(out.tokens.log_mass) > ops.LOG_ZERO / 2
  index = np.asarray(out.index)
  np.testing.assert_array_equal(index[~there], -1)
  assert set(index[there].tolist()) <= set(range(5))
  if name == "csp":
    assert index[there].tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
  "x, message",
  [
    (jnp.ones((V, D), jnp.int32), "tokens.x has dtype int32"),
    (jnp.ones((V, D), jnp.complex64), "tokens.x has dtype complex64"),
  ],
  ids=["integers", "complex"],
)
def test_features_that_are_not_real_are_refused(x, message):
  tokens, signals = forms.example(8)
  spec = ops.presets.PRUNE
  run = ops.reduce_hard.__wrapped__
  with pytest.raises(ValueError, match=message):
    run(
      dataclasses.replace(tokens, x=x),
      signals,
      spec.params(),
      spec=spec,
      keep=4,
    )
  with pytest.raises(ValueError, match="signals.class_row is complex"):
    bad = dataclasses.replace(
      signals, class_row=signals.class_row.astype(complex)
    )
    run(tokens, bad, spec.params(), spec=spec, keep=4)


@pytest.mark.parametrize("keep", [True, float("inf"), float("nan"), "9", None])
def test_odd_counts_are_refused(keep):
  tokens, signals = forms.example(8)
  spec = ops.presets.PRUNE
  args = (tokens, signals, spec.params())
  with pytest.raises(ValueError, match="keep is "):
    ops.reduce_hard.__wrapped__(*args, spec=spec, keep=keep)
  if isinstance(keep, (bool, float)):
    with pytest.raises(ValueError, match="keep is "):
      ops.reduce_masked.__wrapped__(*args, spec=spec, keep=keep)


@pytest.mark.slow
@pytest.mark.parametrize("position", ["default", "given", "protected"])
@pytest.mark.parametrize("name", ["pool", "matryoshka", "grid"])
def test_a_class_token_in_front_moves_no_cell(name, position):
  spec = ops.PRESETS[name]
  tokens, signals = forms.example(9)
  keep = FIXED.get(name, 6)
  alone = forms.hard(tokens, signals, spec.params(), spec=spec, keep=keep)
  x = jnp.concatenate([jnp.full((1, D), 9.0), tokens.x])
  if position == "given":
    places = jnp.concatenate([jnp.zeros(1, jnp.int32), jnp.arange(V)])
    with_class = ops.token_set(x, position=places)
  else:
    with_class = ops.token_set(x, protect=int(position == "protected"))
  spec = spec.replace(protect=1)
  if name == "matryoshka":
    # Blocks have no row for a class token.
    with pytest.raises(ValueError, match="protect"):
      forms.hard(with_class, signals, spec.params(), spec=spec, keep=keep + 1)
    return
  out = forms.hard(with_class, signals, spec.params(), spec=spec, keep=keep + 1)
  np.testing.assert_array_equal(out.tokens.x[0], 9)
  np.testing.assert_allclose(out.tokens.x[1:], alone.tokens.x, rtol=1e-5)
  np.testing.assert_array_equal(out.tokens.position[1:], alone.tokens.position)


@pytest.mark.slow
@pytest.mark.parametrize("form", ["masked", "soft"])
def test_less_than_half_is_refused_by_a_bipartite_step(form):
  spec = _spec("tome")
  tokens, signals = forms.example(10)
  args = (tokens, signals, spec.params())
  run = {
    "masked": lambda keep: ops.reduce_masked(*args, spec=spec, keep=keep),
    "soft": lambda keep: ops.reduce_soft(
      *args, spec=spec, keep=keep, temperature=0.1
    ),
  }[form]
  with pytest.raises(ValueError, match="leaves at least 8 of 16 tokens"):
    run(5)
  # A traced count cannot be refused; it gives no number that could be believed.
  run = jax.jit(run)
  assert bool(jnp.any(jnp.isnan(run(5).tokens.x)))
  out = run(8)
  assert bool(jnp.all(jnp.isfinite(out.tokens.x)))
  assert int(jnp.sum(jnp.exp(out.tokens.log_mass))) == 8


@pytest.mark.slow
@pytest.mark.parametrize(
  "name", ["tome", "tome_port", "bipartite_distilled", "merge", "csp"]
)
@pytest.mark.parametrize("protect", [0, 1, 2])
def test_keeping_all_is_the_identity(name, protect):
  spec = ops.PRESETS.get(name, ops.presets.TOME)
  if name == "bipartite_distilled":
    if protect:
      return
    spec = spec.replace(select=name)
  spec = spec.replace(protect=protect)
  tokens, signals = forms.example(11)
  out = forms.hard(tokens, signals, spec.params(), spec=spec, keep=V)
  assert out.index.tolist() == list(range(V))
  np.testing.assert_array_equal(out.tokens.x, tokens.x)
  np.testing.assert_array_equal(out.tokens.size, tokens.size)


def test_values_of_any_shape_go_back_to_their_tokens():
  spec = ops.presets.MERGE
  tokens, signals = forms.example(12)
  out = forms.hard(tokens, signals, spec.params(), spec=spec, keep=5)
  rows = np.asarray(ops.source_map(out))
  for shape in ((), (3,), (2, 3)):
    values = jnp.arange(5 * int(np.prod(shape))).reshape(5, *shape)
    back = ops.unreduce(values, out)
    assert back.shape == (V, *shape) and back.dtype == values.dtype
    np.testing.assert_array_equal(back, np.asarray(values)[rows])
  with pytest.raises(ValueError, match=r"values has shape \(4,\)"):
    ops.unreduce(jnp.arange(4), out)


@pytest.mark.parametrize("name", EACH)
def test_products_that_decide_are_of_the_highest_precision(name):
  """Accelerators otherwise round float32 to bfloat16 or TF32."""
  spec, keep = _spec(name), _keep(name)
  tokens, signals = forms.example(13)
  with jax.default_matmul_precision("bfloat16"):
    jaxpr = jax.make_jaxpr(
      lambda tokens, signals: ops.reduce_masked(
        tokens, signals, spec.params(), spec=spec, keep=keep
      )
    )(tokens, signals)
  found = products.precisions(jaxpr)
  assert found <= {products.HIGHEST}
  assert found or not needs.uses_cosine(spec)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["divprune", "dart", "tome", "hybrid"])
def test_operators_run_under_shard_map(name):
  spec, keep = _spec(name), _keep(name)
  examples = [forms.example(seed) for seed in range(2)]
  batch = jax.tree.map(lambda *leaves: jnp.stack(leaves), *examples)
  auto = (jax.sharding.AxisType.Auto,)
  mesh = jax.make_mesh((2,), ("data",), axis_types=auto)
  cut = jax.sharding.PartitionSpec("data")
  run = jax.vmap(
    lambda tokens, signals: (
      ops.reduce_hard(
        tokens, signals, spec.params(), spec=spec, keep=keep
      ).index
    )
  )
  spread = jax.shard_map(run, mesh=mesh, in_specs=cut, out_specs=cut)
  np.testing.assert_array_equal(jax.jit(spread)(*batch), jax.jit(run)(*batch))


@pytest.mark.parametrize(
  "fields, message",
  [
    (dict(gamma=[1.0]), r"gamma is \[1.0\], use a number"),
    (dict(gamma=jnp.ones(2)), r"gamma has shape \(2,\), use one float"),
    (dict(gamma=True), "gamma is True, use a number"),
    (dict(protect=1.0), "protect is 1.0, use an integer"),
    (dict(select=None), "select is None, use a string"),
    (dict(scores="norm"), "scores is 'norm', use a tuple"),
    (dict(omega=("a", 0)), "omega is 'a', use a number"),
    (dict(gamma=10**400), "gamma is too large, use a finite number"),
  ],
  ids=lambda value: str(value)[:20],
)
@pytest.mark.usefixtures("unchecked")
def test_fields_of_a_spec_are_checked_at_once(fields, message):
  with pytest.raises(ValueError, match=message):
    ops.OperatorSpec("s", **fields)


@pytest.mark.usefixtures("unchecked")
def test_lists_and_arrays_of_one_number_become_plain():
  spec = ops.OperatorSpec(
    "s",
    scores=["norm", "random"],
    pi=[np.float32(0.5), jnp.float32(0.5)],
    gamma=np.float64(0.25),
    protect=np.int64(1),
    omega=[1, 0],
  )
  plain = ops.OperatorSpec(
    "s",
    scores=("norm", "random"),
    pi=(0.5, 0.5),
    gamma=0.25,
    protect=1,
    omega=(1.0, 0.0),
  )
  assert spec == plain and hash(spec) == hash(plain)
  kinds = [type(v) for v in (spec.protect, spec.gamma, *spec.pi, *spec.omega)]
  assert kinds == [int] + 5 * [float]
  with pytest.raises(ValueError, match="gamma is traced, but a spec is static"):
    jax.jit(lambda g: ops.OperatorSpec("s", gamma=g).params())(0.5)


def test_a_plan_names_no_block_that_no_encoder_has():
  site = ops.PlannedSite("vision.90", 9, ops.presets.TOME)
  with pytest.raises(ValueError, match="'vision.90' does not exist"):
    ops.ReductionPlan("p", "tiny", 16, 5, (site,))
