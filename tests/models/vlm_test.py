import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eos_jax import models, ops
from tests.models import small

CFG = small.config()


def _plan(*sites):
  return ops.ReductionPlan(
    name="test",
    model="small",
    tokens=16,
    layers=3,
    sites=tuple(ops.PlannedSite(*site) for site in sites),
  )


def _soft(keep, *, hard, sites=("decoder.0", "decoder.1"), spec=None):
  spec = spec or ops.presets.HYBRID
  count = len(sites)
  return models.SoftReduction(
    params=jax.tree.map(
      lambda leaf: jnp.broadcast_to(leaf, (count, *leaf.shape)), spec.params()
    ),
    temperature=jnp.float32(1e-3),
    keep=jnp.asarray(keep, jnp.float32),
    sites=tuple(sites),
    spec=spec,
    hard=hard,
  )


def test_parameters_are_plain_dicts_with_stacked_blocks():
  tree = jax.eval_shape(lambda key: models.init(CFG, key), jax.random.key(0))
  assert set(tree) == {"vision", "projector", "decoder"}
  kernel = tree["decoder"]["blocks"]["q"]["kernel"]
  assert kernel.shape == (3, 16, 16)
  assert all(type(v) is dict for v in tree.values())


def test_full_size_shapes():
  cfg = models.llava_1_5_7b()
  tree = jax.eval_shape(lambda key: models.init(cfg, key), jax.random.key(0))
  count = sum(leaf.size for leaf in jax.tree.leaves(tree["decoder"]))
  # Llama-7B: 6.74 G weights and the 64 ids that LLaVA adds to both tables.
  assert count == 6_738_415_616 + 2 * 64 * 4096
  assert cfg.vision.tokens == 576


@pytest.mark.slow
def test_the_text_is_causal():
  params, image = small.params(CFG), small.pictures(1)
  text = small.text(1)

  def score(embedding):
    tree = {**params, "decoder": {**params["decoder"], "embed": embedding}}
    return small.apply(CFG, tree, image, text).logits[0, 2].sum()

  gradient = jax.jit(jax.grad(score))(params["decoder"]["embed"])
  later = [int(t) for t in text.tokens[0, 3:]]
  earlier = {int(t) for t in text.tokens[0, :3]} | set(CFG.prefix)
  unseen = [t for t in later if t not in earlier]
  assert unseen
  np.testing.assert_array_equal(gradient[np.array(unseen)], 0.0)
  assert np.abs(gradient[text.tokens[0, 1]]).max() > 0


