"""SIGTERM and Ctrl-C end a run cleanly, whatever it is doing."""

import collections
import contextlib
import random
import shutil
import signal
import subprocess
import sys
import time

import pytest

from tests import command


@pytest.mark.full
def test_a_run_stopped_in_every_phase_ends_like_an_untouched_one(
  searched, tmp_path
):
  search = command.Search(tmp_path, searched.cache)
  run, data = search.workdir, tmp_path / "data"
  search.stop(data / "mini_suite", signal.SIGINT)
  assert not list(data.rglob("incomplete.*"))
  assert not list(data.rglob("dataset_info.json"))
  search.stop(run / "metrics.jsonl", signal.SIGTERM)
  assert list((run / "checkpoints").iterdir())
  search.stop(run / "evaluation.jsonl", signal.SIGTERM)
  kept = (run / "evaluation.jsonl").read_text()
  search.stop(run / "table.txt", signal.SIGINT)
  assert (run / "evaluation.jsonl").read_text().startswith(kept)
  search.run()
  different = command.differences(search.outputs(), searched.outputs())
  assert not different


def _signalled(search, number, delay):
  """Starts a search that has to compile, and sends it a signal.

  Returns:
    What became of it: "stopped", "ended" before the signal, "killed" while it
    was starting; anything else is a failure, in words.
  """
  process = search.start()
  with contextlib.suppress(subprocess.TimeoutExpired):
    process.wait(delay)
  if process.poll() is not None or "Look at" in search.stdout():
    assert process.wait() == 0, search.stderr()
    return "ended"
  begun = bool(search.stdout())
  process.send_signal(number)
  try:
    code = process.wait(timeout=300)
  except subprocess.TimeoutExpired:
    process.kill()
    process.wait()
    return f"hung: {search.stderr()}"
  said = search.stderr()
  if not begun and code == -number:
    return "killed"
  if code != 1 or "Traceback" in said or "Exception ignored" in said:
    return f"exit code {code}: {said}"
  if not command.STOPPED.fullmatch(said.splitlines()[-1]):
    return f"another message: {said}"
  return "stopped"


@pytest.mark.full
@pytest.mark.parametrize("seed", range(4))
def test_no_signal_is_lost(seed, tmp_path, capsys):
  """Of 100 at random moments of a search that compiles most of the time."""
  draw, length, ends = random.Random(seed), 60.0, collections.Counter()
  args = (
    f"--config.data.directory={tmp_path / 'data'}",
    "--config.budgets=(16.0,)",
    "--config.evaluation.presets=()",
    "--config.evaluation.questions=16",
  )
  while ends.total() - ends["ended"] < 25:
    search = command.Search(tmp_path / "run", tmp_path / "cache", *args)
    number = draw.choice([signal.SIGTERM, signal.SIGINT])
    began, delay = time.monotonic(), draw.random() * length
    end = _signalled(search, number, delay)
    ends[end] += 1
    if end == "ended":
      length = time.monotonic() - began
    with capsys.disabled():
      line = f"\nseed {seed}: {number.name} after {delay:.1f} s: {end}"
      print(line, end="", file=sys.stderr)
    shutil.rmtree(search.root)
    shutil.rmtree(search.cache, ignore_errors=True)  # it compiles again
  assert set(ends) <= {"stopped", "killed", "ended"}, ends
  assert ends["stopped"] > 15


def test_helpers_that_render_leave_the_end_to_their_caller():
  code = (
    "import os, signal, time\n"
    "from eos_jax.data import rendering\n"
    "made = rendering.rendered('test', 200, workers=2)\n"
    "next(made)\n"
    # A shell's background jobs are started with it ignored.
    "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
    "try:\n"
    "  os.killpg(0, signal.SIGINT)  # as a terminal does on Ctrl-C\n"
    "  time.sleep(60)\n"
    "except KeyboardInterrupt:\n"
    "  next(made)\n"
    "  made.close()\n"
    "  print('closed')\n"
  )
  done = subprocess.run(
    [sys.executable, "-c", code],
    cwd=command.ROOT,
    capture_output=True,
    text=True,
    check=False,
    start_new_session=True,
    timeout=120,
  )
  assert (done.stdout, done.stderr) == ("closed\n", "")
