"""The engine: buckets, streaming, turns and sampling."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eos_jax import models, ops
from eos_jax.models import generation
from tests.models import small

CFG = small.config()
PLAN = ops.ReductionPlan(
  "test",
  "small",
  16,
  3,
  (
    ops.PlannedSite("decoder.0", 7, ops.presets.MERGE_PROPORTIONAL),
    ops.PlannedSite("decoder.2", 3, ops.presets.PRUNE),
  ),
)


@functools.cache
def _params():
  return small.init(CFG, jax.random.key(0))


def _engine(**options):
  given = {"stop": (), "buckets": (4, 8), "room": 24} | options
  return models.Engine(CFG, _params(), **given)


@functools.cache
def _shared():
  return _engine()


def _prompts(*lengths, seed=0):
  draws = np.random.default_rng(seed)
  return [draws.integers(6, 32, n).tolist() for n in lengths]


def _greedy(image, whole, prompt_length, plan):
  """The likeliest token behind each row of a whole text, without a cache."""
  width = max(len(row) for row in whole)
  tokens = np.zeros((len(whole), width), np.int32)
  mask = np.zeros(tokens.shape, bool)
  for i, row in enumerate(whole):
    tokens[i, : len(row)], mask[i, : len(row)] = row, True
  text = models.Text(
    jnp.asarray(tokens), jnp.asarray(mask), jnp.asarray(prompt_length)
  )
  logits = small.apply(CFG, _params(), image, text, plan).logits
  return np.argmax(logits, axis=-1)


@pytest.mark.slow
@pytest.mark.parametrize(
  "plan",
  [pytest.param(None, marks=pytest.mark.full), PLAN],
  ids=["dense", "plan"],
)
def test_turns_continue_without_a_new_selection(plan):
  """Two turns by the cache are the same text read at once."""
  engine, image = _shared(), small.pictures(2)
  first, second = _prompts(6, 3), _prompts(4, 7, seed=1)
  talk = engine.begin(image, first, plan=plan)
  talk, replies = engine.reply(talk, steps=3)
  talk = engine.say(talk, second)
  talk, more = engine.reply(talk, steps=4)
  whole = [
    sum(parts, []) for parts in zip(first, replies, second, more, strict=True)
  ]
  best = _greedy(image, whole, [6, 3], plan)
  for row in range(2):
    asked = len(first[row])
    answered = asked + 3 + len(second[row])
    assert best[row, asked - 1 : asked + 2].tolist() == replies[row]
    assert best[row, answered - 1 : answered + 3].tolist() == more[row]


@pytest.mark.slow
def test_one_program_a_bucket_and_one_step():
  engine = _engine()
  for trial in range(50):
    lengths = np.random.default_rng(trial).integers(5, 9, 2)
    talk = engine.begin(
      small.pictures(2, seed=trial), _prompts(*lengths, seed=trial), plan=PLAN
    )
    engine.reply(talk, steps=2)
  assert engine.compilations == {"prefill": 1, "step": 1, "turn": 0}
  talk = engine.begin(small.pictures(2), _prompts(2, 3), plan=PLAN)
  engine.reply(talk, steps=2)
  assert engine.compilations == {"prefill": 2, "step": 1, "turn": 0}


@pytest.mark.slow
def test_streaming_and_stops():
  free, image = _shared(), small.pictures(3)
  prompts = _prompts(5, 8, 6)
  _, replies = free.reply(free.begin(image, prompts), steps=5)
  stop = (replies[0][1], replies[1][2])  # any of them ends a reply
  ends = [
    next((i + 1 for i, token in enumerate(r) if token in stop), 5)
    for r in replies
  ]
  assert len(set(ends)) > 1
  last = {r[end - 1] for r, end in zip(replies, ends, strict=True)}
  assert last >= set(stop)
  heard = []
  engine = _engine(stop=stop)
  talk = engine.begin(image, prompts)
  _, stopped = engine.reply(
    talk, steps=5, on_token=lambda step, tokens: heard.append((step, tokens))
  )
  assert stopped == [r[:end] for r, end in zip(replies, ends, strict=True)]
  assert [step for step, _ in heard] == list(range(max(ends)))
  for row, reply in enumerate(stopped):
    streamed = [tokens[row] for _, tokens in heard]
    assert streamed == reply + [None] * (len(heard) - len(reply))
  # The compiled answer is the same.
  tokens, mask = engine._padded(prompts)
  text = models.Text(
    jnp.asarray(tokens), jnp.asarray(mask), jnp.sum(mask, axis=1)
  )
  ids = small.generate(CFG, _params(), image, text, steps=5, stop=stop)
  for row, reply in enumerate(stopped):
    assert ids[row].tolist() == reply + [stop[0]] * (5 - len(reply))


@pytest.mark.full
def test_sampling_does_not_depend_on_the_batch():
  engine, image, prompts = _shared(), small.pictures(3), _prompts(5, 8, 6)
  sampling = models.Sampling(temperature=1.5, top_p=0.95)
  talk = engine.begin(image, prompts, seed=(3, 4, 3), plan=PLAN)
  _, together = engine.reply(talk, steps=4, sampling=sampling)
  for row, seed in enumerate((3, 4, 3)):
    talk = engine.begin(
      image[row : row + 1], prompts[row : row + 1], seed=(seed,), plan=PLAN
    )
    _, alone = engine.reply(talk, steps=4, sampling=sampling)
    assert alone[0] == together[row]
  talk = engine.begin(image, prompts, plan=PLAN)
  _, greedy = engine.reply(talk, steps=4)
  assert greedy != together
  talk = engine.begin(image, prompts, plan=PLAN)
  narrow = models.Sampling(temperature=1.0, top_p=1e-6)
  assert engine.reply(talk, steps=4, sampling=narrow)[1] == greedy


def test_sampled_shares_are_those_of_the_nucleus():
  logits = jnp.log(jnp.array([0.5, 0.3, 0.15, 0.05]))
  keys = jax.random.split(jax.random.key(0), 4000)
  many = jnp.broadcast_to(logits, (4000, 4))
  choose = jax.jit(generation.choose, static_argnames="sampling")
  for sampling, want in (
    (models.Sampling(1.0, 0.75), [0.625, 0.375, 0, 0]),
    (models.Sampling(1.0, 1.0), [0.5, 0.3, 0.15, 0.05]),
    (models.Sampling(0.5, 1.0), np.array([25, 9, 2.25, 0.25]) / 36.5),
  ):
    drawn = np.bincount(choose(many, sampling, keys), minlength=4) / 4000
    np.testing.assert_allclose(drawn, want, atol=0.025)
    assert ((drawn > 0) <= (np.asarray(want) > 0)).all()


@pytest.mark.slow
def test_what_cannot_be_done_is_said():
  engine, image = _shared(), small.pictures(1)
  with pytest.raises(ValueError, match="prompt has 9 tokens, the greatest bu"):
    engine.begin(image, _prompts(9))
  with pytest.raises(ValueError, match="2 prompts for 1 samples"):
    engine.begin(image, _prompts(3, 3))
  with pytest.raises(ValueError, match="2 seeds for 1 samples"):
    engine.begin(image, _prompts(3), seed=(1, 2))
  talk = engine.begin(image, _prompts(3))
  with pytest.raises(ValueError, match="have no reply yet"):
    engine.say(talk, _prompts(3))
  with pytest.raises(
    ValueError, match="room for 24 more tokens, 25 are wanted"
  ):
    engine.reply(talk, steps=26)
  talk, _ = engine.reply(talk, steps=20)
  with pytest.raises(ValueError, match="the last word was a reply"):
    engine.reply(talk)
  with pytest.raises(ValueError, match="room for 5 more tokens, 8 are wanted"):
    engine.say(talk, _prompts(6))
  for options in ({"buckets": ()}, {"room": 0}):
    with pytest.raises(ValueError, match="must be 1 or more"):
      _engine(**options)
  with pytest.raises(ValueError, match="temperature is -1.*top_p is 2"):
    models.Sampling(-1.0, 2.0)
  with pytest.raises(ValueError, match="no keys to draw"):
    generation.choose(jnp.zeros((1, 4)), models.Sampling(1.0))


@pytest.mark.parametrize(
  ("changes", "words"),
  [
    ({"model": "tiny"}, "model is 'tiny', this model's is 'small'"),
    ({"tokens": 144}, "tokens is 144, this model's is 16"),
    ({"layers": 5}, "layers is 5, this model's is 3"),
    (
      {"sites": (ops.PlannedSite("vision.7", 3, ops.presets.TOME),)},
      r"unknown sites \['vision.7'\]",
    ),
  ],
)
def test_plans_of_other_models_are_refused(changes, words):
  with pytest.raises(ValueError, match=words):
    _shared().begin(
      small.pictures(1), _prompts(3), plan=dataclasses.replace(PLAN, **changes)
    )
