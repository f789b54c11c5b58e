"""Measuring a latency table: which models are compared, and what comes out."""

import functools

import jax
import pytest

from eos_jax import cost, models
from eos_jax.timing import latency, programs, stopwatch
from tests.models import family_plans_test
from tests.timing import deploy_test


def _measurement(**changes):
  init = jax.jit(functools.partial(models.init, deploy_test.CFG))
  params = models.for_inference(init(jax.random.key(0)))
  values = {
    "model": programs.Model(deploy_test.CFG, params, "float32", raw=True),
    "text_tokens": deploy_test.TEXT,
    "points": 3,
    "repeats": 2,
    "seconds": 60.0,
    "seed": 0,
  }
  return latency.Measurement(**values | changes)


def test_counts_reach_from_one_visual_token_to_all():
  measurement = _measurement()
  assert measurement.row_counts() == [7, 12, 22]
  assert measurement.sides() == [1, 2, 4]  # numpy rounds 2.5 to even


@pytest.mark.slow
def test_layers_and_blocks_are_differences(monkeypatch):
  """Faked times: 3 ms a row for layers, 2 for blocks, 5 and 7 for the rest."""

  def seconds(call, clock):
    del clock
    made = call.__self__
    params, seen = made.args[:2]
    if isinstance(seen, models.Seen):
      rows = 6 + seen.visual.shape[1]
      depth = len(params["decoder"]["blocks"])
      return 5e-3 + 3e-3 * rows * depth
    rows = (seen["image"].shape[1] // 4) ** 2 + 1
    depth = len(params["vision"]["blocks"])
    return 7e-3 + 2e-3 * rows * depth

  def compiled(function, *args):
    return stopwatch.Compiled(function, args, 0.0)

  monkeypatch.setattr(stopwatch, "seconds", seconds)
  monkeypatch.setattr(stopwatch, "compiled", compiled)
  kept = {}

  def once(content, compute):
    return kept.setdefault(str(sorted(content.items())), compute())

  table, entries = _measurement(once=once).table((1,), device="cpu")
  assert len(entries) == len(kept) == 6
  assert table.tokens.tolist() == [7, 12, 22]
  assert table.vision_rows.tolist() == [2, 5, 17]
  assert table.seconds[0].tolist() == pytest.approx([0.021, 0.036, 0.066])
  blocks = table.vision_seconds[0].tolist()
  assert blocks == pytest.approx([0.004, 0.010, 0.034])
  assert table.overhead[0] == pytest.approx(0.012)
  # A reducing block counts the mean of what enters and leaves it.
  predicted = cost.latency(table, [16, 1], 6, [17, 17], batch=1)
  assert predicted == pytest.approx(0.012 + 0.066 + 0.021 + 2 * 0.034)


@pytest.mark.slow
@pytest.mark.parametrize("family", ["onevision", "qwen2_vl"])
def test_without_encoder_sites_the_encoder_is_overhead(monkeypatch, family):
  """Faked times: 3 ms a row for layers, 5 for the rest, 40 for the encoder."""
  cfg = family_plans_test.CONFIGS[family]
  params = jax.jit(functools.partial(models.init, cfg))(jax.random.key(0))
  model = programs.Model(cfg, models.for_inference(params), "float32")

  def seconds(call, clock):
    del clock
    params, seen = call.__self__.args[:2]
    if not isinstance(seen, models.Seen):
      return 40e-3
    rows = deploy_test.TEXT + seen.visual.shape[1]
    return 5e-3 + 3e-3 * rows * len(params["decoder"]["blocks"])

  def compiled(function, *args):
    return stopwatch.Compiled(function, args, 0.0)

  monkeypatch.setattr(stopwatch, "seconds", seconds)
  monkeypatch.setattr(stopwatch, "compiled", compiled)
  measurement = _measurement(model=model, points=2)
  assert measurement.sides() == []
  table, entries = measurement.table((1,), device="cpu")
  most = deploy_test.TEXT + cfg.tokens
  assert len(entries) == 2
  assert table.tokens.tolist() == [deploy_test.TEXT + 1, most]
  assert table.vision_rows.size == 0
  assert table.seconds[0].tolist() == pytest.approx([0.018, 3e-3 * most])
  assert table.overhead[0] == pytest.approx(0.045)
  assert measurement._predicted(table, 1, None) == pytest.approx(
    0.045 + 3e-3 * most * cfg.decoder.layers
  )


def test_a_prediction_is_compared_with_what_is_measured():
  table = cost.LatencyTable(
    model="small",
    device="cpu",
    dtype="float32",
    jax_version="0",
    tokens=[7, 22],
    batches=[1],
    seconds=[[1.0, 1.0]],
    overhead=[0.5],
    vision_rows=[2, 17],
    vision_seconds=[[0.25, 0.25]],
  )
  measurement = _measurement(
    once=lambda content, compute: {"measured": 4.0, "measured_cut": 2.0}
  )
  (dense, plan) = measurement.check(table, [deploy_test.PLAN])
  assert (dense["name"], plan["name"]) == ("dense", "plan")
  assert plan["predicted"] == dense["predicted"] == 3.0
  assert plan["error"] == -0.25 and plan["error_cut"] == 0.5
