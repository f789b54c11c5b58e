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


def _command(workdir, *extra):
  return [
    sys.executable,
    "-m",
    "eos_jax.main",
    "--config=configs/search.py:ci",
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


def _run(workdir, *args):
  return subprocess.run(
    _command(workdir, *args),
    cwd=ROOT,
    env=_environment(workdir.parent / "cache"),
    capture_output=True,
    text=True,
    check=False,
  )


@pytest.mark.slow
def test_interrupted_search_resumes_and_ends_like_an_uninterrupted_one(
  tmp_path,
):
  straight = _run(tmp_path / "straight")
  assert straight.returncode == 0, straight.stderr[-3000:]

  broken = tmp_path / "broken"
  process = subprocess.Popen(
    _command(broken),
    cwd=ROOT,
    env=_environment(tmp_path / "cache"),
    stdout=subprocess.DEVNULL,
    stderr=subprocess.DEVNULL,
  )
  checkpoints = broken / "checkpoints"
  while process.poll() is None and not (checkpoints / "2").is_dir():
    time.sleep(0.05)
  process.send_signal(signal.SIGKILL)
  process.wait()
  again = _run(broken)
  assert again.returncode == 0, again.stderr[-3000:]
  assert "resumed at step" in again.stdout

  for name in ("48.json", "16.json"):
    one = (tmp_path / "straight" / "plans" / name).read_text()
    other = (broken / "plans" / name).read_text()
    assert one == other
  results = [
    json.loads((tmp_path / run / "results.json").read_text())
    for run in ("straight", "broken")
  ]
  assert results[0]["results"] == results[1]["results"]
  assert results[0]["compilations"] == 1
  for row in results[0]["results"]:
    if row["name"] == "eos":
      assert row["layer_average"] <= row["limit"]
  assert (tmp_path / "straight" / "accuracy_cost.png").stat().st_size > 1000


def test_config_faults_end_with_one_clear_error(tmp_path):
  done = _run(tmp_path / "w", "--config.start=nonsense")
  assert done.returncode != 0
  assert "error: config.start is 'nonsense'; use one of" in done.stderr
  assert "Traceback" not in done.stderr


def test_unknown_task_is_refused(tmp_path):
  done = _run(tmp_path / "w", "--config.task=dance")
  assert done.returncode != 0
  assert "config.task is 'dance'; use one of pretrain, search" in done.stderr
