"""Gradients of the soft form: finite everywhere, equal to differences."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eos_jax import ops
from tests.ops import forms

V = forms.V


def _loss(x, signals, params, keep, temperature, tokens, spec):
  """Reads everything that a model reads, the way it reads it."""
  tokens = dataclasses.replace(tokens, x=x)
  out = ops.reduce_soft(
    tokens, signals, params, spec=spec, keep=keep, temperature=temperature
  ).tokens
  y = out.x.astype(out.log_mass.dtype)
  logits = jnp.sum(jnp.sin(y), 1) + out.log_mass + out.bias
  there = tokens.log_mass > ops.LOG_ZERO / 2
  attention = jax.nn.softmax(jnp.where(there, logits, ops.LOG_ZERO))
  size = jnp.sum(jnp.exp(out.log_mass) * jnp.log(out.size))
  return jnp.sum(attention[:, None] * jnp.cos(y)) + size


_GRAD = jax.jit(
  jax.grad(_loss, (0, 1, 2, 3, 4), allow_int=True), static_argnames="spec"
)

CORNERS = [
  dict(gamma=0.0, tau=ops.TAU_FLOOR),
  dict(gamma=1.0, tau=ops.TAU_FLOOR, kappa=0.0),
  dict(gamma=1.0, tau=100.0, kappa=1.0),
  dict(gamma=0.5, tau=0.2, rho=1.0, rho_attn=1.0, theta=0.5, kappa=0.5),
  dict(activation=0.0),
]


@pytest.mark.slow
@pytest.mark.parametrize("corner", range(len(CORNERS)))
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_finite_at_every_corner(corner, dtype):
  spec = ops.presets.HYBRID
  tokens, signals = forms.example(1, absent=(4,))
  params = spec.replace(**CORNERS[corner]).params()
  x = tokens.x.astype(dtype)
  tokens = dataclasses.replace(tokens, x=x)
  for temperature in (1e-3, 0.1, 3.0):
    for keep in (0.0, 1e-3, 1.0, 6.0, V - 1.001, V - 1.0, V + 2.0):
      grads = _GRAD(x, signals, params, keep, temperature, tokens, spec)
      assert grads[0].dtype == dtype
      for leaf in jax.tree.leaves(grads):
        assert bool(jnp.all(jnp.isfinite(leaf))), (temperature, keep)


def test_finite_with_equal_tokens_and_without_tokens():
  spec = ops.presets.HYBRID
  tokens, signals = forms.example(2)
  params = spec.params()
  same = jnp.ones_like(tokens.x)
  gone = dataclasses.replace(
    tokens, log_mass=jnp.full_like(tokens.log_mass, ops.LOG_ZERO)
  )
  for x, t in ((same, tokens), (jnp.zeros_like(same), tokens), (same, gone)):
    for keep in (0.0, 5.0):
      grads = _GRAD(x, signals, params, keep, 0.1, t, spec)
      for leaf in jax.tree.leaves(grads):
        assert bool(jnp.all(jnp.isfinite(leaf)))


_SPECS = {
  "hybrid": ops.presets.HYBRID.replace(
    kappa=0.7, rho=0.3, rho_attn=0.2, theta=0.3, tau=0.3, omega=(0.8, 0.2)
  ),
  "weighted": ops.presets.HYBRID.replace(
    scores=("norm", "relevance"),
    pi=(0.5, 0.5),
    diversity="none",
    alpha="score",
    beta="one",
    zeta=1,
    tau=0.5,
    eta=0.3,
    sources="all",
  ),
  "tome": ops.presets.TOME.replace(gamma=0.8),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(_SPECS))
def test_equal_to_finite_differences(name):
  spec = _SPECS[name]
  with jax.enable_x64(True):
    tokens, signals = forms.double(forms.example(3, absent=(5,)))
    # Signals that the operator reads as data of its own.
    read = dict.fromkeys(ops.required_signals(spec))
    read = {k: getattr(signals, k) for k in read if k != "grid"}
    rest = dataclasses.replace(signals, **dict.fromkeys(read))
    soft = jax.nn.log_sigmoid(2.0 + jnp.sin(jnp.arange(V, dtype=jnp.float64)))
    soft = jnp.where(tokens.log_mass == 0, soft, ops.LOG_ZERO)
    params = forms.double(spec.params())
    args = (tokens.x, soft, read, params, jnp.float64(9.3), jnp.float64(0.4))

    def loss(x, log_mass, read, params, keep, temperature):
      return _loss(
        x,
        dataclasses.replace(rest, **read),
        params,
        keep,
        temperature,
        dataclasses.replace(tokens, log_mass=log_mass),
        spec,
      )

    keys = iter(jax.random.split(jax.random.key(5), 40))
    direction = jax.tree.map(
      lambda a: jax.random.normal(next(keys), a.shape, a.dtype), args
    )
    # One compilation for the value and the gradient.
    run = jax.jit(jax.value_and_grad(loss, tuple(range(6))))
    eps = 1e-6
    at = lambda s: run(*jax.tree.map(lambda a, d: a + s * d, args, direction))[
      0
    ]
    numeric = (at(eps) - at(-eps)) / (2 * eps)
    grads = run(*args)[1]
    reverse = sum(
      jnp.sum(g * d)
      for g, d in zip(
        jax.tree.leaves(grads), jax.tree.leaves(direction), strict=True
      )
    )
    np.testing.assert_allclose(reverse, numeric, rtol=2e-6)


def test_counts_and_every_number_of_the_hybrid_get_a_gradient():
  spec = ops.presets.HYBRID
  tokens, signals = forms.example(6)
  params = _SPECS["hybrid"].params()
  grads = _GRAD(tokens.x, signals, params, 6.0, 0.3, tokens, spec)
  # retention acts through `keep`; the others act here.
  for field in dataclasses.fields(params):
    leaf = getattr(grads[2], field.name)
    assert bool(jnp.any(leaf != 0)) == (field.name != "retention"), field.name
  assert float(grads[3]) != 0 and float(grads[4]) != 0


@pytest.mark.slow
def test_six_sites_in_a_row_stay_finite():
  spec = ops.presets.HYBRID
  params = spec.params()

  def loss(x, params, retention, temperature):
    tokens, signals = forms.example(7)
    tokens = dataclasses.replace(tokens, x=x)

    def site(tokens, _):
      mass = jnp.sum(jnp.exp(tokens.log_mass))
      keep = ops.keep_count(mass, params.activation, retention)
      out = ops.reduce_soft(
        tokens, signals, params, spec=spec, keep=keep, temperature=temperature
      )
      return out.tokens, keep

    tokens, counts = jax.lax.scan(site, tokens, None, length=6)
    attention = jax.nn.softmax(tokens.log_mass + tokens.bias)
    return jnp.sum(attention[:, None] * tokens.x), (tokens, counts)

  run = jax.jit(jax.value_and_grad(loss, (0, 1, 2), has_aux=True))
  tokens, _ = forms.example(7)
  for temperature in (1e-3, 0.1, 1.0):
    (_, (last, counts)), grads = run(tokens.x, params, 0.6, temperature)
    np.testing.assert_allclose(counts, V * 0.6 ** np.arange(1, 7), rtol=1e-4)
    np.testing.assert_allclose(
      jnp.exp(last.log_mass).sum(), V * 0.6**6, rtol=1e-4
    )
    for leaf in jax.tree.leaves(grads):
      assert bool(jnp.all(jnp.isfinite(leaf)))


@pytest.mark.slow
def test_masked_and_hard_forms_pass_gradients_to_features():
  spec = ops.presets.MERGE
  tokens, signals = forms.example(8)
  keep = 5

  def loss(x, form):
    t = dataclasses.replace(tokens, x=x)
    if form == "hard":
      out = ops.reduce_hard(t, signals, spec.params(), spec=spec, keep=keep)
    else:
      out = ops.reduce_masked(t, signals, spec.params(), spec=spec, keep=keep)
    there = out.tokens.log_mass == 0
    return jnp.sum(jnp.where(there[:, None], jnp.sin(out.tokens.x), 0))

  grad = jax.jit(jax.grad(loss), static_argnames="form")
  hard, masked = grad(tokens.x, "hard"), grad(tokens.x, "masked")
  np.testing.assert_allclose(hard, masked, rtol=1e-3, atol=1e-4)
  assert float(jnp.abs(hard).max()) > 0


@pytest.mark.slow
@pytest.mark.parametrize("name", ["hybrid", "tome", "pool"])
def test_vmap_equals_loop(name):
  spec = ops.PRESETS[name]
  params = spec.params()
  run = lambda t, s: ops.reduce_soft(
    t, s, params, spec=spec, keep=9.0, temperature=0.3
  )
  examples = [forms.example(seed) for seed in range(2)]
  batched = jax.jit(jax.vmap(run))(
    *jax.tree.map(lambda *a: jnp.stack(a), *examples)
  )
  for i, example in enumerate(examples):
    single = forms.soft(*example, params, spec=spec, keep=9.0, temperature=0.3)
    for a, b in zip(
      jax.tree.leaves(batched), jax.tree.leaves(single), strict=True
    ):
      np.testing.assert_allclose(a[i], b, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_jit_equals_eager():
  spec = ops.presets.MERGE.replace(scores=("random",), pi=(1.0,))
  args = (*forms.example(9), spec.params())
  eager = ops.reduce_masked(*args, spec=spec, keep=9)
  compiled = forms.masked(*args, spec=spec, keep=9)
  for a, b in zip(
    jax.tree.leaves(eager), jax.tree.leaves(compiled), strict=True
  ):
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def _second(x, signals, params, keep, temperature, tokens, spec, direction):
  """Directional derivative of the gradient by features, numbers, keep and T."""
  first = lambda x, params, keep, temperature: _GRAD(
    x, signals, params, keep, temperature, tokens, spec
  )
  point = (x, params, keep, temperature)

  def gradient(*point):
    by_x, _, *others = first(*point)
    return by_x, *others

  return jax.jvp(gradient, point, direction)[1]


_SECOND = jax.jit(_second, static_argnames="spec")


def _direction(point):
  keys = iter(jax.random.split(jax.random.key(7), 40))
  return jax.tree.map(
    lambda a: jax.random.normal(next(keys), a.shape, a.dtype), point
  )


@pytest.mark.full
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16], ids=str)
def test_second_derivatives_are_finite(dtype):
  """Where one share of the budget is 0, too: kappa = 1 is the default."""
  spec = ops.presets.HYBRID
  tokens, signals = forms.example(1, absent=(4,))
  tokens = dataclasses.replace(tokens, x=tokens.x.astype(dtype))
  for corner in ({}, *CORNERS):
    params = spec.replace(**corner).params()
    for temperature in (1e-3, 0.1, 3.0):
      for keep in (0.0, 1e-3, 1.0, 6.0, V - 1.0, V + 2.0):
        point = (tokens.x, params, jnp.float32(keep), jnp.float32(temperature))
        x, *rest = point
        found = _SECOND(
          x, signals, *rest, tokens, spec=spec, direction=_direction(point)
        )
        for leaf in jax.tree.leaves(found):
          assert bool(jnp.all(jnp.isfinite(leaf))), (corner, temperature, keep)


@pytest.mark.full
@pytest.mark.parametrize("kappa", [1.0, 0.5])
def test_second_derivatives_equal_differences_of_gradients(kappa):
  spec = _SPECS["hybrid"].replace(kappa=kappa)
  with jax.enable_x64(True):
    tokens, signals = forms.double(forms.example(3, absent=(5,)))
    params = forms.double(spec.params())
    point = (tokens.x, params, jnp.float64(9.3), jnp.float64(0.4))
    direction = _direction(point)
    # At kappa = 1 only one side exists.
    still = dataclasses.replace(direction[1], kappa=jnp.float64(0))
    direction = (direction[0], still, *direction[2:])
    x, *rest = point
    found = list(
      _SECOND(x, signals, *rest, tokens, spec=spec, direction=direction)
    )
    step = 1e-5

    def gradient(sign):
      x, params, keep, temperature = jax.tree.map(
        lambda a, d: a + sign * step * d, point, direction
      )
      by_x, _, *others = _GRAD(
        x, signals, params, keep, temperature, tokens, spec
      )
      return by_x, *others

    expected = jax.tree.map(
      lambda up, down: (up - down) / (2 * step), gradient(1), gradient(-1)
    )
    if kappa == 1:  # the slope by kappa itself jumps there
      assert bool(jnp.isfinite(found[1].kappa))
      found[1] = dataclasses.replace(found[1], kappa=expected[1].kappa)
    pairs = zip(*map(jax.tree.leaves, (found, expected)), strict=True)
    scale = max(float(jnp.max(jnp.abs(e))) for e in jax.tree.leaves(expected))
    for got, want in pairs:
      np.testing.assert_allclose(got, want, rtol=1e-3, atol=1e-5 * scale)
