"""The one entry of the command line.

  python -m eos_jax.main --config=configs/search.py [--workdir=DIR]

`config.task` says what to do. The file is short on purpose: everything it calls
can be imported.
"""

import signal

if __name__ == "__main__":
  # Until a run has begun there is nothing to save, and imports drop exceptions.
  signal.signal(signal.SIGINT, signal.SIG_DFL)

import itertools
import os
import runpy
import stat
import sys
from typing import Any

from absl import app, flags, logging
import jax
from ml_collections import config_flags
from ml_collections.config_flags import tuple_parser

from eos_jax import files, naming, processes, tasks
from eos_jax.data import sources
from eos_jax.training import (
  checkpoint,
  ending,
  fits,
  loop,
  settings,
  workdir,
)

_CONFIG = config_flags.DEFINE_config_file(
  "config", None, "Config file, optionally with a variant: FILE.py:VARIANT."
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


def main(argv: list[str]) -> None:
  """Runs the task that the config names."""
  if len(argv) > 1:
    raise app.UsageError(f"unexpected arguments {argv[1:]}; use --config=FILE")
  logging.set_verbosity(logging.WARNING)
  config = _CONFIG.value.to_dict()
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


def _parse(argv: list[str]) -> list[str]:
  """Parses the flags; lists every override that does not fit the config."""
  faults = _override_faults(argv)
  if faults:
    sys.exit(f"error: {settings.ConfigError(faults)}")
  return app.parse_flags_with_usage(argv)


def _override_faults(argv: list[str]) -> list[str]:
  """What is wrong with the config and with `--config.NAME=VALUE` arguments.

  absl and ml_collections name the first fault only, and some with a traceback.
  """
  given = []
  for arg, after in itertools.zip_longest(argv[1:], argv[2:], fillvalue=""):
    name, equals, value = arg.lstrip("-").partition("=")
    given.append((name, value if equals else after, not equals))
  paths = [value for name, value, _ in given if name == "config"]
  if not paths:
    return []  # absl asks for it
  defaults, faults = _defaults(paths[-1]), []
  for name, value, alone in given:
    if name.startswith("config."):
      faults += _override_fault(name, value, defaults, alone)
  return faults


def _defaults(file: str) -> dict[str, Any]:
  """The fields of a config file, before overrides."""
  path, _, variant = file.partition(":")
  try:
    if not stat.S_ISREG(os.stat(path).st_mode):
      sys.exit(
        f"error: --config={file} is no file; give one, such as"
        " configs/search.py"
      )
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


def _override_fault(name, value, config, alone):
  """At most one fault, in words; `alone`: the value is the next argument."""
  for part in name.split(".")[1:]:
    where = naming.quoted(name).strip("'")
    if not isinstance(config, dict):
      return [f"{where} is unknown; it is a single value that has no fields"]
    if part not in config:
      return [f"{where} is unknown; {settings.nearest(part, config)}"]
    config = config[part]
  if isinstance(config, dict):
    return [
      f"{name} must be a group of fields, got {naming.quoted(value)}; set one"
      f" of {', '.join(f'{name}.{field}' for field in config)}"
    ]
  kind = type(config)
  if alone and kind is bool:  # `--config.best`
    return []
  try:
    _PARSERS[kind].parse(value)
  except (ValueError, RecursionError, MemoryError):
    return [f"{name} must be {kind.__name__}, got {naming.quoted(value)}"]
  return []


if __name__ == "__main__":
  flags.mark_flags_as_required(["config"])
  ending.run(lambda: app.run(main, flags_parser=_parse))
