"""Plans beside dense: what is counted, measured and said of it."""

import dataclasses
import functools

import jax
import numpy as np
import pytest

from eos_jax import cost, models, ops
from eos_jax.evaluation import evaluator
from eos_jax.timing import deploy, programs, report
from tests.models import family_plans_test

CFG = models.VLMConfig(
  name="small",
  vision=models.VisionConfig(
    image_size=16, patch_size=4, layers=2, width=16, heads=2, mlp=16
  ),
  decoder=models.DecoderConfig(
    vocab=32, layers=2, width=16, heads=2, kv_heads=2, head_dim=8, mlp=16
  ),
  projector=16,
  prefix=(1,),
)
TEXT = 5


def _plan(*sites):
  planned = tuple(
    ops.PlannedSite(site, keep, spec) for site, keep, spec in sites
  )
  return ops.ReductionPlan("plan", CFG.name, 16, 2, planned)


PLAN = _plan(
  ("vision.1", 8, ops.presets.PRUMERGE), ("decoder.1", 4, ops.presets.FASTV)
)


@pytest.fixture(scope="module")
def model():
  params = jax.jit(functools.partial(models.init, CFG))(jax.random.key(0))
  params = models.for_inference(params)
  return programs.Model(CFG, params, "float32", raw=True)


@pytest.fixture(scope="module")
def inputs(model):
  return programs.draw(model, batch=2, text_tokens=TEXT, seed=0)


@pytest.fixture(scope="module")
def dense(model, inputs):
  return programs.Pipeline(model, inputs, None, steps=2)


@pytest.mark.slow
def test_flops_are_those_of_the_cost_model(model):
  shape = model.shape
  dense = deploy.flops(shape, None, text_tokens=6, steps=2)
  assert dense["prefill"] == cost.decoder_flops(shape, [16, 16], 6)
  assert dense["first_token"] == cost.prefill_flops(shape, [16, 16], 6)
  steps = [cost.decode_flops(shape, [16, 16], text) for text in (6, 7)]
  assert dense["step"] == sum(steps) / 2
  assert dense["end_to_end"] == dense["first_token"] + sum(steps)


def test_operators_count_where_they_run(model):
  shape = model.shape
  got = deploy.flops(shape, PLAN, text_tokens=6, steps=1)
  late = cost.operator_flops(
    shape, ops.presets.FASTV, 8, 4, 6, site="decoder.1", input_tokens=8
  )
  assert got["prefill"] == cost.decoder_flops(shape, [8, 4], 6) + late
  budget = cost.budget_of(PLAN, shape, text_tokens=6)
  assert got["first_token"] == budget.model_flops + budget.operator_flops
  assert late < budget.operator_flops


def test_speedups_and_what_operators_take():
  dense = {part: [4.0, 8.0, 4.0] for part in deploy.PARTS}
  plan = {part: [2.0, 4.0, 1.0] for part in deploy.PARTS}
  counted = {
    "dense": dict.fromkeys(deploy.PARTS, 10),
    "plan": dict.fromkeys(deploy.PARTS, 4),
  }
  got = deploy.speedups(dense, plan, counted)
  assert set(got) == set(deploy.PARTS)
  assert got["step"] == {
    "realised": 2.0,
    "low": 2.0,
    "high": 3.0,
    "ideal": 2.5,
    "share": 0.8,
  }
  taken = deploy.operators([2.0, 4.0, 1.0], [1.5, 3.0, 1.0], "prefill")
  assert taken["seconds"] == 0.5
  assert taken["share"] == 0.25
  assert (taken["low"], taken["high"]) == (0.125, 0.25)


def test_a_chip_that_waits_for_weights_is_a_bound_of_its_own(model):
  chip = cost.DEVICES["h100"]
  chosen = {"text_tokens": 6, "steps": 2, "batch": 2, "dtype": "bfloat16"}
  least = {
    side: deploy.least_seconds(chip, model.shape, plan, **chosen)
    for side, plan in (("dense", None), ("plan", PLAN))
  }
  assert set(least["plan"]) == set(deploy.PARTS)
  budget = cost.budget_of(PLAN, model.shape, text_tokens=6)
  assert least["plan"]["first_token"] == cost.prefill_seconds(
    chip,
    model.shape,
    [8, 4],
    6,
    cost.vision_row_counts(PLAN, model.shape),
    batch=2,
    operator_flops=budget.operator_flops,
  )
  assert least["dense"]["prefill"] < least["dense"]["first_token"]
  assert least["plan"]["end_to_end"] == pytest.approx(
    least["plan"]["first_token"] + 2 * least["plan"]["step"]
  )
  laps = {part: [1.0] for part in deploy.PARTS}
  counted = dict.fromkeys(("dense", "plan"), dict.fromkeys(deploy.PARTS, 1))
  got = deploy.speedups(laps, laps, counted, least)["prefill"]
  bound = least["dense"]["prefill"] / least["plan"]["prefill"]
  assert got["roofline"] == bound > 1
  assert got["roofline_share"] == pytest.approx(1 / bound)


@pytest.mark.slow
def test_a_plan_is_cut_at_the_same_sites(model, inputs):
  short = programs.cut(PLAN)
  assert [(s.site, s.keep) for s in short.sites] == [
    (s.site, s.keep) for s in PLAN.sites
  ]
  assert cost.plan_operator_flops(model.shape, short, 6) == 0
  seen, dense = (
    jax.jit(programs.see(CFG, plan))(model.params, inputs.shown, inputs.key)
    for plan in (short, None)
  )
  assert seen.state.tokens.position.tolist() == [list(range(8))] * 2
  first = programs.shortened(dense, 8)
  assert first.visual.shape == seen.visual.shape
  places = seen.state.tokens.position.tolist()
  assert first.state.tokens.position.tolist() == places


