"""Attention kernels against a slow float64 reference."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eos_jax.models import attention, attention_kernels, layers
from tests.ops import products

B, H, G, Q, N, D = 2, 4, 2, 5, 9, 8
PORTABLE = ("cpu", "xla")
LENGTHS = np.array([9, 6])
# Storage order is not the causal order; places may leave gaps.
ORDER = np.array([[0, 5, 6, 7, 8, 1, 2, 3, 9], [0, 1, 9, 10, 11, 12, 2, 3, 20]])
GROUPS = np.array([[0, 0, 0, 1, 1, 2, 2, 3, 3], [0, 0, 1, 1, 1, 1, 2, 2, 0]])


def _inputs(rows=Q, keys=N, heads=H, groups=G, width=D, batch=B):
  parts = jax.random.split(jax.random.key(0), 4)
  q = jax.random.normal(parts[0], (batch, heads, rows, width))
  k = jax.random.normal(parts[1], (batch, groups, keys, width))
  v = jax.random.normal(parts[2], (batch, groups, keys, width))
  return q, k, v, jax.random.normal(parts[3], (batch, keys))


def _probabilities(q, k, bias, allowed):
  """`[B, H, Q, N]` in float64; `allowed` broadcasts to `[B, Q, N]`."""
  q, k = np.asarray(q, np.float64), np.asarray(k, np.float64)
  k = np.repeat(k, q.shape[1] // k.shape[1], axis=1)
  scores = np.einsum("bhqd,bhnd->bhqn", q, k) / np.sqrt(q.shape[-1])
  if bias is not None:
    scores = scores + np.asarray(bias, np.float64)[:, None, None]
  scores = np.where(np.asarray(allowed)[:, None], scores, -np.inf)
  weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
  return weights / weights.sum(axis=-1, keepdims=True)


def _allowed(
  batch,
  rows,
  keys,
  causal=False,
  lengths=None,
  order=None,
  query_order=None,
  groups=None,
):
  allowed = np.ones((batch, rows, keys), bool)
  for b, i, j in np.ndindex(allowed.shape):
    row = keys - rows + i
    if order is not None:
      own = order[b, row] if query_order is None else query_order[b, i]
      allowed[b, i, j] &= order[b, j] <= own
    elif causal:
      allowed[b, i, j] &= j <= row
    if lengths is not None:
      allowed[b, i, j] &= j < lengths[b]
    if groups is not None:
      allowed[b, i, j] &= groups[b, j] in (0, groups[b, row])
  return allowed


def _reference(q, k, v, key_bias=None, **sight):
  batch, heads, rows, _ = q.shape
  allowed = _allowed(batch, rows, k.shape[2], **sight)
  weights = _probabilities(q, k, key_bias, allowed)
  v = np.repeat(np.asarray(v, np.float64), heads // v.shape[1], axis=1)
  out = np.einsum("bhqn,bhnd->bqhd", weights, v)
  return out.reshape(batch, rows, -1)


def _arrays(sight):
  return {
    name: value if isinstance(value, bool) else jnp.asarray(value)
    for name, value in sight.items()
  }


def _attend(kernel, q, k, v, key_bias=None, **sight):
  """`attend` as one compiled function."""
  causal = sight.pop("causal", False)
  run = functools.partial(attention.attend, causal=causal, kernel=kernel)
  return jax.jit(run)(q, k, v, key_bias=key_bias, **_arrays(sight))


SIGHTS = {
  "all": {},
  "causal": {"causal": True},
  "lengths": {"lengths": LENGTHS},
  "both": {"causal": True, "lengths": LENGTHS},
}
ORDERS = {
  "order": {"order": ORDER},
  "order of its own": {"order": ORDER, "query_order": ORDER[:, 4:] + 2},
  "groups": {"groups": GROUPS},
  "all of it": {"order": ORDER, "groups": GROUPS},
  "packed": {"causal": True, "groups": GROUPS},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", (*SIGHTS, *ORDERS))
@pytest.mark.parametrize("kernel", PORTABLE)
def test_portable_kernels(kernel, name):
  sight = (SIGHTS | ORDERS)[name]
  rows = 5 if "query_order" in sight else N
  q, k, v, bias = _inputs(rows)
  # The first key is hidden from nobody by its place: every row keeps one.
  hidden = bias.at[:, 3].set(layers.MASKED)
  got = _attend(kernel, q, k, v, hidden, **sight)
  want = _reference(q, k, v, hidden, **sight)
  np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("rows", (1, 5))
@pytest.mark.parametrize("kernel", PORTABLE)
def test_queries_are_the_last_rows(kernel, rows):
  q, k, v, _ = _inputs(rows)
  for sight in (SIGHTS["causal"], ORDERS["all of it"]):
    got = _attend(kernel, q, k, v, **sight)
    want = _reference(q, k, v, **sight)
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("groups", (1, 4))
@pytest.mark.parametrize("kernel", PORTABLE)
def test_grouped_heads(kernel, groups):
  q, k, v, _ = _inputs(groups=groups)
  got = _attend(kernel, q, k, v, causal=True)
  want = _reference(q, k, v, causal=True)
  np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("rows", (300, 130))
def test_blocks_of_the_cpu_kernel(rows):
  """Several blocks, the last one shorter."""
  q, k, v, bias = _inputs(rows, 300, heads=2, groups=1)
  lengths = np.array([300, 140])
  got = _attend("cpu", q, k, v, bias, causal=True, lengths=lengths)
  want = _reference(q, k, v, bias, causal=True, lengths=lengths)
  np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kernel", PORTABLE)
def test_bfloat16(kernel):
  q, k, v, bias = _inputs()
  half = [x.astype(jnp.bfloat16) for x in (q, k, v)]
  got = _attend(kernel, *half, bias, causal=True)
  assert got.dtype == jnp.bfloat16
  want = _reference(*(x.astype(jnp.float32) for x in half), bias, causal=True)
  np.testing.assert_allclose(got.astype(jnp.float32), want, atol=0.02)


@pytest.mark.parametrize("kernel", PORTABLE)
def test_row_without_a_key_is_finite(kernel):
  q, k, v, bias = _inputs(N)
  bias = bias.at[:, 0].set(layers.MASKED)  # all that row 0 sees
  lengths = jnp.array([N, 0])

  def total(q, k, v, bias):
    out = attention.attend(
      q, k, v, causal=True, lengths=lengths, key_bias=bias, kernel=kernel
    )
    return jnp.sum(out**2)

  slope = jax.jit(jax.value_and_grad(total, (0, 1, 2, 3)))
  value, slopes = slope(q, k, v, bias)
  assert np.isfinite(value)
  assert all(np.all(np.isfinite(slope)) for slope in slopes)


def _slope_of_reference(inputs, which, direction, **sight):
  """Central difference of the sum of squares, in float64."""
  values = []
  for step in (1e-4, -1e-4):
    moved = [np.asarray(x, np.float64) for x in inputs]
    moved[which] = moved[which] + step * np.asarray(direction, np.float64)
    values.append(np.sum(_reference(*moved, **sight) ** 2))
  return (values[0] - values[1]) / 2e-4


def _check_gradients(kernel, inputs, atol=1e-3, **sight):
  def total(*inputs):
    q, k, v, bias = inputs
    out = attention.attend(
      q, k, v, key_bias=bias, kernel=kernel, **_arrays(sight)
    )
    return jnp.sum(out.astype(jnp.float32) ** 2)

  slopes = jax.jit(jax.grad(total, argnums=(0, 1, 2, 3)))(*inputs)
  for which, slope in enumerate(slopes):
    direction = jax.random.normal(jax.random.key(which), slope.shape)
    want = _slope_of_reference(inputs, which, direction, **sight)
    np.testing.assert_allclose(jnp.vdot(slope, direction), want, atol=atol)


@pytest.mark.parametrize("name", ("both", "all of it"))
@pytest.mark.parametrize("kernel", PORTABLE)
def test_gradients(kernel, name):
  _check_gradients(kernel, _inputs(N), **(SIGHTS | ORDERS)[name])


def test_hidden_keys_have_no_gradient():
  q, k, v, bias = _inputs()
  bias = bias.at[:, 2].set(layers.MASKED)

  def total(k, v, bias):
    out = attention.attend(q, k, v, key_bias=bias, kernel="cpu")
    return jnp.sum(out**2)

  *slopes, of_bias = jax.jit(jax.grad(total, (0, 1, 2)))(k, v, bias)
  for slope in slopes:
    assert not np.any(slope[:, :, 2])
  assert not np.any(of_bias[:, 2])


@pytest.fixture
def interpreted(monkeypatch):
  """The TPU kernel in Pallas's interpreter, in several small tiles."""
  monkeypatch.setattr(attention_kernels, "_TILE", 128)
  kernel = functools.partial(attention_kernels.tpu, interpret=True)
  monkeypatch.setitem(attention.KERNELS, "tpu", kernel)


