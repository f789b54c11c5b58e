"""Parameters and activations against models and loops."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eos_jax import cost, models

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


@pytest.mark.parametrize("tied", [False, True])
def test_parameters_are_those_of_a_model(tied):
  cfg = models.VLMConfig(
    name="m",
    vision=models.VisionConfig(),
    decoder=models.DecoderConfig(vocab=200, tied=tied),
    projector=256,
    prefix=(1,),
  )
  tree = jax.eval_shape(lambda key: models.init(cfg, key), jax.random.key(0))
  exact = sum(leaf.size for leaf in jax.tree.leaves(tree))
  vision, decoder = cfg.vision, cfg.decoder
  shape = cost.ModelShape(
    *(vision.layers, vision.width, vision.mlp, vision.heads),
    *(3 * vision.patch_size**2, vision.tokens + 1, cfg.projector),
    *(decoder.layers, decoder.width, decoder.heads, decoder.kv_heads),
    *(decoder.head_dim, decoder.mlp, decoder.vocab),
  )
  counted = cost.parameter_count(shape, tied=tied)
  # What is left out are scales and biases of norms and of the encoder.
  assert 0.99 * exact < counted <= exact
  assert cost.parameter_bytes(shape, dtype="int8", tied=tied) == counted


def test_llava_has_seven_billion_parameters():
  shape = cost.ModelShape(
    23, 1024, 4096, 16, 588, 577, 4096, 32, 4096, 32, 32, 128, 11008, 32000
  )
  # Vicuna-7B has 6.738 G; CLIP-L without its last block 0.29, projector 0.02.
  assert cost.parameter_count(shape) == pytest.approx(7.05e9, rel=0.01)
  # Two bytes each fit into the 16 GB of a v5e, four do not.
  fits = cost.DEVICES["tpu_v5e"].memory_bytes
  assert cost.parameter_bytes(shape) < fits
  assert cost.parameter_bytes(shape, dtype="float32") > fits


def _peak(shape, counts, text, rows, attention_map, size, head_positions):
  """The greatest of all moments, one after the other."""
  moments = []
  inner, kv = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
  before = shape.vision_tokens
  for after in rows:
    stream = before * shape.vision_width
    live = (stream + 3 * stream + stream) * size  # q, k, v, context
    if attention_map:
      live += shape.vision_heads * before**2 * (4 + size)
    moments.append(live)
    moments.append(after * (2 * shape.vision_width + shape.vision_mlp) * size)
    before = after
  for visual in counts:
    n = visual + text
    live = n * (shape.width + inner + 2 * kv + inner) * size
    if attention_map:
      live += shape.heads * n**2 * (4 + size)
    moments.append(live)
    moments.append(n * (2 * shape.width + 2 * shape.mlp) * size)
  last = (counts[-1] + text) * shape.width * size
  moments.append(last + head_positions * shape.vocab * 4)
  return max(moments)


@pytest.mark.parametrize("positions", [1, 500])
@pytest.mark.parametrize("dtype, size", [("float32", 4), ("bfloat16", 2)])
@pytest.mark.parametrize("attention_map", [False, True])
@pytest.mark.parametrize(
  "counts, rows",
  [
    ([9, 9, 4, 2], [10, 10, 10]),
    ([2, 2, 2, 2], [10, 4, 3]),  # the encoder is the widest
    ([0, 0, 0, 0], [10, 4, 1]),
  ],
)
def test_the_peak_is_the_greatest_moment(
  counts, rows, attention_map, dtype, size, positions
):
  got = cost.activation_bytes(
    SHAPE,
    counts,
    5,
    rows,
    attention_map=attention_map,
    dtype=dtype,
    head_positions=positions,
    batch=3,
  )
  one = _peak(SHAPE, counts, 5, rows, attention_map, size, positions)
  assert got == 3 * one and isinstance(got, int)
  array = cost.activation_bytes(
    SHAPE,
    jnp.array(counts, jnp.float32),
    5,
    jnp.array(rows, jnp.float32),
    attention_map=attention_map,
    dtype=dtype,
    head_positions=positions,
    batch=3,
  )
  np.testing.assert_allclose(array, got, rtol=1e-6)


def test_the_gradient_is_that_of_the_widest_layer():
  def peak(counts):
    return cost.activation_bytes(
      dataclasses.replace(SHAPE, vision_layers=0),
      counts,
      5,
      attention_map=True,
      dtype="float32",
    )

  counts = jnp.array([90.0, 60.0, 4.0, 2.0])
  grad = jax.grad(peak)(counts)
  assert grad[0] > 0 and not np.any(np.asarray(grad)[1:])


def test_a_fused_kernel_needs_no_map():
  counts = [576] * 4
  fused, full = (
    cost.activation_bytes(SHAPE, counts, 64, attention_map=held)
    for held in (False, True)
  )
  assert full > 10 * fused
