"""Rooflines against loops, and the figures of devices."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eos_jax import cost

LLAVA = cost.ModelShape(
  23, 1024, 4096, 16, 588, 577, 4096, 32, 4096, 32, 32, 128, 11008, 32000
)
# Grouped queries and falling counts.
SMALL = dataclasses.replace(LLAVA, vision_layers=3, layers=4, kv_heads=8)
H100 = cost.DEVICES["h100"]


def _part(device, products, batch, size, weights_move=True):
  """Longer of arithmetic and traffic of products (rows, inputs, outputs)."""
  operations = sum(2 * m * k * n for m, k, n in products) * batch
  traffic = sum(m * (k + n) for m, k, n in products) * batch * size
  if weights_move:
    traffic += sum(k * n for _, k, n in products) * size
  return operations, traffic


def _prefill(device, shape, counts, text, rows, batch, size, dtype):
  peak, bandwidth = device.peak(dtype), device.bytes_per_second

  def longer(*parts):
    operations = sum(part[0] for part in parts)
    traffic = sum(part[1] for part in parts)
    return max(operations / peak, traffic / bandwidth)

  def matmuls(*products):
    return _part(device, products, batch, size)

  def attention(n, inner, kv):
    operations = 4 * n * n * inner * batch
    return operations, n * (2 * inner + 2 * kv) * batch * size

  width, before, total = shape.vision_width, shape.vision_tokens, 0.0
  total += longer(matmuls((before - 1, shape.patch_dim, width)))
  for after in rows:
    total += longer(
      matmuls((before, width, 3 * width), (before, width, width)),
      attention(before, width, width),
      matmuls(
        (after, width, shape.vision_mlp), (after, shape.vision_mlp, width)
      ),
    )
    before = after
  hidden = shape.projector_hidden
  total += longer(
    matmuls((before - 1, width, hidden), (before - 1, hidden, shape.width))
  )
  inner, kv = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
  for visual in counts:
    n = visual + text
    # silu(gate) up is formed while `down` reads the two.
    both = _part(device, [(n, shape.width, 2 * shape.mlp)], batch, size)
    down = _part(device, [(n, shape.mlp, shape.width)], batch, size)
    down = down[0], down[1] + n * shape.mlp * batch * size
    total += longer(
      matmuls((n, shape.width, inner + 2 * kv), (n, inner, shape.width)),
      attention(n, inner, kv),
      both,
      down,
    )
  return total + longer(matmuls((1, shape.width, shape.vocab)))


@pytest.mark.parametrize("batch", [1, 16])
@pytest.mark.parametrize("name", sorted(cost.DEVICES))
def test_prefill_equals_the_loop(name, batch):
  device, counts, rows = cost.DEVICES[name], [300, 300, 40, 4], [577, 401, 301]
  got = cost.prefill_seconds(device, SMALL, counts, 40, rows, batch=batch)
  loop = _prefill(device, SMALL, counts, 40, rows, batch, 2, "bfloat16")
  assert got == pytest.approx(loop, rel=1e-12)
  array = cost.prefill_seconds(
    device,
    SMALL,
    jnp.array(counts, jnp.float32),
    40,
    jnp.array(rows, jnp.float32),
    batch=batch,
  )
  np.testing.assert_allclose(array, got, rtol=1e-5)


def test_decoding_equals_the_loop():
  counts, text, batch = [300, 300, 40, 4], 40, 4
  inner, kv = 32 * 128, 8 * 128
  total = 0.0
  for visual in counts:
    length = visual + text
    weights = 4096 * (2 * inner + 2 * kv) + 3 * 4096 * 11008
    operations = 2 * weights + 4 * inner * (length + 1)
    moved = 4096 + (inner + 2 * kv) + (inner + 2 * kv) + inner  # q k v, context
    moved += inner + 4096 + 4096 + 2 * 11008 + 2 * 11008 + 4096
    traffic = weights + batch * (moved + 2 * kv * length)
    total += max(
      batch * operations / H100.peak("bfloat16"),
      2 * traffic / H100.bytes_per_second,
    )
  head = 4096 * 32000
  total += max(
    2 * batch * head / H100.peak("bfloat16"),
    2 * (head + batch * (4096 + 32000)) / H100.bytes_per_second,
  )
  got = cost.decode_seconds(H100, SMALL, counts, text, batch=batch)
  assert got == pytest.approx(total, rel=1e-12)
  array = cost.decode_seconds(H100, SMALL, jnp.array(counts), text, batch=batch)
  np.testing.assert_allclose(array, got, rtol=1e-5)


def test_a_narrow_cache_saves_time_where_it_is_long():
  args = H100, LLAVA, [2880] * 32, 64
  full = cost.decode_seconds(*args, batch=16)
  assert cost.decode_seconds(*args, batch=16, cache_dtype="int8") < 0.8 * full


def test_llava_is_between_the_bounds_and_what_was_measured():
  # 58 ms on an A100 (312 TFLOP/s; SparseVLM, Table 1) would be at least 18 ms
  # on an H100; a lower bound lies below that.
  full = cost.prefill_seconds(H100, LLAVA, [576] * 32, 64)
  flops = cost.prefill_flops(LLAVA, [576] * 32, 64)
  assert flops / H100.peak("bfloat16") <= full < 0.018
  # Decoding hardly moves with the picture: the weights bind it.
  slow, fast = (
    cost.decode_seconds(H100, LLAVA, [n] * 32, 64) for n in (576, 64)
  )
  assert 1 < slow / fast < 1.05


def test_operators_add_their_time_at_the_peak_rate():
  base = cost.prefill_seconds(H100, SMALL, [64] * 4, 40, batch=2)
  more = cost.prefill_seconds(
    H100, SMALL, [64] * 4, 40, batch=2, operator_flops=10**12
  )
  assert more - base == pytest.approx(2e12 / H100.peak("bfloat16"))


def test_gradient_follows_what_binds():
  def at(counts, batch):
    return cost.prefill_seconds(H100, LLAVA, counts, 0, batch=batch)

  few = jax.grad(at)(jnp.full(32, 8.0), 1)
  # The weights bind a layer; a token only adds its own traffic.
  values = 12 * 4096 + 4 * 11008
  np.testing.assert_allclose(few, 2 * values / 3.35e12, rtol=1e-4)
  many = jax.grad(at)(jnp.full(32, 576.0), 1)
  step = jnp.zeros(32).at[3].set(1.0)
  exact = [
    cost.prefill_seconds(
      H100, LLAVA, [576 + sign * (layer == 3) for layer in range(32)], 0
    )
    for sign in (1, -1)
  ]
  slope = float(many @ step)
  assert slope == pytest.approx((exact[0] - exact[1]) / 2, rel=1e-4)
  assert np.all(np.asarray(many) > 5 * np.asarray(few))


def test_devices_are_complete_and_say_where_from():
  assert len(cost.DEVICES) >= 6
  for name, device in cost.DEVICES.items():
    assert device.name == name and device.source
    assert device.peak("bfloat16") > 1e14
    assert 100 < device.ridge("bfloat16") < 1000
    assert device.memory_bytes >= 16e9
    assert hash(device) == hash(dataclasses.replace(device))


def test_an_unknown_rate_is_named():
  with pytest.raises(ValueError, match="no rate for dtype 'float32'"):
    cost.prefill_seconds(H100, LLAVA, [576] * 32, 64, dtype="float32")


def test_rates_cannot_be_changed_by_accident():
  with pytest.raises(TypeError):
    H100.flops_per_second["bfloat16"] = 1.0
