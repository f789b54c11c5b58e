"""A run that cannot write any more ends in one message, and resumes."""

import json
import random
import re
import subprocess
import sys

import pytest

from tests import command

# Counts up for 30 steps; files may grow to so many bytes. The command line's
# own parts but for flags and task.
_CODE = """
import resource, sys
import grain, jax.numpy as jnp, numpy as np
from eos_jax import main
from eos_jax.data import loader
from eos_jax.training import ending, loop, record, speed, workdir
import pathlib
path, most, size = pathlib.Path(sys.argv[1]), *map(int, sys.argv[2:])

def job():
  resource.setrlimit(resource.RLIMIT_FSIZE, (most, resource.RLIM_INFINITY))
  numbers = loader.Batches(grain.MapDataset.source(np.arange(99)).repeat(), 1)
  state = {f"x{i}": jnp.zeros(size) for i in range(24)}
  with record.Record(path, {"seed": 1}) as book:
    state, numbers, start = book.resume(state, numbers, 30)
    def advance(step, state, batch):
      state = {n: np.asarray(x) + step for n, x in state.items()}
      return state, {"value": np.arange(20) * state["x3"][0]}
    def log(step, values):
      book.writer.write(step, values)
      return ""
    loop.run(
      advance, state, numbers, start=start, stop=30, label="count", log=log,
      meter=speed.Meter(speed.Work(tokens=1), path, book.writer), log_every=1,
      save=book.save, save_every=4,
    )

def run():
  with ending.errors_as_messages(path, main.EXPECTED), loop.stoppable():
    with workdir.opened(path, "search", {}):
      job()
  sys.exit()

ending.run(run)
"""


def _run(path, most, size):
  done = subprocess.run(
    [sys.executable, "-c", _CODE, str(path), str(most), str(size)],
    **{
      key: value
      for key, value in command.options(path).items()
      if key not in ("args",)
    },
    capture_output=True,
    check=False,
    timeout=120,
  )
  return done.returncode, done.stderr


def _metrics(path):
  lines = (path / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
  return [json.loads(line) for line in lines]


@pytest.mark.full
@pytest.mark.parametrize("seed", range(12))
def test_a_run_that_cannot_write_ends_and_resumes(tmp_path, seed):
  draw = random.Random(seed)
  path, most = tmp_path / "run", int(10 ** draw.uniform(2.5, 4.5))
  size = draw.choice([10, 1000])
  code, said = _run(path, most, size)
  assert code == 1, said
  assert "Traceback" not in said and "ERROR" not in said, said
  assert re.search(
    rf"\nerror: the disk is full, \d+ MiB are left at {path}\. Free some space"
    r" and run the same command again: it resumes at the last checkpoint\."
    r"\n  \(.*File too large.*\)\n$",
    "\n" + said.replace("\r", "\n"),
  ), said
  code, said = _run(path, 10**9, size)
  assert code == 0, said
  assert [row["step"] for row in _metrics(path)] == list(range(1, 31))
  last = _metrics(path)[-1]["value"]
  assert last == [n * sum(range(30)) for n in range(20)]


@pytest.mark.full
def test_a_save_that_fails_early_ends_the_run(tmp_path):
  """Orbax's threads would wait for ten minutes."""
  path = tmp_path / "run"
  path.mkdir()
  code = _CODE.replace(
    "      job()\n",
    "      (path / 'checkpoints').write_text('')\n      job()\n",
  )
  done = subprocess.run(
    [sys.executable, "-c", code, str(path), str(10**9), "10"],
    cwd=command.ROOT,
    capture_output=True,
    text=True,
    check=False,
    timeout=120,
  )
  assert done.returncode == 1, done.stderr
  assert "Traceback" not in done.stderr, done.stderr
  assert "checkpoints" in done.stderr.splitlines()[-1]