@pytest.mark.slow
def test_padding_behind_the_text_changes_nothing():
  params, image = small.params(CFG), small.pictures(2)
  text = small.text(2, length=5)
  longer = models.Text(
    tokens=jnp.pad(text.tokens, ((0, 0), (0, 3)), constant_values=9),
    mask=jnp.pad(text.mask, ((0, 0), (0, 3))),
    prompt_length=text.prompt_length,
  )
  short = small.apply(CFG, params, image, text).logits
  padded = small.apply(CFG, params, image, longer).logits[:, :5]
  # Logits are of the order of 10: float32 sums in another order.
  np.testing.assert_allclose(short, padded, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_packed_questions_equal_separate_ones():
  params, image = small.params(CFG), small.pictures(1)
  first, second = small.text(1, length=4), small.text(1, length=3, seed=7)
  packed = models.Text(
    tokens=jnp.concatenate([first.tokens, second.tokens], axis=1),
    mask=jnp.ones((1, 7), bool),
    segments=jnp.array([[1, 1, 1, 1, 2, 2, 2]]),
    offsets=jnp.array([[0, 1, 2, 3, 0, 1, 2]]),
  )
  together = small.apply(CFG, params, image, packed).logits
  for text, part in ((first, together[:, :4]), (second, together[:, 4:])):
    alone = small.apply(CFG, params, image, text).logits
    np.testing.assert_allclose(alone, part, rtol=1e-4, atol=1e-5)


@pytest.mark.full  # the presets of runtime_test are in the short run
@pytest.mark.parametrize("name", ["dense", "prune", "merge_proportional"])
def test_cached_decoding_equals_uncached(name):
  params, image = small.params(CFG), small.pictures(3)
  text = small.text(3, length=6)
  mask = jnp.arange(6)[None] < jnp.array([6, 4, 5])[:, None]
  prompt = models.Text(text.tokens, mask, jnp.sum(mask, axis=1))
  plan = None
  if name != "dense":
    spec = ops.PRESETS[name]
    plan = _plan(("decoder.0", 9, spec), ("decoder.2", 4, spec))
  answer = small.generate(CFG, params, image, prompt, plan, steps=5, stop=())
  # Without a cache: the whole text again for every token, padded to one shape.
  tokens, mask = np.zeros((3, 12), int), np.zeros((3, 12), bool)
  tokens[:, :6], mask[:, :6] = text.tokens, prompt.mask
  lengths = np.array(prompt.prompt_length)
  for position in range(5):
    whole = models.Text(
      jnp.asarray(tokens), jnp.asarray(mask), prompt.prompt_length
    )
    logits = small.apply(CFG, params, image, whole, plan).logits
    rows = np.arange(3)
    token = np.argmax(logits[rows, lengths - 1], axis=-1)
    np.testing.assert_array_equal(token, answer[:, position])
    tokens[rows, lengths], mask[rows, lengths] = token, True
    lengths += 1


@pytest.mark.slow
def test_generation_stops_and_fills_up():
  params, image = small.params(CFG), small.pictures(1)
  free = small.generate(CFG, params, image, small.text(1), steps=4, stop=())
  stop = int(free[0, 1])
  assert int(free[0, 0]) != stop
  ended = small.generate(
    CFG, params, image, small.text(1), steps=4, stop=(stop,)
  )
  assert ended.tolist() == [[int(free[0, 0]), stop, stop, stop]]


@pytest.mark.slow
@pytest.mark.parametrize(
  "spec",
  [
    pytest.param(ops.presets.HYBRID, marks=pytest.mark.full),
    pytest.param(ops.presets.MERGE, marks=pytest.mark.full),
    # Its cells lie in other rows than the tokens that they are made of.
    ops.presets.POOL,
  ],
)
def test_soft_at_low_temperature_equals_masked_equals_hard(spec):
  # Plain weights: with sharper attention a removed token of mass 1e-6, which a
  # close choice leaves at any temperature, would still be heard.
  params = small.init(CFG, jax.random.key(0))
  image, text = small.pictures(2), small.text(2)
  keep = (8, 3)
  hard = small.apply(
    CFG,
    params,
    image,
    text,
    _plan(("decoder.0", 8, spec), ("decoder.1", 3, spec)),
  )
  masked = small.apply(
    CFG, params, image, text, _soft(keep, hard=True, spec=spec)
  )
  cold = dataclasses.replace(
    _soft(keep, hard=False, spec=spec), temperature=jnp.float32(1e-4)
  )
  soft = small.apply(CFG, params, image, text, cold)
  assert hard.state.tokens.size.shape == (2, 3)
  assert masked.state.tokens.size.shape == (2, 16)
  np.testing.assert_allclose(masked.logits, hard.logits, rtol=1e-3, atol=1e-4)
  np.testing.assert_allclose(soft.logits, hard.logits, rtol=1e-3, atol=1e-3)


@pytest.mark.slow
def test_keeping_everything_is_the_dense_model():
  params, image, text = small.params(CFG), small.pictures(2), small.text(2)
  dense = small.apply(CFG, params, image, text).logits
  plan = _plan(
    ("decoder.0", 16, ops.presets.PRUNE), ("decoder.2", 16, ops.presets.PRUNE)
  )
  kept = small.apply(CFG, params, image, text, plan).logits
  np.testing.assert_allclose(kept, dense, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["random", "grid", "pool", "fastv", "prune"])
def test_presets_really_drop_tokens(name):
  params, image, text = small.params(CFG), small.pictures(2), small.text(2)
  plan = _plan(("decoder.1", 4, ops.PRESETS[name]))
  seen = small.see(CFG, params, image, plan, key=jax.random.key(3))
  out = small.read(CFG, params, seen, text, plan)
  assert out.trace["decoder.1"].tokens.x.shape == (2, 4, 16)
  assert np.isfinite(out.logits).all()


def test_fastv_reads_the_layer_before_its_site():
  params, image, text = small.params(CFG), small.pictures(1), small.text(1)
  plan = _plan(("decoder.0", 4, ops.presets.FASTV))
  with pytest.raises(ValueError, match="reads the previous layer's"):
    small.apply(CFG, params, image, text, plan)


@pytest.mark.slow
def test_fastv_keeps_what_the_last_row_attends_to():
  params, image, text = small.params(CFG), small.pictures(1), small.text(1)
  plan = _plan(("decoder.1", 4, ops.presets.FASTV))
  kept = small.apply(CFG, params, image, text, plan).trace["decoder.1"].index
  # The same row, from the attention that layer 0 really computes.
  block = models.decoder.blocks.DecoderBlock(CFG.decoder)
  stack = models.decoder.blocks.layer(params["decoder"]["blocks"], 0)
  seen = small.see(CFG, params, image)
  embed = params["decoder"]["embed"]
  hidden = jnp.concatenate(
    [embed[jnp.array([CFG.prefix])], seen.visual, embed[text.tokens]], axis=1
  )
  positions = jnp.arange(hidden.shape[1])[None]
  angles = models.decoder.blocks.rotary(CFG.decoder, positions)
  q, k, _ = models.decoder.blocks.call(block, stack, "project", hidden, angles)
  row = 2 + 16 + 4 - 1
  scores = jnp.einsum(
    "hd,hnd->hn", q[0, :, row], jnp.repeat(k[0], 2, axis=0)[:, : row + 1]
  )
  weights = jax.nn.softmax(scores / 2.0, axis=-1).mean(0)[2:18]
  expected = np.sort(np.argsort(-weights)[:4])
  np.testing.assert_array_equal(kept[0], expected)


@pytest.mark.full
def test_tome_merges_inside_the_encoder():
  params, image, text = small.params(CFG), small.pictures(2), small.text(2)
  tome = ops.presets.TOME
  plan = _plan(("vision.0", 11, tome), ("vision.2", 7, tome))
  seen = small.see(CFG, params, image, plan)
  assert seen.visual.shape == (2, 7, 16)
  total = jnp.sum(seen.state.tokens.size, axis=1)
  np.testing.assert_allclose(total, 16, rtol=1e-5)
  assert (np.diff(seen.state.tokens.position, axis=1) > 0).all()
  out = small.read(CFG, params, seen, text, plan)
  assert np.isfinite(out.logits).all()


@pytest.mark.slow
def test_gradients_reach_every_number_that_acts():
  params, image, text = small.params(CFG), small.pictures(2), small.text(2)

  def loss(numbers):
    reduction = dataclasses.replace(
      _soft((8.0, 3.5), hard=False),
      params=numbers,
      keep=None,
      temperature=jnp.float32(0.3),
    )
    return jnp.sum(small.apply(CFG, params, image, text, reduction).logits ** 2)

  numbers = _soft((0, 0), hard=False).params
  numbers = dataclasses.replace(
    numbers,
    retention=jnp.array([0.5, 0.4]),
    activation=jnp.array([0.9, 0.9]),
    kappa=jnp.array([0.8, 0.8]),
  )
  gradient = jax.jit(jax.grad(loss))(numbers)
  for name in ("activation", "retention", "pi", "gamma", "tau", "delta"):
    value = np.asarray(getattr(gradient, name))
    assert np.isfinite(value).all()
    assert np.abs(value).max() > 0, name


def test_unknown_site_is_refused():
  params, image, text = small.params(CFG), small.pictures(1), small.text(1)
  with pytest.raises(ValueError, match=r"unknown sites \['decoder.7'\]"):
    small.apply(
      CFG,
      params,
      image,
      text,
      _soft((4,), hard=False, sites=("decoder.7",)),
    )


@pytest.mark.full
def test_reducing_the_input_first_changes_nothing():
  params, image, text = small.params(CFG), small.pictures(2), small.text(2)
  hybrid = ops.presets.HYBRID
  plan = _plan(("decoder.0", 9, hybrid), ("decoder.2", 4, hybrid))
  whole = small.apply(CFG, params, image, text, plan).logits
  seen = small.reduce_input(
    CFG, params, small.see(CFG, params, image), text, plan
  )
  assert seen.visual.shape == (2, 9, 16)
  rest = _plan(("decoder.2", 4, hybrid))
  parts = small.read(CFG, params, seen, text, rest).logits
  np.testing.assert_allclose(parts, whole, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_class_token_survives_an_operator_that_does_not_protect_it():
  params, image, text = small.params(CFG), small.pictures(2), small.text(2)
  assert ops.presets.MERGE.protect == 0
  merge = ops.presets.MERGE.replace(
    scores=("norm",), pi=(1.0,), affinity="keys"
  )
  plan = _plan(("vision.1", 5, merge))
  seen = small.see(CFG, params, image, plan)
  assert seen.visual.shape == (2, 5, 16)
  # Position -1 is the class token's: none of it may reach the decoder.
  assert (np.asarray(seen.state.tokens.position) >= 0).all()
  assert np.isfinite(small.read(CFG, params, seen, text, plan).logits).all()