@pytest.mark.slow
def test_a_plan_without_encoder_sites_shares_the_encoder(model, inputs, dense):
  plan = _plan(("decoder.0", 4, ops.presets.PRUNE))
  shared = programs.Pipeline(model, inputs, plan, steps=0, dense=dense)
  assert set(dense.seconds) == {"see", "prefill", "step"}
  assert set(shared.seconds) == {"prefill"}
  ticks = iter(range(3)).__next__
  assert shared.run(ticks) == {"see": 1, "prefill": 1, "first_token": 2}


@pytest.mark.slow
def test_what_is_measured_decodes_as_the_model_answers(model, inputs):
  """The programs are the model: the same tokens as `models.answer`."""
  plan = _plan(("decoder.1", 4, ops.presets.FASTV))
  see = jax.jit(programs.see(CFG, plan))
  seen = see(model.params, inputs.shown, inputs.key)
  whole = functools.partial(
    models.answer, CFG, reduction=plan, steps=4, stop=()
  )
  answer = jax.jit(lambda *args: whole(*args).ids)(
    model.params, seen, inputs.text
  )
  prefill = jax.jit(programs.prefill(CFG, plan, room=3))
  step = jax.jit(programs.step(CFG))
  token, cache = prefill(model.params, seen, inputs.text)
  got = [token]
  for _ in range(3):
    token, tail = step(model.params, cache, token)
    cache = dataclasses.replace(cache, tail=tail)
    got.append(token)
  np.testing.assert_array_equal(np.stack(got, 1), answer)


@pytest.mark.slow
def test_a_comparison_has_all_numbers_and_a_table(model, inputs, dense):
  found = deploy.compare(
    model, inputs, dense, PLAN, steps=2, repeats=2, seconds=60.0
  )
  assert found["operators"]["part"] == "first_token"
  assert found["seconds"]["plan"]["step"]["count"] == 2
  assert set(found["compile_seconds"]["plan"]) == {"see", "prefill", "step"}
  for side, count in (("dense", [16, 16]), ("plan", [8, 4])):
    kept = found["kv_bytes"][side]
    alone = cost.kv_cache_bytes(model.shape, count, 6, dtype="float32")
    assert kept["model"] == 2 * alone
    # Biases and positions come on top of keys and values.
    assert kept["model"] < kept["segments"] < 1.2 * kept["model"]
  row = {"model": "small", "batch": 2, "name": "mine", "limit": 6.0}
  value = {
    "device": "cpu",
    "jax": "0",
    "cores": 2,
    "text_tokens": TEXT,
    "steps": 2,
    "skipped": {"huge": "huge does not fit"},
    "models": {
      "small": {
        "visual_tokens": 16,
        "layers": 2,
        "parameters": 10**6,
        "dtype": "float32",
        "kernels": model.kernels,
        "compilations": {
          "plan": "mine",
          "pictures": 50,
          "prefill": 1,
          "step": 1,
        },
      }
    },
    "rows": [
      {**row, "reason": "", "note": "moved", **found},
      {**row, "name": "fastv", "reason": "it cannot"},
    ],
  }
  text = report.deploy_table(value)
  assert "mine (moved)" in text and "- skipped: huge does not fit" in text
  assert "- fastv cannot be at 6 tokens: it cannot" in text
  lines = [line for line in text.splitlines() if line.startswith("|")]
  assert len(lines) == 8 and len({len(line) for line in lines[:4]}) == 1


@pytest.mark.slow
def test_many_pictures_need_one_program(model):
  got = deploy.compilations(
    model,
    _plan(("decoder.0", 4, ops.presets.PRUNE)),
    text_tokens=TEXT,
    pictures=4,
    seed=0,
  )
  assert got == {"pictures": 4, "prefill": 1, "step": 1}


@pytest.mark.full
@pytest.mark.parametrize("family", ["onevision", "qwen2_vl"])
def test_models_of_families_are_measured(family):
  cfg = family_plans_test.CONFIGS[family]
  params = jax.jit(functools.partial(models.init, cfg))(jax.random.key(0))
  model = programs.Model(cfg, models.for_inference(params), "float32")
  inputs = programs.draw(model, batch=2, text_tokens=TEXT, seed=0)
  # One image a row, ahead of the text, without padding.
  assert inputs.batch["image"].shape[:2] == (2, 1)
  assert inputs.text.slots.tolist() == [[0], [0]]
  assert inputs.text.prompt_length.tolist() == [TEXT] * 2
  seen = jax.jit(programs.see(cfg, None))(
    model.params, inputs.shown, inputs.key
  )
  assert seen.visual.shape[:2] == (2, cfg.tokens)
  assert not np.any(seen.state.tokens.log_mass)  # all are present
  dense = programs.Pipeline(model, inputs, None, steps=1)
  plan = evaluator.preset_plan(cfg, ops.presets.FASTV, 0.6 * cfg.tokens)
  found = deploy.compare(
    model, inputs, dense, plan, steps=1, repeats=1, seconds=60.0
  )
  assert found["operators"]["part"] == "prefill"
  assert set(found["compile_seconds"]["plan"]) == {"prefill", "step"}
  for side, which in (("dense", None), ("plan", plan)):
    counts = (
      cost.layer_counts(which) if which else (cfg.tokens,) * cfg.decoder.layers
    )
    kept = cost.kv_cache_bytes(model.shape, counts, TEXT, dtype="float32")
    assert found["kv_bytes"][side]["model"] == 2 * kept
  got = deploy.compilations(model, plan, text_tokens=TEXT, pictures=3, seed=0)
  assert got == {"pictures": 3, "prefill": 1, "step": 1}
