"""Latency by the roofline of a device: a lower bound, not a measurement.

Each part of the model takes the longer of its arithmetic at the peak rate and
its memory traffic at the full bandwidth; parts run one after the other. Traffic
is the weights once, and for each product its inputs and its result once:
element-wise work is fused into its neighbours, and the scores of attention
never leave the chip. Overheads of launching, collectives between chips and
sampling are not counted. For what a device really does see `LatencyTable`.
"""

import jax.numpy as jnp

from eos_jax.array_typing import Array, Float, Scalar
from eos_jax.cost import devices, dtypes, flops, kv_cache, memory


def _seconds(device, dtype, operations, traffic):
  """Sum over parts of the longer of arithmetic and traffic.

  FLOPs and bytes are two lists, or two arrays.
  """
  peak, bandwidth = device.peak(dtype), device.bytes_per_second
  if isinstance(operations, list):
    return sum(
      max(operation / peak, moved / bandwidth)
      for operation, moved in zip(operations, traffic, strict=True)
    )
  return jnp.sum(jnp.maximum(operations / peak, traffic / bandwidth))


def _plus(values, other):
  """Adds a number, or another list or array, entry by entry."""
  if not isinstance(values, list):
    return values + (float(other) if isinstance(other, int) else other)
  others = other if isinstance(other, list) else [other] * len(values)
  return [a + b for a, b in zip(values, others, strict=True)]


def _decoder_values(shape):
  """Numbers that a token moves through memory in a decoder layer."""
  inner, kv = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
  # Projections, attention, output projection; gate and up, down.
  attention = (shape.width + inner + 2 * kv) + (2 * inner + 2 * kv)
  return attention + (inner + shape.width) + 2 * shape.width + 4 * shape.mlp


def prefill_seconds(
  device: devices.Device,
  shape: flops.ModelShape,
  visual_counts: flops.Counts,
  text_tokens: Scalar,
  vision_counts: flops.VisionCounts | None = None,
  *,
  batch: int = 1,
  dtype: str = "bfloat16",
  head_positions: int = 1,
  operator_flops: Scalar = 0,
) -> float | Float[Array, ""]:
  """Least time from pixels to the first answer token on one chip, seconds.

  Args:
    device: the chip.
    shape: sizes of the model.
    visual_counts: [L] visual tokens entering each decoder layer.
    text_tokens: [] all other tokens of the sequence.
    vision_counts: [E] rows leaving each encoder block, None for an unreduced
      encoder.
    batch: sequences at once.
    dtype: of weights and activations, and which peak rate counts.
    head_positions: positions whose logits are computed.
    operator_flops: [] FLOPs of the operators for one picture, added at the peak
      rate (`plan_operator_flops`).

  Returns:
    [] seconds: a float for integer counts, else float32 and differentiable
    almost everywhere; a layer that is bound by its weights only feels the
    traffic of its activations.

  >>> shape = flops.ModelShape(23, 1024, 4096, 16, 588, 577, 4096, 32, 4096, 32,
  ...                          32, 128, 11008, 32064)
  >>> full = prefill_seconds(devices.H100_SXM, shape, [576] * 32, 64)
  >>> cut = prefill_seconds(devices.H100_SXM, shape, [64] * 32, 64)
  >>> round(1e3 * full, 1), round(1e3 * cut, 1)
  (9.1, 4.6)
  """
  total = decoder_seconds(
    device,
    shape,
    visual_counts,
    text_tokens,
    batch=batch,
    dtype=dtype,
    head_positions=head_positions,
    operator_flops=operator_flops,
  )
  number = dtypes.bytes_of(dtype)
  before, after = flops.vision_lengths(shape, vision_counts)
  width, mlp, tiles = shape.vision_width, shape.vision_mlp, batch * shape.crops
  if shape.vision_layers:
    operations = _plus(
      flops.per_layer(before, tiles * 4 * width, tiles * 8 * width * width),
      flops.per_layer(after, 0, tiles * 4 * width * mlp),
    )
    traffic = _plus(
      flops.per_layer(before, 0, tiles * number * 10 * width),
      flops.per_layer(after, 0, tiles * number * 2 * (width + mlp)),
    )
    weights = number * memory.vision_layer_parameters(shape)
    total += _seconds(device, dtype, operations, _plus(traffic, weights))
  patches = shape.vision_tokens - shape.class_tokens
  hidden = shape.projector_hidden
  # How many at once, row counts, inputs, outputs and weights of the single
  # products.
  for many, rows, moved, weights in (
    (tiles, [patches], shape.patch_dim + width, shape.patch_dim * width),
    (
      tiles,
      flops.projected_rows(shape, after),
      width * shape.merge**2 + 2 * hidden + shape.width,
      flops.projector_weights(shape),
    ),
  ):
    total += _seconds(
      device,
      dtype,
      flops.per_layer(rows, 0, many * 2 * weights),
      _plus(flops.per_layer(rows, 0, many * number * moved), number * weights),
    )
  return total


