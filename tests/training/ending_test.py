"""The command line ends with one message, and does not wait for threads."""

import errno
import os
import subprocess
import sys

import pytest

from eos_jax.training import ending
from tests import command


class _Expected(Exception):
  pass


def _ended(text):
  """Runs Python code in another process, to its end."""
  return subprocess.run(
    [sys.executable, "-c", text],
    cwd=command.ROOT,
    capture_output=True,
    text=True,
    check=False,
    timeout=60,
  )


@pytest.mark.parametrize(
  "error, said",
  [
    (_Expected("use 1"), "error: use 1"),
    (OSError(errno.ENOSPC, "No space left on device"), "the disk is full, "),
    (OSError(errno.EDQUOT, "Disk quota exceeded"), "the disk is full, "),
    (
      ValueError("write:\n File too large 'x'"),
      "  (write: File too large 'x')",
    ),
    (OSError(errno.EACCES, "No", "{}/run/a"), "could not be written or read"),
    (ValueError("{}/run/a [os_error_code='20']"), "could not be written"),
  ],
  ids=str,
)
def test_what_can_be_mended_is_one_message(tmp_path, error, said):
  error.args = tuple(
    arg.replace("{}", str(tmp_path)) if isinstance(arg, str) else arg
    for arg in error.args
  )
  if isinstance(error, OSError) and error.filename:
    error.filename = error.filename.replace("{}", str(tmp_path))
  (tmp_path / "run").mkdir()
  with pytest.raises(SystemExit) as end:
    with ending.errors_as_messages(tmp_path / "run", (_Expected,)):
      raise error
  assert said in end.value.code and end.value.code.startswith("error: ")


@pytest.mark.parametrize(
  "error", [KeyError("a bug"), FileNotFoundError(2, "No such", "/elsewhere")]
)
def test_bugs_are_bugs(tmp_path, error):
  with pytest.raises(type(error)):
    with ending.errors_as_messages(tmp_path, (_Expected,)):
      raise error


@pytest.mark.slow
@pytest.mark.parametrize(
  "end, code, said",
  [
    ("sys.exit('error: so')", 1, "error: so\n"),
    ("1 / 0", 1, "Traceback "),
  ],
)
def test_threads_that_wait_for_ever_do_not_keep_it(end, code, said):
  text = (
    "import sys, threading\n"
    "from eos_jax.training import ending\n"
    "threading.Thread(target=threading.Event().wait).start()\n"
    "def command():\n"
    f"  {end}\n"
    "ending.run(command)\n"
  )
  done = _ended(text)
  assert done.returncode == code
  assert done.stderr.startswith(said) and bool(done.stderr) == bool(said)


def test_the_message_comes_after_the_last_line_of_a_progress_bar():
  text = (
    "import sys, tqdm\n"
    "from eos_jax.training import ending\n"
    "def command():\n"
    "  bar = tqdm.tqdm(total=9)\n"
    "  held = [bar]\n"
    "  held.append(held)\n"  # only the collector finds it
    "  sys.exit('error: so')\n"
    "ending.run(command)\n"
  )
  done = _ended(text)
  assert done.returncode == 1
  assert done.stderr.endswith("\nerror: so\n")


def test_output_that_cannot_be_written_is_an_error():
  with open("/dev/full", "w", encoding="utf-8") as full:
    done = subprocess.run(
      [
        sys.executable,
        "-c",
        "from eos_jax.training import ending; ending.run(print)",
      ],
      cwd=command.ROOT,
      env={**os.environ, "PYTHONUNBUFFERED": ""},
      stdout=full,
      stderr=subprocess.PIPE,
      text=True,
      check=False,
    )
  assert done.returncode == 1
  assert done.stderr == (
    "error: the output cannot be written (No space left on device)\n"
  )
