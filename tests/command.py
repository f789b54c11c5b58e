"""Runs the command line as a user does: another process, the short forms."""

import json
import os
import pathlib
import re
import subprocess
import sys
import time

import numpy as np

ROOT = pathlib.Path(__file__).parents[1]

# Phases of a search, and the file or folder with which each begins.
PHASES = {
  "data": "data/mini_suite",
  "search": "run/checkpoints",
  "evaluation": "run/evaluation.jsonl",
  "report": "run/table.txt",
}


# Tests are about what a run does, not about its speed. `.ci/run` runs the main
# job with XLA's defaults.
FAST_COMPILATION = "--xla_backend_optimization_level=0"


def options(workdir, *args, config="search:ci", cache="", devices=1):
  """Arguments of `subprocess` for a task."""
  cache = cache or workdir.parent / "cache"
  # A run finds what others compiled.
  environment = {
    **{k: v for k, v in os.environ.items() if k != "XLA_FLAGS"},
    "JAX_COMPILATION_CACHE_DIR": str(cache),
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    "XLA_FLAGS": FAST_COMPILATION
    + f" --xla_force_host_platform_device_count={devices}",
  }
  name, _, variant = config.partition(":")
  config = f"configs/{name}.py" + (f":{variant}" if variant else "")
  command = [sys.executable, "-m", "eos_jax.main", f"--config={config}"]
  command += [f"--workdir={workdir}", *args]
  return {
    "args": command,
    "cwd": ROOT,
    "env": environment,
    "text": True,
    "stdin": subprocess.DEVNULL,
  }


def run(workdir, *args, **settings):
  """Runs a task to its end."""
  made = options(workdir, *args, **settings)
  return subprocess.run(**made, capture_output=True, check=False)


def error(workdir, *args, **settings):
  """The message of a command that fails as it should: without a traceback."""
  done = run(workdir, *args, **settings)
  assert done.returncode == 1, done.stderr[-3000:]
  assert "Traceback" not in done.stderr, done.stderr[-3000:]
  return done.stderr.strip()


# The last line of a run that a signal has stopped.
STOPPED = re.compile(
  r"error: stopped (by SIG(TERM|INT); what is finished is kept"
  r"|at search step \d of [48]; the state is saved),"
  r" run the same command again to go on"
)


class Search:
  """A short search with data of its own: `root/run`, `root/data`."""

  def __init__(self, root, cache, *args, devices=1):
    self.root, self.cache, self.devices = root, cache, devices
    self.workdir = root / "run"
    self.args = (f"--config.data.directory={root / 'data'}", *args)

  def run(self):
    """Runs or resumes it to its end."""
    done = run(self.workdir, *self.args, cache=self.cache, devices=self.devices)
    assert done.returncode == 0, done.stderr[-3000:]
    return done

  def start(self):
    """Starts or resumes it; the caller waits."""
    self.root.mkdir(exist_ok=True)
    made = options(
      self.workdir, *self.args, cache=self.cache, devices=self.devices
    )
    with (
      open(self.root / "stdout.txt", "w", encoding="utf-8") as stdout,
      open(self.root / "stderr.txt", "w", encoding="utf-8") as stderr,
    ):
      return subprocess.Popen(**made, stdout=stdout, stderr=stderr)

  def stop(self, file, number):
    """Starts or resumes it, and stops it by a signal once a file is there.

    A file counts as there when it is not empty.
    """
    process = self.start()
    while process.poll() is None:
      if file.is_dir() or (file.exists() and file.stat().st_size):
        break
      time.sleep(0.002)
    process.send_signal(number)
    assert process.wait() == 1, self.stderr()
    said = self.stderr()
    assert "Traceback" not in said and "Exception ignored" not in said
    assert STOPPED.fullmatch(said.splitlines()[-1]), said

  def stdout(self):
    """What it has said on standard output since it was started."""
    return (self.root / "stdout.txt").read_text(encoding="utf-8")

  def stderr(self):
    """What it has said on standard error since it was started."""
    return (self.root / "stderr.txt").read_text(encoding="utf-8")

  def phase(self):
    """The last phase that has begun; "" = none."""
    begun = [p for p, file in PHASES.items() if (self.root / file).exists()]
    return begun[-1] if begun else ""

  def wait_for(self, phase, process):
    """Waits until a phase has begun, or the process has ended."""
    while process.poll() is None and not (self.root / PHASES[phase]).exists():
      time.sleep(0.002)

  def outputs(self):
    """What it has found and shown, without times and places, by file."""
    found = {}
    for path in sorted(self.workdir.rglob("*")):
      name = str(path.relative_to(self.workdir))
      if name.startswith("checkpoints"):
        continue
      if path.suffix == ".npz":
        with np.load(path) as table:
          found[name] = {
            key: (value.dtype, value.shape, value.tobytes())
            for key, value in table.items()
          }
      elif name == "results.json":
        value = json.loads(self._text(path))
        assert value.pop("seconds")
        found[name] = value
      elif name == "accuracy_cost.png":
        found[name] = path.read_bytes()
      elif path.suffix in (".json", ".html", ".txt") or name == "metrics.jsonl":
        found[name] = self._text(path)
    return found

  def _text(self, path):
    return path.read_text(encoding="utf-8").replace(str(self.root), "ROOT")


def read_all(folder):
  """Every file in a folder, by name."""
  return {
    str(path.relative_to(folder)): path.read_bytes()
    for path in folder.rglob("*")
    if path.is_file()
  }


def differences(one, other):
  """Names of the files in which two outputs differ, or that one lacks."""
  return sorted(
    name
    for name in one.keys() | other.keys()
    if name not in one or name not in other or one[name] != other[name]
  )
