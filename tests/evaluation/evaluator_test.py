"""Answers of the evaluator equal those to every question by itself."""

import dataclasses

import jax
import numpy as np
import pytest

from eos_jax import files, models, ops
from eos_jax.data import items, packing, question_sets, tiny_rows, tokenizer
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
  # Three, one, two and one questions: batches of four share images unevenly.
  asked = tuple(
    items.Item(_ASKED[n], _ASKED[n], "yes", (image,), task="counting")
    for count in (3, 1, 2, 1)
    for image in [items.encoded(rng.integers(0, 256, (96, 96, 3), np.uint8))]
    for n in range(count)
  )
  rows = tiny_rows.TinyRows(_TOKENIZER, packing.DEFAULT_TEXT_LENGTH)
  chosen = question_sets.QuestionSet("test", asked, rows)
  return cfg, small.params(cfg), chosen


def _plan(cfg, site, spec):
  return ops.ReductionPlan(
    name="test",
    model=cfg.name,
    tokens=cfg.vision.tokens,
    layers=cfg.decoder.layers,
    sites=(ops.PlannedSite(site=site, keep=5, spec=spec),),
  )


@pytest.mark.slow
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


def test_answers_by_logits_that_are_not_finite_are_refused(setup):
  cfg, _, _ = setup
  ids, plan = np.full((3, 2), 7), _plan(cfg, "decoder.1", ops.presets.PRUNE)
  evaluator._check_finite(ids, np.arange(3), plan)
  ids[1, 1] = models.NO_TOKEN
  with pytest.raises(files.NotFinite) as error:
    evaluator._check_finite(ids, np.arange(10, 13), plan)
  assert str(error.value) == (
    "the logits under the plan 'test' are not finite for 1 of 3 questions, the"
    " first of them number 11; check the weights and the plan's numbers, or use"
    " a wider dtype"
  )


@pytest.mark.full
def test_a_model_with_nan_is_not_scored(setup):
  cfg, params, chosen = setup
  kernel = params["decoder"]["head"]["out"]["kernel"]
  broken = jax.tree.map(lambda leaf: leaf, params)
  broken["decoder"]["head"]["out"]["kernel"] = kernel.at[0, 0].set(np.nan)
  judge = evaluator.Evaluator(
    cfg, broken, chosen, batch=4, seed=0, steps=3, placement=None
  )
  with pytest.raises(files.NotFinite, match="dense model are not finite for 4"):
    judge.predict(None)
