"""The command line, end to end on the smallest data."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

ROOT = pathlib.Path(__file__).parents[1]


def _command(workdir, *extra, config="search"):
  return [
    sys.executable,
    "-m",
    "eos_jax.main",
    f"--config=configs/{config}.py:ci",
    f"--workdir={workdir}",
    *extra,
  ]


def _environment(cache):
  # One device as on a user's machine; the second run finds what the first
  # compiled.
  return {
    **{k: v for k, v in os.environ.items() if k != "XLA_FLAGS"},
    "JAX_COMPILATION_CACHE_DIR": str(cache),
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
  }


def _run(workdir, *args, config="search"):
  return subprocess.run(
    _command(workdir, *args, config=config),
    cwd=ROOT,
    env=_environment(workdir.parent / "cache"),
    capture_output=True,
    text=True,
    check=False,
  )


def _kill_behind(checkpoint, workdir, *, config="search"):
  """Runs until a checkpoint is there, and kills the process."""
  process = subprocess.Popen(
    _command(workdir, config=config),
    cwd=ROOT,
    env=_environment(workdir.parent / "cache"),
    stdout=subprocess.DEVNULL,
    stderr=subprocess.DEVNULL,
  )
  while process.poll() is None and not checkpoint.is_dir():
    time.sleep(0.05)
  process.send_signal(signal.SIGKILL)
  process.wait()


def _plans(workdir):
  return [
    (workdir / "plans" / name).read_text() for name in ("48.json", "16.json")
  ]


def _results(workdir):
  return json.loads((workdir / "results.json").read_text())


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
  workdir = tmp_path_factory.mktemp("main") / "straight"
  done = _run(workdir)
  assert done.returncode == 0, done.stderr[-3000:]
  return workdir


@pytest.mark.slow
@pytest.mark.parametrize(
  "step",
  [2] + [pytest.param(step, marks=pytest.mark.full) for step in (4, 6, 8)],
)
def test_killed_search_resumes_and_ends_like_an_uninterrupted_one(
  straight, step
):
  broken = straight.parent / f"broken{step}"
  _kill_behind(broken / "checkpoints" / str(step), broken)
  again = _run(broken)
  assert again.returncode == 0, again.stderr[-3000:]
  assert "resumed at step" in again.stdout
  assert _plans(broken) == _plans(straight)
  results = _results(straight)
  assert _results(broken)["results"] == results["results"]
  assert results["compilations"] == 1
  found = [row for row in results["results"] if row["name"] == "eos"]
  assert len(found) == 2
  for row in found:
    assert row["layer_average"] <= row["limit"]
  assert (straight / "accuracy_cost.png").stat().st_size > 1000


@pytest.mark.full
@pytest.mark.parametrize("stage", ["vision", "lookup", "grounding", "answers"])
def test_killed_pretraining_ends_with_the_same_weights(tmp_path_factory, stage):
  root = tmp_path_factory.mktemp("pretrain")
  done = _run(root / "straight", config="pretrain")
  assert done.returncode == 0, done.stderr[-3000:]
  _kill_behind(
    root / "broken" / stage / "checkpoints" / "3",
    root / "broken",
    config="pretrain",
  )
  again = _run(root / "broken", config="pretrain")
  assert again.returncode == 0, again.stderr[-3000:]
  cards = [
    json.loads((root / run / "tiny.json").read_text())
    for run in ("straight", "broken")
  ]
  assert cards[0] == cards[1]  # with the digest of the weights
  guesses = cards[0]["language_only"]
  assert list(guesses) == list(cards[0]["accuracy"])
  assert 0 < min(guesses.values()) and max(guesses.values()) < 1


def _error(workdir, *args, config="search"):
  """Standard error of a command that fails without a traceback."""
  done = _run(workdir, *args, config=config)
  assert done.returncode == 1
  assert "Traceback" not in done.stderr
  return done.stderr.strip()


def test_config_faults_end_with_one_clear_error(tmp_path):
  assert _error(
    tmp_path / "w", "--config.start=nonsense", "--config.batch=0"
  ) == (
    "error: the config has faults:\n"
    "  config.start is 'nonsense'; use one of fastv, grid, hybrid, merge,"
    " merge_proportional, pool, pool_soft, prune, random, reweight, tome\n"
    "  config.batch is 0; use 1 or more"
  )
  assert not (tmp_path / "w").exists()


def test_unknown_fields_are_all_named(tmp_path):
  assert _error(
    tmp_path / "w", "--config.stepz=3", "--config.evaluation.batsh=1"
  ) == (
    "error: the config has faults:\n"
    "  config.stepz is unknown; did you mean 'steps'?\n"
    "  config.evaluation.batsh is unknown; did you mean 'batch'?"
  )


def test_unreachable_budgets_say_what_can_be_reached(tmp_path):
  assert _error(
    tmp_path / "w",
    "--config.budgets=(16.0, 60.0, 0.5)",
    "--config.sites=('decoder.2',)",
  ) == (
    "error: the config has faults:\n"
    + "\n".join(
      f"  config.budgets has {limit}: smallest reachable layer average is 58.2:"
      " 2 of 5 decoder layers run before the first site 'decoder.2' with all"
      " 144 tokens; add an earlier site"
      for limit in ("16", "0.5")
    )
  )


def test_unknown_task_is_refused(tmp_path):
  assert _error(tmp_path / "w", "--config.task=dance") == (
    "error: config.task is 'dance'; use one of evaluate, pretrain, report,"
    " search"
  )


def test_an_edited_config_is_refused_with_its_changes(straight):
  before = _plans(straight)
  text = _error(straight, "--config.steps=2", "--config.seed=3")
  assert text == (
    f"error: --workdir={straight} belongs to a run with other settings; choose"
    " another directory, or restore these:\n"
    "  config.seed: 0 before, 3 now\n"
    "  config.steps: 4 before, 2 now"
  )
  assert _plans(straight) == before


def test_a_plan_is_evaluated_and_a_foreign_one_refused(straight, tmp_path):
  plan = straight / "plans" / "16.json"
  done = _run(
    tmp_path / "w",
    f"--config.plan={plan}",
    "--config.evaluation.presets=('prune',)",
    config="evaluate",
  )
  assert done.returncode == 0, done.stderr[-3000:]
  got = {row["name"]: row for row in _results(tmp_path / "w")["results"]}
  assert set(got) == {"dense", "eos@16", "prune"}
  # The same questions and weights as those behind the search's own table.
  known = {
    row["name"]: row
    for row in _results(straight)["results"]
    if row["limit"] in (None, 16.0)
  }
  for name, other in (("eos@16", "eos"), ("dense", "dense")):
    for field in ("accuracy", "error", "flops", "layer_average"):
      assert got[name][field] == known[other][field]
  alien = tmp_path / "alien.json"
  alien.write_text(
    plan.read_text()
    .replace('"model": "tiny"', '"model": "llava_1_5_7b"')
    .replace('"tokens": 144', '"tokens": 576')
  )
  assert _error(
    tmp_path / "v", f"--config.plan={alien}", config="evaluate"
  ) == (
    "error: the config has faults:\n"
    f"  config.plan: {alien} is of another model: model is 'llava_1_5_7b' there"
    " and 'tiny' here; use a plan that was searched for 'tiny'\n"
    f"  config.plan: {alien} is of another model: tokens is 576 there and 144"
    " here; use a plan that was searched for 'tiny'"
  )


def test_a_full_disk_is_named(tmp_path):
  workdir = tmp_path / "w"
  workdir.mkdir()
  # Everything written to it fails as on a full disk.
  (workdir / "run.json.part").symlink_to("/dev/full")
  text = _error(workdir)
  assert text.startswith("error: the disk is full, ")
  assert "it resumes at the last checkpoint" in text
