"""Answers of the evaluator equal those to every question by itself."""

import dataclasses
import types

import jax
import numpy as np
import pytest

from eos_jax import models, ops
from eos_jax.data import loader, packing, questions, tokenizer
from eos_jax.evaluation import evaluator
from tests.models import small

_TOKENIZER = tokenizer.load()
_ASKED = (
  "is there a red circle?",
  "how many squares are there?",
  "what color is the large circle?",
)


def _normalize(image):
  return image.astype(np.float32) / 127.5 - 1.0


@pytest.fixture(scope="module")
def setup():
  cfg = small.config(vocab=_TOKENIZER.vocab_size)
  vision = dataclasses.replace(cfg.vision, image_size=96, patch_size=24)
  cfg = dataclasses.replace(cfg, vision=vision)
  rng = np.random.default_rng(0)
  source = [
    types.SimpleNamespace(image=rng.integers(0, 256, (96, 96, 3), np.uint8))
    for _ in range(4)
  ]
  # Three, one, two and one questions: batches of four share pictures unevenly.
  items = tuple(
    (0, picture, questions.Question(_ASKED[n], "yes", "counting"))
    for picture, count in enumerate((3, 1, 2, 1))
    for n in range(count)
  )
  chosen = loader.EvaluationSet(
    (source,), items, _TOKENIZER, packing.DEFAULT_TEXT_LENGTH
  )
  return cfg, small.params(cfg), chosen


def _plan(cfg, site, spec):
  return ops.ReductionPlan(
    name="test",
    model=cfg.name,
    tokens=cfg.vision.tokens,
    layers=cfg.decoder.layers,
    sites=(ops.PlannedSite(site=site, keep=5, spec=spec),),
  )


@pytest.mark.parametrize(
  "site",
  [
    pytest.param(None, marks=pytest.mark.full),
    pytest.param("decoder.0", marks=pytest.mark.full),
    "decoder.1",
    pytest.param("vision.1", marks=pytest.mark.full),
  ],
)
def test_pictures_are_shared_among_their_questions(setup, site):
  cfg, params, chosen = setup
  spec = ops.PRESETS["merge"]
  plan = None if site is None else _plan(cfg, site, spec)
  judge = evaluator.Evaluator(
    cfg,
    params,
    chosen,
    batch=4,
    seed=0,
    steps=3,
    placement=None,
  )
  generate = jax.jit(
    lambda image, text: models.generate(
      cfg, params, image, text, plan, steps=3, stop=(_TOKENIZER.eos_id,)
    )
  )
  expected = []
  for batch in chosen.batches(1):
    length = batch["prompt_length"][:, None]
    text = models.Text(
      tokens=batch["tokens"],
      mask=np.arange(batch["tokens"].shape[1])[None] < length,
      prompt_length=batch["prompt_length"],
    )
    ids = generate(_normalize(batch["image"]), text)
    expected.append(_TOKENIZER.decode(np.asarray(ids)[0].tolist()))
  assert judge.predict(plan).texts == expected
  assert len(set(expected)) > 1  # random weights still tell questions apart
