"""What timing measures, refuses and skips; and its command."""

import json
import runpy

import jax
import pytest

from eos_jax import cost, models, ops
from eos_jax.evaluation import results
from eos_jax.models import fits, partition
from eos_jax.models import model as model_lib
from eos_jax.tasks import common, timing
from eos_jax.training import settings, timing_settings
from tests import command


def _job(**changes):
  path = command.ROOT / "configs" / "timing.py"
  config = runpy.run_path(path)["get_config"]().to_dict() | changes
  del config["task"]
  return settings.build(timing_settings.TimingJob, config)


@pytest.mark.parametrize("name", (models.TINY, *models.SHAPES))
def test_budgets_are_those_of_the_paper(name):
  cfg = timing.open_files(_job(), name).cfg
  found = timing.candidates(_job(presets=("prune",)), cfg)
  expected = {144: [48, 32, 16, 4], 576: [192, 128, 64, 16]}
  limits = [item.limit for item in found if item.name == "prune"]
  assert limits == pytest.approx(expected[cfg.vision.tokens])
  for item in found:
    assert cost.layer_average(cost.layer_counts(item.plan)) <= item.limit + 1e-9


def test_what_cannot_be_measured_says_why():
  cfg = models.tiny_config()
  for name, reason in (
    ("fastv", "smallest reachable layer average is 29.6"),
    ("vision_selector", "'vision_selector' reads learned, which the site"),
  ):
    found = common.preset_candidate(cfg, name, 4.0)
    assert found.plan is None and found.reason.startswith(reason)


def test_searched_plans_of_the_package_and_the_users_own(tmp_path):
  cfg = models.tiny_config()
  plan = common.preset_candidate(cfg, "hybrid", 16.0).plan
  (tmp_path / "mine.json").write_text(plan.to_json())
  job = _job(presets=(), plans=(str(tmp_path / "mine.json"),))
  *searched, mine = timing.candidates(job, cfg)
  assert {item.name for item in searched} == {results.SEARCHED}
  assert [item.plan for item in searched] == [
    common.shipped_plan("tiny", limit) for limit in (48, 32, 16, 4)
  ]
  assert mine.name == "hybrid@16"
  assert mine.plan == plan and mine.limit == 16
  assert not timing.candidates(job, models.SHAPES["wide"]())


@pytest.mark.full
def test_random_weights_have_the_structure_of_the_model():
  cfg = models.tiny_config()
  shapes = models.loading.shapes(cfg)
  place = partition.param_shardings(partition.make_mesh(), shapes)
  key = jax.random.key(0)
  params = model_lib.random_params(shapes, place, "bfloat16", key)
  known = models.load("tiny").params
  shapes = jax.tree.map(lambda leaf: leaf.shape, (params, known))
  assert shapes[0] == shapes[1]
  assert {leaf.dtype.name for leaf in jax.tree.leaves(params)} == {"bfloat16"}
  layer = params["decoder"]["blocks"]["q"]["kernel"]
  assert float(layer.astype("float32").std()) == pytest.approx(
    cfg.decoder.width**-0.5, rel=0.05
  )


def test_a_model_that_does_not_fit_is_skipped_with_the_reason(monkeypatch):
  room = lambda free: fits.Room("cpu", free, free, sharing=1)
  monkeypatch.setattr(fits, "room", lambda: room(20 * 2**30))
  opened = timing.open_files(_job(), "llava_1_5_7b")
  why = lambda batch: timing.lacking_memory(opened, batch, 24, 16)
  assert why(1) == ""
  assert why(64).startswith(
    "llava_1_5_7b in bfloat16 at batch 64 needs "
  ) and why(64).endswith(
    " 20.0 GiB of the cpu are free; use smaller batches or another model"
  )
  monkeypatch.setattr(fits, "room", lambda: room(10 * 2**30))
  assert "(parameters 13.1, " in why(1)


def test_all_impossible_values_are_listed():
  with pytest.raises(settings.ConfigError) as error:
    _job(
      measure=("deploy", "speed"),
      models=("tiny", "tiny"),
      batches=(0,),
      budgets=(0.5, -0.1, 0.5),
      presets=("prun",),
      repeats=0,
      points=1,
      seconds=-1.0,
    )
  assert error.value.faults == (
    "config.measure has 'speed'; use one of deploy, latency, pictures",
    "config.models is ('tiny', 'tiny'); give each once",
    "config.budgets is (0.5, -0.1, 0.5); give each once",
    "config.presets has 'prun'; did you mean 'prune'?",
    "config.repeats is 0; use 1 or more",
    "config.seconds is -1.0; use 0 or more",
    "config.points is 1; use 2 or more",
    "config.batches has 0; use 1 to 65536",
    "config.budgets has -0.1; use a share of the visual tokens above 0, up to"
    " 1",
  )


def test_all_plans_that_cannot_be_measured_are_listed(tmp_path):
  missing = tmp_path / "no.json"
  wide = tmp_path / "wide.json"
  plan = ops.ReductionPlan("mine", "wide", 576, 8)
  wide.write_text(plan.to_json())
  wrong = tmp_path / "wrong.json"
  wrong.write_text(ops.ReductionPlan("mine", "tiny", 576, 5).to_json())
  job = _job(
    models=("tiny", "large"), plans=(str(missing), str(wide), str(wrong))
  )
  with pytest.raises(settings.ConfigError) as error:
    timing.check(job)
  assert error.value.faults == (
    "config.models: there is no folder 'large', and no model of that name; give"
    " the folder of a checkpoint as transformers saves it, or one of tiny,"
    " wide, llava_1_5_7b",
    f"config.plans: {missing} cannot be read (No such file or directory); give"
    " the JSON file of a plan, such as runs/search/plans/16.json",
    f"config.plans: {wide} is of the model 'wide', which is not among"
    " config.models=('tiny', 'large'); leave it out, or add the model",
    f"config.plans: {wrong} is of another model: tokens is 576 there and 144"
    " here; use a plan that was searched for 'tiny'",
  )


@pytest.mark.full
def test_the_short_form_measures_and_writes_everything(tmp_path):
  path = tmp_path / "w"
  args = (
    "--config.presets=('prune','vision_selector')",
    "--config.budgets=(0.25,)",
  )
  done = command.run(path, *args, config="timing:ci")
  assert done.returncode == 0, done.stderr[-3000:]
  assert "1 program(s) of the prefill and 1 of the step" in done.stdout
  value = json.loads((path / "deploy.json").read_text())
  assert value["models"]["tiny"]["compilations"]["pictures"] == 8
  reached = [row for row in value["rows"] if not row["reason"]]
  assert [row["name"] for row in reached] == ["prune"]
  assert len(value["rows"]) == 2
  for row in reached:
    for side in ("dense", "plan"):
      assert row["seconds"][side]["end_to_end"]["median"] > 0
  table = cost.LatencyTable.from_json((path / "latency.json").read_text())
  assert table.tokens.tolist() == [28, 171]
  checks = json.loads((path / "latency_check.json").read_text())["checks"]
  assert [row["name"] for row in checks] == ["dense", "prune@36"]
  for name in ("deploy.png", "latency.png"):
    assert (path / name).stat().st_size > 1000
  # The second run finds every time in the store.
  files = ("deploy.json", "latency.json", "deploy.md", "latency_check.json")
  files += ("pictures.json",)
  before = {name: (path / name).read_text() for name in files}
  again = command.run(path, *args, config="timing:ci")
  assert again.returncode == 0, again.stderr[-3000:]
  assert before == {name: (path / name).read_text() for name in files}
