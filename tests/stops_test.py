"""SIGTERM and Ctrl-C end a run cleanly, whatever it is doing."""

import re
import signal
import subprocess
import sys
import time

import pytest

from tests import command

_STOPPED = re.compile(
  r"error: stopped (by SIG(TERM|INT); what is finished is kept"
  r"|at search step \d of 8; the state is saved),"
  r" run the same command again to go on"
)


def _stop(search, file, number):
  """Starts a search and stops it once a file is there and is not empty."""
  process = search.start()
  while process.poll() is None:
    if file.is_dir() or (file.exists() and file.stat().st_size):
      break
    time.sleep(0.002)
  process.send_signal(number)
  assert process.wait() == 1, search.stderr()
  said = search.stderr()
  assert "Traceback" not in said and "Exception ignored" not in said
  assert _STOPPED.fullmatch(said.splitlines()[-1]), said


@pytest.mark.slow
def test_a_run_stopped_in_every_phase_ends_like_an_untouched_one(
  searched, tmp_path
):
  search = command.Search(tmp_path, searched.cache)
  run, data = search.workdir, tmp_path / "data"
  _stop(search, data / "mini_suite", signal.SIGINT)
  assert not list(data.rglob("incomplete.*"))
  assert not list(data.rglob("dataset_info.json"))
  _stop(search, run / "metrics.jsonl", signal.SIGTERM)
  assert list((run / "checkpoints").iterdir())
  _stop(search, run / "evaluation.jsonl", signal.SIGTERM)
  kept = (run / "evaluation.jsonl").read_text()
  _stop(search, run / "table.txt", signal.SIGINT)
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
