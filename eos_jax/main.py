"""The one entry of the command line.

  python -m eos_jax.main --config=configs/search.py [--workdir=DIR]

`config.task` says what to do. The file is short on purpose: everything it calls
can be imported.
"""

import signal

if __name__ == "__main__":
  # Until a run has begun there is nothing to save, and imports drop exceptions.
  signal.signal(signal.SIGINT, signal.SIG_DFL)

import errno
import os
import re
import runpy
import stat
import sys
from typing import Any

from absl import app, flags, logging
import jax
from ml_collections.config_flags import tuple_parser

from eos_jax import files, naming, processes, tasks
from eos_jax.data import sources
from eos_jax.models import fits
from eos_jax.training import checkpoint, ending, loop, settings, workdir

_CONFIG = flags.DEFINE_string(
  "config", None, "FILE.py or FILE.py:VARIANT; --config.FIELD=VALUE changes it."
)
_WORKDIR = flags.DEFINE_string(
  "workdir", "", "Where output goes; empty = runs/TASK."
)
_COORDINATOR = flags.DEFINE_string(
  "coordinator",
  "",
  "HOST:PORT of process 0 of several, each started with its --process_index.",
)
_PROCESS_INDEX = flags.DEFINE_integer(
  "process_index", -1, "Number of this process, from 0; with --coordinator."
)
_PROCESS_COUNT = flags.DEFINE_integer(
  "process_count", 0, "Processes of the job; checked. 0 = not announced."
)
_DEVICE_COUNT = flags.DEFINE_integer(
  "device_count", 0, "Devices of the job; checked. 0 = not announced."
)
_DISTRIBUTED = flags.DEFINE_bool(
  "distributed",
  False,
  "Join the other processes that Cloud TPU, GKE, Slurm or MPI tell of.",
)

_OVERRIDE = re.compile(r"--?(no)?(config\.[^=]*)(?:=(.*))?", re.DOTALL)
# What parses an override of a field, by the type of its default.
_PARSERS = {
  bool: flags.BooleanParser(),
  float: flags.FloatParser(),
  int: flags.IntegerParser(),
  str: flags.ArgumentParser(),
  tuple: tuple_parser.TupleParser(),
}

# What a user can mend; anything else is a bug and ends with its traceback.
EXPECTED = (
  checkpoint.CheckpointError,
  files.NotFinite,
  fits.TooLarge,
  processes.Interrupted,
  processes.LaunchError,
  settings.ConfigError,
  sources.DataError,
  workdir.WorkdirError,
)


def main(config: dict[str, Any]) -> None:
  """Runs the task that the config names."""
  logging.set_verbosity(logging.WARNING)
  task = config.pop("task", "")
  if task not in tasks.TASKS:
    known = settings.nearest(task, tasks.TASKS)
    sys.exit(f"error: config.task is {task!r}; {known}")
  path = _WORKDIR.value or f"runs/{tasks.reads(task, config) or task}"
  with ending.errors_as_messages(path, EXPECTED):
    path = workdir.absolute(path)
    processes.start(
      coordinator=_COORDINATOR.value,
      index=_PROCESS_INDEX.value,
      count=_PROCESS_COUNT.value,
      found=_DISTRIBUTED.value,
      devices=_DEVICE_COUNT.value,
    )
    with loop.stoppable():
      print(
        f"eos_jax {task}: process {jax.process_index()}/{jax.process_count()},"
        f" {jax.device_count()} x {jax.devices()[0].device_kind}, jax"
        f" {jax.__version__}, output in {path}",
        flush=True,
      )
      tasks.run(task, config, path)


def _parse(argv: list[str]) -> dict[str, Any]:
  """Returns the config; lists every override that does not fit it."""
  others, overrides = _split(
    flags.FLAGS.read_flags_from_files(argv, force_gnu=False)
  )
  if unexpected := app.parse_flags_with_usage(others)[1:]:
    sys.exit(f"error: unexpected arguments {unexpected}; use --config=FILE")
  config = _defaults(_CONFIG.value)
  faults = [_override(config, *override) for override in overrides.items()]
  if any(faults):
    sys.exit(f"error: {settings.ConfigError(list(filter(None, faults)))}")
  return config


def _split(argv: list[str]) -> tuple[list[str], dict[str, list[str | bool]]]:
  """Separates the other arguments, and the values of overrides by name.

  `--config.NAME` alone has the value True, `--noconfig.NAME` False.
  """
  others, overrides, left = [], {}, list(argv)
  while left:
    arg = left.pop(0)
    if not (override := _OVERRIDE.fullmatch(arg)):
      others.append(arg)
      continue
    negated, name, value = override.groups()
    if value is None:
      alone = negated or not left or re.match("--?[A-Za-z]", left[0])
      value = not negated if alone else left.pop(0)
    overrides.setdefault(name, []).append(value)
  return others, overrides


def _defaults(file: str) -> dict[str, Any]:
  """Returns the fields of a config file, before overrides."""
  path, _, variant = file.partition(":")
  try:
    if not stat.S_ISREG(os.stat(path).st_mode):
      raise OSError(errno.EINVAL, "it is no file")
    made = runpy.run_path(path)
  except OSError as error:
    sys.exit(
      f"error: --config={file} cannot be read ({error.strerror}); give a file,"
      " such as configs/search.py"
    )
  except Exception as error:  # whatever is in the file
    sys.exit(
      f"error: --config={file!a} is no config: {ending.in_a_line(error)}"
    )
  try:
    return made["get_config"](variant).to_dict()
  except ValueError as error:  # what our configs say of a variant
    sys.exit(f"error: --config={file}: {error}")
  except Exception as error:  # whatever is in the file
    sys.exit(
      f"error: --config={file!a} is no config: get_config({variant!r}) has to"
      f" return a ConfigDict: {ending.in_a_line(error)}"
    )


def _override(config: Any, name: str, values: list[str | bool]) -> str:
  """Changes a field, a tuple to all of the values; returns a fault, or ""."""
  where, shown = naming.quoted(name).strip("'"), naming.quoted(values[-1])
  for part in name.split(".")[1:]:
    if not isinstance(config, dict):
      return f"{where} is unknown; it is a single value that has no fields"
    if part not in config:
      return f"{where} is unknown; {settings.nearest(part, config)}"
    group, config = config, config[part]
  kind = type(config)
  if kind is dict:
    fields = ", ".join(f"{name}.{field}" for field in config)
    return f"{name} must be a group of fields, got {shown}; set one of {fields}"
  if kind is not bool and any(isinstance(value, bool) for value in values):
    return f"{name} must be {kind.__name__}; give --{name}=VALUE"
  try:
    parsed = [_PARSERS[kind].parse(value) for value in values]
  except (KeyError, ValueError, RecursionError, MemoryError):
    return f"{name} must be {kind.__name__}, got {shown}"
  group[part] = sum(parsed, ()) if kind is tuple else parsed[-1]
  return ""


if __name__ == "__main__":
  flags.mark_flags_as_required(["config"])
  ending.run(lambda: app.run(main, flags_parser=_parse))
