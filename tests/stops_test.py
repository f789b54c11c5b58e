"""SIGTERM and Ctrl-C end a run cleanly, whatever it is doing."""

import signal
import subprocess
import sys

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