def decoder_seconds(
  device: devices.Device,
  shape: flops.ModelShape,
  visual_counts: flops.Counts,
  text_tokens: Scalar,
  *,
  batch: int = 1,
  dtype: str = "bfloat16",
  head_positions: int = 1,
  operator_flops: Scalar = 0,
) -> float | Float[Array, ""]:
  """`prefill_seconds` of the decoder layers and the output head alone.

  Args:
    device: the chip.
    shape: sizes of the model.
    visual_counts: [L] visual tokens entering each decoder layer.
    text_tokens: [] all other tokens of the sequence.
    batch: sequences at once.
    dtype: of weights and activations, and which peak rate counts.
    head_positions: positions whose logits are computed.
    operator_flops: [] FLOPs of the operators for one picture, added at the peak
      rate.

  Returns:
    [] seconds, as `prefill_seconds` does.
  """
  number = dtypes.bytes_of(dtype)
  lengths = flops.with_text(visual_counts, text_tokens)
  square, linear = flops.decoder_coefficients(shape)
  total = _seconds(
    device,
    dtype,
    flops.per_layer(lengths, batch * square, batch * linear),
    _plus(
      flops.per_layer(lengths, 0, batch * number * _decoder_values(shape)),
      number * memory.decoder_layer_parameters(shape),
    ),
  )
  head, moved = shape.width * shape.vocab, shape.width + shape.vocab
  total += _seconds(
    device,
    dtype,
    [batch * head_positions * 2 * head],
    [number * (batch * head_positions * moved + head)],
  )
  return total + batch * operator_flops / device.peak(dtype)


def decode_seconds(
  device: devices.Device,
  shape: flops.ModelShape,
  cache_counts: flops.Counts,
  text_tokens: Scalar,
  *,
  batch: int = 1,
  dtype: str = "bfloat16",
  cache_dtype: str | None = None,
) -> float | Float[Array, ""]:
  """Least time of one generated token for each sequence of a batch, seconds.

  Args:
    device: the chip.
    shape: sizes of the model.
    cache_counts: [L] visual tokens that each layer has cached.
    text_tokens: [] all other cached tokens of a sequence.
    batch: sequences at once.
    dtype: of weights and activations, and which peak rate counts.
    cache_dtype: of the cache, None is `dtype`.

  Returns:
    [] seconds: a float for integer counts, else float32 and differentiable
    almost everywhere.

  >>> shape = flops.ModelShape(23, 1024, 4096, 16, 588, 577, 4096, 32, 4096, 32,
  ...                          32, 128, 11008, 32064)
  >>> times = [decode_seconds(devices.H100_SXM, shape, [n] * 32, 64)
  ...          for n in (576, 64)]
  >>> [round(1e3 * time, 2) for time in times]  # the weights decide
  [4.05, 3.97]
  """
  number = dtypes.bytes_of(dtype)
  square, linear = flops.decoder_coefficients(shape)
  lengths = flops.with_text(cache_counts, text_tokens)
  operations = _plus(
    flops.per_layer(lengths, 0, batch * square), batch * (square + linear)
  )
  cached = kv_cache.kv_cache_bytes_by_layer(
    shape, cache_counts, text_tokens, dtype=cache_dtype or dtype
  )
  if isinstance(cached, tuple):
    cached = [batch * entry for entry in cached]
  else:
    cached = batch * cached
  alone = memory.decoder_layer_parameters(shape) + batch * _decoder_values(
    shape
  )
  total = _seconds(device, dtype, operations, _plus(cached, number * alone))
  head = shape.width * shape.vocab
  return total + _seconds(
    device,
    dtype,
    [2 * batch * head],
    [number * (head + batch * (shape.width + shape.vocab))],
  )