@pytest.mark.slow
@pytest.mark.parametrize("rows", (140, 3))
def test_tpu_kernel(interpreted, rows):
  """Padded tiles, one of them skipped; grouped heads; Q < N."""
  q, k, v, bias = _inputs(rows, 140, heads=2, groups=1, batch=1)
  bias = bias.at[:, 3].set(layers.MASKED)
  sight = {"causal": True, "lengths": np.array([137])}
  got = _attend("tpu", q, k, v, bias, **sight)
  want = _reference(q, k, v, bias, **sight)
  np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)
  got = _attend("tpu", q, k, v)
  np.testing.assert_allclose(got, _reference(q, k, v), rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_tpu_kernel_has_gradients(interpreted):
  inputs = _inputs(140, 140, heads=2, groups=1, batch=1)
  _check_gradients("tpu", inputs, atol=5e-3, causal=True)


def test_tpu_row_without_a_key_is_finite(interpreted):
  q, k, v, _ = _inputs()
  got = _attend("tpu", q, k, v, lengths=np.array([N, 0]))
  assert np.all(np.isfinite(got))


class _FakeCudnn:
  """Stands for `jax.nn.dot_product_attention`: checks what cuDNN checks.

  The rules are those of JAX's `check_layout` and `check_is_flash_attention`
  for a GPU before Hopper; causal rows are aligned with the first keys.
  """

  def __init__(self):
    self.calls = []
    self._attend = jax.nn.dot_product_attention

  def __call__(self, query, key, value, *, bias, implementation, **settings):
    assert implementation == "cudnn"
    assert query.dtype in (jnp.bfloat16, jnp.float16)
    assert query.dtype == key.dtype == value.dtype
    assert key.shape == value.shape and query.shape[3] == key.shape[3]
    assert query.shape[3] % 8 == 0 and query.shape[3] <= 128
    assert query.shape[1] % 2 == 0 and key.shape[1] % 2 == 0
    if bias is not None:
      assert bias.dtype == query.dtype
      assert bias.shape == (B, 1, query.shape[1], key.shape[1])
    lengths = settings["key_value_seq_lengths"]
    assert lengths is None or lengths.dtype == jnp.int32
    self.calls.append((query.shape, None if bias is None else bias.shape))
    # The CPU backend has no float16 products.
    wide = (x.astype(jnp.float32) for x in (query, key, value))
    out = self._attend(*wide, bias=bias, implementation="xla", **settings)
    return out.astype(query.dtype)


@pytest.fixture
def fake_cudnn(monkeypatch):
  fake = _FakeCudnn()
  monkeypatch.setattr(jax.nn, "dot_product_attention", fake)
  return fake


@pytest.mark.slow
@pytest.mark.parametrize(
  "name, rows, width, biased",
  [
    *((name, N, 8, False) for name in SIGHTS),
    *((name, 5, 8, True) for name in SIGHTS),
    *((name, 5, 128, True) for name in SIGHTS),
    ("both", 1, 8, True),
    ("both", 1, 128, True),
    ("both", N, 128, True),
    ("both", 4, 128, False),
  ],
)
def test_cudnn_kernel(fake_cudnn, name, rows, width, biased):
  q, k, v, bias = _inputs(rows, width=width)
  q, k, v = (x.astype(jnp.bfloat16) for x in (q, k, v))
  bias = bias.at[:, 3].set(layers.MASKED) if biased else None
  got = _attend("cudnn", q, k, v, bias, **SIGHTS[name])
  wide = (x.astype(jnp.float32) for x in (q, k, v))
  want = _reference(*wide, bias, **SIGHTS[name])
  np.testing.assert_allclose(got.astype(jnp.float32), want, atol=0.03)
  (_, bias_shape), folded = fake_cudnn.calls[0], biased and width == 8
  assert (bias_shape is not None) == (biased and not folded)
  assert fake_cudnn.calls[0][0][3] == width + 8 * folded


@pytest.mark.slow
@pytest.mark.parametrize("dtype", (jnp.bfloat16, jnp.float16))
@pytest.mark.parametrize("width", (8, 128))
def test_cudnn_gradient_of_the_bias(fake_cudnn, width, dtype):
  q, k, v, bias = _inputs(N, width=width)
  q, k, v = (x.astype(dtype) for x in (q, k, v))
  bias = bias.at[:, 3].set(layers.MASKED)

  def total(bias, kernel, q, k, v):
    out = attention.attend(q, k, v, causal=True, key_bias=bias, kernel=kernel)
    return jnp.sum(out.astype(jnp.float32) ** 2)

  slope = jax.jit(jax.grad(total), static_argnums=1)
  got = slope(bias, "cudnn", q, k, v)
  wide = (x.astype(jnp.float32) for x in (q, k, v))
  want = slope(bias, "cpu", *wide)
  np.testing.assert_allclose(got, want, atol=0.05 * np.abs(want).max())


def test_a_folded_bias_is_exact_in_bfloat16():
  bias = jnp.array([[0.0, np.log(3.0), -17.123456, 1e-3, layers.MASKED]])
  zeros = jnp.zeros((1, 2, 5, 8), jnp.bfloat16)
  q, k = jax.jit(attention_kernels._fold)(zeros, zeros, bias, 8**-0.5)
  assert q.shape[-1] == k.shape[-1] == 16 and k.dtype == jnp.bfloat16
  logits = jnp.einsum(
    "bhqd,bhnd->bhqn", q, k, preferred_element_type=jnp.float32
  )
  logits = logits[0, 0, 0] * 8**-0.5
  np.testing.assert_allclose(logits[:4], bias[0, :4], rtol=1e-6)
  assert np.exp(logits[4]) == 0


def test_row_attention():
  q, k, _, bias = _inputs()
  allowed = _allowed(B, Q, N, causal=True)
  got = attention.row_attention(
    q, k, allowed=jnp.asarray(allowed), key_bias=bias
  )
  want = _probabilities(q, k, bias, allowed).mean(axis=1)
  np.testing.assert_allclose(got, want, atol=1e-6)
  got = attention.row_attention(q, k)
  want = _probabilities(q, k, None, np.ones((B, Q, N), bool)).mean(axis=1)
  np.testing.assert_allclose(got, want, atol=1e-6)


def test_rows_that_tokens_are_ranked_by_are_precise():
  q, k, _, bias = _inputs(N)

  def ranked(q, k):
    order, weights = jnp.asarray(ORDER), jnp.abs(bias)
    received = attention.received(q, k, weights=weights, order=order)
    return attention.row_attention(q, k), received

  assert products.precisions(jax.make_jaxpr(ranked)(q, k)) == {products.HIGHEST}


@pytest.mark.parametrize("chunk", (4, 128))
def test_received(chunk):
  q, k, _, bias = _inputs(N)
  weights = jnp.abs(bias[:, ::-1])
  got = attention.received(
    q,
    k,
    weights=weights,
    order=jnp.asarray(ORDER),
    key_bias=bias,
    chunk=chunk,
  )
  allowed = _allowed(B, N, N, order=ORDER)
  rows = _probabilities(q, k, bias, allowed).mean(axis=1)
  want = np.einsum("bqn,bq->bn", rows, weights)
  np.testing.assert_allclose(got, want, atol=1e-5)
  np.testing.assert_allclose(got.sum(axis=1), weights.sum(axis=1), rtol=1e-5)


def test_received_by_the_last_rows_has_gradients():
  q, k, _, bias = _inputs()
  order, weights = jnp.asarray(ORDER), jnp.ones((B, Q))

  def in_chunks(q, k, bias):
    got = attention.received(
      q, k, weights=weights, order=order, key_bias=bias, chunk=2
    )
    return jnp.sum(got**2)

  def at_once(q, k, bias):
    allowed = order[:, None] <= order[:, N - Q :, None]
    rows = attention.row_attention(q, k, allowed=allowed, key_bias=bias)
    return jnp.sum(jnp.sum(rows, axis=1) ** 2)

  got = jax.jit(jax.grad(in_chunks, (0, 1, 2)))(q, k, bias)
  want = jax.jit(jax.grad(at_once, (0, 1, 2)))(q, k, bias)
  for one, other in zip(got, want, strict=True):
    np.testing.assert_allclose(one, other, atol=1e-5)


def test_received_makes_no_map_of_the_sequence():
  q, k, _, _ = _inputs(2048, 2048, heads=2, groups=1, batch=1)
  order = jnp.arange(2048)[None]

  def total(q):
    got = attention.received(q, k, weights=jnp.ones((1, 2048)), order=order)
    return jnp.sum(got**2)

  memory = jax.jit(jax.grad(total)).lower(q).compile().memory_analysis()
  assert memory.temp_size_in_bytes < 2 * 2048 * 2048 * 4


def test_choice_of_a_kernel():
  assert attention.default_kernel() == "cpu"
  names = ("cpu", "cuda", "gpu", "tpu", "rocm")
  got = [attention.default_kernel(name) for name in names]
  assert got == ["cpu", "cudnn", "cudnn", "tpu", "xla"]
  choose = attention.choose
  assert choose(None, 7, jnp.float32) == "cpu"
  assert choose("cuda", 64, jnp.bfloat16) == "cudnn"
  assert choose("cuda", 64, jnp.float32) == "xla"
  assert choose("cuda", 20, jnp.float16) == "xla"
  assert choose("cuda", 256, jnp.bfloat16) == "xla"
  assert choose("tpu", 80, jnp.float32) == "tpu"
  assert choose("tpu", 80, jnp.float16) == "xla"
  assert choose("tpu", 80, jnp.float32, devices=4) == "xla"
  assert choose("cuda", 64, jnp.bfloat16, devices=4) == "cudnn"


@pytest.mark.parametrize(
  "kernel, settings, match",
  [
    ("gpu", {}, "not one of"),
    ("cudnn", {}, "bfloat16 or float16, not float32"),
    ("tpu", {"order": ORDER}, "sort the rows"),
    ("tpu", {"groups": GROUPS}, "sort the rows"),
    ("cpu", {"query_order": ORDER}, "no meaning"),
  ],
)
def test_refusals(kernel, settings, match):
  q, k, v, _ = _inputs()
  with pytest.raises(ValueError, match=match):
    attention.attend(q, k, v, kernel=kernel, **_arrays(settings))


def test_refused_shapes():
  q, k, v, _ = _inputs(heads=3)
  with pytest.raises(ValueError, match="3 query heads"):
    attention.attend(q, k, v, kernel="cpu")
  q, k, v, _ = _inputs(rows=N, keys=Q)
  with pytest.raises(ValueError, match="cannot be the last"):
    attention.attend(q, k, v, causal=True, kernel="cpu")
  shape = (1, 8, 640, 256)
  reason = attention.supported("cudnn", shape, shape, jnp.bfloat16)
  assert "up to 128, not 256" in reason
