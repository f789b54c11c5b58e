"""FLOPs against XLA's own count of compiled blocks.

XLA also counts element-wise work, so blocks here are wide and sequences short.
Nothing is run: shapes are compiled.
"""

import dataclasses

import jax
import jax.numpy as jnp
import pytest

from eos_jax import cost, ops
from eos_jax.models import blocks, config

TOLERANCE = 0.02
SHAPE = cost.ModelShape(
  vision_layers=1,
  vision_width=384,
  vision_mlp=1536,
  vision_heads=6,
  patch_dim=588,
  vision_tokens=50,
  projector_hidden=1024,
  layers=1,
  width=512,
  heads=8,
  kv_heads=2,
  head_dim=64,
  mlp=1024,
  vocab=2000,
)
MHA = dataclasses.replace(SHAPE, kv_heads=8, mlp=1376)
NARROW_HEADS = dataclasses.replace(
  SHAPE, width=384, heads=4, kv_heads=1, head_dim=32, mlp=1536
)


def array(*shape, dtype="float32"):
  return jax.ShapeDtypeStruct(shape, dtype)


def decoder_block(shape):
  """A block as a function of (parameters, x), and its parameters' shapes."""
  block = blocks.DecoderBlock(
    config.DecoderConfig(
      vocab=shape.vocab,
      width=shape.width,
      heads=shape.heads,
      kv_heads=shape.kv_heads,
      head_dim=shape.head_dim,
      mlp=shape.mlp,
    )
  )

  positions = lambda x: jnp.arange(x.shape[1], dtype=jnp.int32)[None]
  init = lambda x: block.init(jax.random.key(0), x, positions(x))
  return (
    lambda params, x: block.apply(params, x, positions(x)),
    jax.eval_shape(init, array(1, 2, shape.width)),
  )


def vision_block(shape):
  """The same for a block of the encoder."""
  block = blocks.VisionBlock(
    config.VisionConfig(
      width=shape.vision_width, heads=shape.vision_heads, mlp=shape.vision_mlp
    )
  )
  init = lambda x: block.init(jax.random.key(0), x)
  return block.apply, jax.eval_shape(init, array(1, 2, shape.vision_width))


def _decoder(shape, counts, text, positions, tied=False):
  """Layers of given lengths, each on the first rows of the one before."""
  run, params = decoder_block(shape)

  def prefill(params, head, x):
    for layer, visual in zip(params, counts, strict=True):
      x = run(layer, x[:, : visual + text])
    return x[:, -positions:] @ (head.T if tied else head)

  sizes = (shape.vocab, shape.width) if tied else (shape.width, shape.vocab)
  shape = dataclasses.replace(shape, layers=len(counts))
  ours = cost.decoder_flops(shape, counts, text, head_positions=positions)
  x = array(1, counts[0] + text, shape.width)
  return prefill, ([params] * len(counts), array(*sizes), x), ours


def _encoder(shape):
  run, params = vision_block(shape)
  width = shape.vision_width

  def encode(params, patch, first, second, image):
    x = jnp.pad(image @ patch, ((0, 0), (1, 0), (0, 0)))
    x = run(params, x)[:, 1:]
    return (x @ first if second is None else (x @ first) @ second,)

  hidden = shape.projector_hidden
  matrices = (
    array(width, hidden or shape.width),
    (array(hidden, shape.width) if hidden else None),
  )
  image = array(1, shape.vision_tokens - 1, shape.patch_dim)
  args = params, array(shape.patch_dim, width), *matrices, image
  return encode, args, cost.vision_flops(shape)


