"""FLOPs and cache bytes against loops over matrix products."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eos_jax import cost

SHAPE = cost.ModelShape(
  vision_layers=3,
  vision_width=8,
  vision_mlp=16,
  vision_heads=2,
  patch_dim=12,
  vision_tokens=10,
  projector_hidden=20,
  layers=4,
  width=24,
  heads=6,
  kv_heads=2,
  head_dim=4,
  mlp=40,
  vocab=50,
)
# LLaVA-1.5-7B: hidden 4096, MLP 11008, 32 layers and heads.
LLAVA = cost.ModelShape(
  23, 1024, 4096, 16, 588, 577, 4096, 32, 4096, 32, 32, 128, 11008, 32000
)


def _product(m, k, n):
  return 2 * m * k * n


def _decoder(shape, counts, text, head_positions=1):
  total = 0
  for visual in counts:
    n = visual + text
    total += _product(n, shape.width, shape.heads * shape.head_dim)  # q
    for _ in range(2):  # k, v
      total += _product(n, shape.width, shape.kv_heads * shape.head_dim)
    for _ in range(shape.heads):
      total += _product(n, shape.head_dim, n)  # scores
      total += _product(n, n, shape.head_dim)  # values
    total += _product(n, shape.heads * shape.head_dim, shape.width)  # o
    for _ in range(2):  # gate, up
      total += _product(n, shape.width, shape.mlp)
    total += _product(n, shape.mlp, shape.width)
  return total + _product(head_positions, shape.width, shape.vocab)


def _vision(shape, counts):
  w, head = shape.vision_width, shape.vision_width // shape.vision_heads
  total = _product(shape.vision_tokens - 1, shape.patch_dim, w)
  before = shape.vision_tokens
  for after in counts:
    total += 4 * _product(before, w, w)
    for _ in range(shape.vision_heads):
      total += _product(before, head, before) + _product(before, before, head)
    total += _product(after, w, shape.vision_mlp)
    total += _product(after, shape.vision_mlp, w)
    before = after
  out = before - 1
  if shape.projector_hidden:
    total += _product(out, w, shape.projector_hidden)
    return total + _product(out, shape.projector_hidden, shape.width)
  return total + _product(out, w, shape.width)


@pytest.mark.parametrize("positions", [1, 7])
def test_decoder_equals_the_loop(positions):
  counts = [9, 9, 4, 2]
  got = cost.decoder_flops(SHAPE, counts, 5, head_positions=positions)
  assert got == _decoder(SHAPE, counts, 5, positions)
  assert isinstance(got, int)


@pytest.mark.parametrize("counts", [[10, 10, 10], [8, 6, 5]])
@pytest.mark.parametrize("hidden", [0, 20])
def test_vision_equals_the_loop(counts, hidden):
  shape = dataclasses.replace(SHAPE, projector_hidden=hidden)
  assert cost.vision_flops(shape, counts) == _vision(shape, counts)


def test_an_unreduced_encoder_is_the_default():
  full = cost.prefill_flops(SHAPE, [9] * 4, 5)
  assert full == cost.prefill_flops(SHAPE, [9] * 4, 5, [10, 10, 10])
  assert full == _decoder(SHAPE, [9] * 4, 5) + _vision(SHAPE, [10] * 3)


def test_llava_magnitude():
  # About 2 x 6.5 G weights x tokens in the decoder, plus the attention.
  total = cost.decoder_flops(LLAVA, [576] * 32, 64)
  assert total == pytest.approx(2 * 6.476e9 * 640, rel=0.05)
  # The proxy of published tables (visual tokens alone, multiply-adds).
  proxy = (cost.decoder_flops(LLAVA, [576] * 32, 0, head_positions=0)) / 2
  assert proxy == pytest.approx(3.817e12, rel=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.int32])
def test_arrays_equal_integers(dtype):
  counts, vision = [9, 7, 4, 2], [8, 6, 5]
  exact = cost.prefill_flops(SHAPE, counts, 5, vision)
  got = cost.prefill_flops(
    SHAPE,
    jnp.array(counts, dtype),
    jnp.asarray(5, dtype),
    jnp.array(vision, dtype),
  )
  assert got.dtype == jnp.float32
  np.testing.assert_allclose(got, exact, rtol=1e-6)
  big = cost.prefill_flops(LLAVA, jnp.full(32, 576, dtype), 64)
  np.testing.assert_allclose(
    big, cost.prefill_flops(LLAVA, [576] * 32, 64), rtol=1e-5
  )


@pytest.mark.slow
def test_derivative_in_counts():
  f = lambda c, v: cost.prefill_flops(SHAPE, c, 5.0, v)
  counts, vision = jnp.array([9.0, 7, 4, 2]), jnp.array([8.0, 6, 5])
  grads = jax.grad(f, (0, 1))(counts, vision)
  for i, (args, grad) in enumerate(zip((counts, vision), grads, strict=True)):
    for j in range(len(args)):

      def at(step, i=i, j=j):
        both = [list(map(int, counts)), list(map(int, vision))]
        both[i][j] += step
        return cost.prefill_flops(SHAPE, both[0], 5, both[1])

      # Quadratic, so the central difference is exact.
      np.testing.assert_allclose(grad[j], (at(1) - at(-1)) / 2, rtol=1e-5)


def test_cache_bytes():
  counts = [9, 9, 4, 2]
  expected = sum(2 * 2 * 4 * 2 * (n + 5) for n in counts)
  assert cost.kv_cache_bytes(SHAPE, counts, 5) == expected
  four = cost.kv_cache_bytes(SHAPE, counts, 5, dtype="float32")
  assert four == 2 * expected
  grad = jax.grad(lambda c: cost.kv_cache_bytes(SHAPE, c, 5.0))(
    jnp.array(counts, jnp.float32)
  )
  np.testing.assert_allclose(grad, 32)


def _decode(shape, counts, text):
  total, inner = 0, shape.heads * shape.head_dim
  for visual in counts:
    total += 2 * _product(1, shape.width, inner)  # q, o
    total += 2 * _product(1, shape.width, shape.kv_heads * shape.head_dim)
    for _ in range(shape.heads):
      total += _product(1, shape.head_dim, visual + text + 1)
      total += _product(1, visual + text + 1, shape.head_dim)
    total += 2 * _product(1, shape.width, shape.mlp)
    total += _product(1, shape.mlp, shape.width)
  return total + _product(1, shape.width, shape.vocab)


def test_decoding_equals_the_loop():
  counts = [9, 9, 4, 2]
  got = cost.decode_flops(SHAPE, counts, 5)
  assert got == _decode(SHAPE, counts, 5) and isinstance(got, int)
  array = cost.decode_flops(SHAPE, jnp.array(counts, jnp.float32), 5.0)
  np.testing.assert_allclose(array, got, rtol=1e-6)
  grad = jax.grad(lambda c: cost.decode_flops(SHAPE, c, 5))(
    jnp.array(counts, jnp.float32)
  )
  # Scores and values of all heads against one more entry.
  np.testing.assert_allclose(grad, 4 * SHAPE.heads * SHAPE.head_dim)


def test_decoding_from_nothing_is_a_prefill_of_one_token():
  one = cost.decode_flops(LLAVA, [0] * 32, 0)
  assert one == cost.decoder_flops(LLAVA, [0] * 32, 1)


@pytest.mark.parametrize(
  "dtype, size",
  [
    ("float32", 4),
    ("bfloat16", 2),
    ("float16", 2),
    ("int8", 1),
    ("float8_e4m3fn", 1),
  ],
)
def test_cache_bytes_by_layer_and_dtype(dtype, size):
  counts = [9, 9, 4, 2]
  layers = cost.kv_cache_bytes_by_layer(SHAPE, counts, 5, dtype=dtype)
  assert layers == tuple(2 * 2 * 4 * size * (n + 5) for n in counts)
  total = cost.kv_cache_bytes(SHAPE, counts, 5, dtype=dtype)
  assert total == sum(layers)
  array = cost.kv_cache_bytes_by_layer(
    SHAPE, jnp.array(counts), jnp.int32(5), dtype=dtype
  )
  np.testing.assert_allclose(array, layers)


def test_cache_of_llava_is_what_papers_print():
  # SparseVLM's Table 1: 302.4 MB at 576 tokens, 100.8 at 192 (MiB: 288, 96).
  for tokens, megabytes in ((576, 302.0), (192, 100.7)):
    got = cost.kv_cache_bytes(LLAVA, [tokens] * 32, 0)
    assert got / 1e6 == pytest.approx(megabytes, abs=0.1)


def test_an_unknown_dtype_is_named():
  with pytest.raises(ValueError, match="dtype is 'float64', use one of"):
    cost.kv_cache_bytes(SHAPE, [9], 5, dtype="float64")


def test_an_encoder_without_blocks_takes_arrays_too():
  shape = dataclasses.replace(SHAPE, vision_layers=0)
  got = cost.vision_flops(shape, jnp.zeros(0))
  np.testing.assert_allclose(got, cost.vision_flops(shape), rtol=1e-6)
