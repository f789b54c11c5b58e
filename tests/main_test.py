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
@pytest.mark.parametrize("stage", ["vision", "answers"])
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


def test_config_faults_end_with_one_clear_error(tmp_path):
  done = _run(tmp_path / "w", "--config.start=nonsense")
  assert done.returncode != 0
  assert "error: config.start is 'nonsense'; use one of" in done.stderr
  assert "Traceback" not in done.stderr


def test_unknown_task_is_refused(tmp_path):
  done = _run(tmp_path / "w", "--config.task=dance")
  assert done.returncode != 0
  assert "config.task is 'dance'; use one of pretrain, search" in done.stderr