def _decode(shape, visual, text):
  """One token against a cache, a layer and the head written out."""
  heads, groups, depth = shape.heads, shape.kv_heads, shape.head_dim

  def step(x, keys, values, w, head):
    q = (x @ w["q"]).reshape(groups, heads // groups, depth)
    k, v = ((x @ w[n]).reshape(groups, 1, depth) for n in ("k", "v"))
    keys = jnp.concatenate([keys, k], axis=1)
    values = jnp.concatenate([values, v], axis=1)
    scores = jax.nn.softmax(jnp.einsum("ghd,gnd->ghn", q, keys))
    mixed = jnp.einsum("ghn,gnd->ghd", scores, values)
    x = x + mixed.reshape(1, -1) @ w["out"]
    x = x + (jax.nn.silu(x @ w["gate"]) * (x @ w["up"])) @ w["down"]
    return x @ head

  inner, kv = heads * depth, groups * depth
  sizes = {
    **{"q": (shape.width, inner), "out": (inner, shape.width)},
    **{name: (shape.width, kv) for name in ("k", "v")},
    **{name: (shape.width, shape.mlp) for name in ("gate", "up")},
    "down": (shape.mlp, shape.width),
  }
  cache = array(groups, visual + text, depth)
  args = (
    array(1, shape.width),
    cache,
    cache,
    {name: array(*size) for name, size in sizes.items()},
    array(shape.width, shape.vocab),
  )
  return step, args, cost.decode_flops(shape, [visual], text)


def _operator(shape, spec, before, keep, text):
  """The stages of an operator, and the rows of attention that it reads."""
  wanted = ops.required_signals(spec)
  heads, groups, depth = shape.heads, shape.kv_heads, shape.head_dim
  queries = {"last_row": 1, "text_rows": text, "last_row_previous": 1}

  def reduce(hidden, cached, w_q, w_k, class_row, vision_keys):
    x, rows = hidden[:before], {}
    for name in set(wanted) & set(queries):
      keys = cached if name == "last_row_previous" else hidden @ w_k
      number = queries[name]
      q = hidden[-number:] @ w_q
      logits = jnp.einsum(
        "rghd,ngd->ghrn",
        q.reshape(number, groups, heads // groups, depth),
        keys.reshape(-1, groups, depth),
      )
      rows[name] = jnp.mean(jax.nn.softmax(logits), (0, 1, 2))[:before]
    if "keys" in wanted:
      rows["keys"] = jnp.mean((x @ w_k).reshape(before, groups, depth), 1)
    signals = ops.Signals(class_row=class_row, vision_keys=vision_keys, **rows)
    out = ops.reduce_hard(
      ops.token_set(x), signals, spec.params(), spec=spec, keep=keep
    )
    return out.tokens.x

  vision_head = shape.vision_width // shape.vision_heads
  kv = groups * depth
  args = (
    array(before + text, shape.width),
    array(before + text, kv),
    array(shape.width, heads * depth),
    array(shape.width, kv),
    array(before),
    array(before, vision_head),
  )
  ours = cost.operator_flops(shape, spec, before, keep, text, site="decoder.1")
  return reduce, args, ours


PRESETS = ops.presets
# Wide, and as many tokens as features: V D next to V^2 D is what costs here.
WIDE = dataclasses.replace(SHAPE, width=1024, heads=16)
TOKENS = 384

CASES = {
  "grouped queries, one layer": lambda: _decoder(SHAPE, [40], 8, 1),
  "as many key heads as query heads": lambda: _decoder(MHA, [24], 12, 12),
  "narrow heads, falling counts": lambda: _decoder(
    NARROW_HEADS, [32, 16, 4], 5, 1
  ),
  "all positions of the text, tied head": lambda: _decoder(
    SHAPE, [32, 32], 9, 9, tied=True
  ),
  "no visual token left": lambda: _decoder(MHA, [16, 0], 16, 1),
  "encoder, two-layer projector": lambda: _encoder(SHAPE),
  "encoder, one-layer projector": lambda: _encoder(
    dataclasses.replace(SHAPE, projector_hidden=0, vision_tokens=37)
  ),
  "decoding, grouped queries": lambda: _decode(SHAPE, 100, 20),
  "decoding, as many key heads": lambda: _decode(MHA, 30, 6),
  "operator: merge": lambda: _operator(WIDE, PRESETS.MERGE, TOKENS, 128, 0),
  "operator: diversity by cosine": lambda: _operator(
    WIDE, PRESETS.PRUNE, TOKENS, 32, 0
  ),
  "operator: row of the coming layer": lambda: _operator(
    SHAPE, PRESETS.PYRAMIDDROP, 96, 48, 16
  ),
  "operator: row of the layer before": lambda: _operator(
    SHAPE, PRESETS.FASTV, 16, 4, 4
  ),
  "operator: rows of all text": lambda: _operator(
    SHAPE,
    PRESETS.PRUNE.replace(scores=("text_rows",), pi=(1.0,)),
    96,
    48,
    24,
  ),
  "operator: matching by keys": lambda: _operator(
    WIDE,
    PRESETS.TOME.replace(protect=0),
    TOKENS,
    256,
    0,
  ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_matmuls_are_what_xla_counts(name):
  function, args, ours = CASES[name]()
  compiled = jax.jit(function).lower(*args).compile()
  theirs = compiled.cost_analysis()["flops"]
  assert isinstance(ours, int)
  assert abs(ours / theirs - 1) <= TOLERANCE, (ours, theirs)
