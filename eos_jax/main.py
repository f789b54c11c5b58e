"""The one entry of the command line.

  python -m eos_jax.main --config=configs/search.py [--workdir=DIR]

`config.task` says what to do. The file is short on purpose: everything it calls
can be imported.
"""

import signal

if __name__ == "__main__":
  # Until a run has begun there is nothing to save, and imports drop exceptions.
  signal.signal(signal.SIGINT, signal.SIG_DFL)

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
  "config",
  None,
  "Config file, optionally with a variant: FILE.py:VARIANT. A field of it is"
  " changed by --config.FIELD=VALUE.",
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
_FLAG = re.compile(r"--?[A-Za-z]")

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
  argv, overrides = _split(flags.FLAGS.read_flags_from_files(argv, False))
  if unexpected := app.parse_flags_with_usage(argv)[1:]:
    sys.exit(f"error: unexpected arguments {unexpected}; use --config=FILE")
  config, faults = _defaults(_CONFIG.value), []
  for name, values in overrides.items():
    try:
      _override(config, name, values)
    except ValueError as error:
      faults.append(str(error))
  if faults:
    sys.exit(f"error: {settings.ConfigError(faults)}")
  return config


def _split(
  argv: list[str],
) -> tuple[list[str], dict[str, list[str | bool]]]:
  """Separates overrides of the config from the other arguments.

  Returns:
    The others, and the values of each override by its name: True stands for
    `--config.NAME` alone and False for `--noconfig.NAME`.
  """
  others, overrides, left = [], {}, list(argv)
  while left:
    arg = left.pop(0)
    if not (override := _OVERRIDE.fullmatch(arg)):
      others.append(arg)
      continue
    negated, name, value = override.groups()
    if value is None and not negated and left and not _FLAG.match(left[0]):
      value = left.pop(0)
    value = not negated if value is None else value
    overrides.setdefault(name, []).append(value)
  return others, overrides


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


def _override(
  config: dict[str, Any], name: str, values: list[str | bool]
) -> None:
  """Changes a field; the last value counts, or all of them for a tuple.

  Raises:
    ValueError: the field is unknown, or a value is of another type.
  """
  here: Any = config
  for part in name.split(".")[1:]:
    where = naming.quoted(name).strip("'")
    if not isinstance(here, dict):
      raise ValueError(
        f"{where} is unknown; it is a single value that has no fields"
      )
    if part not in here:
      raise ValueError(f"{where} is unknown; {settings.nearest(part, here)}")
    group, here = here, here[part]
  if isinstance(here, dict):
    raise ValueError(
      f"{name} must be a group of fields, got {naming.quoted(values[-1])}; set"
      f" one of {', '.join(f'{name}.{field}' for field in here)}"
    )
  parsed = [_value(name, value, type(here)) for value in values]
  group[part] = sum(parsed, ()) if isinstance(here, tuple) else parsed[-1]


def _value(name, value, kind):
  if isinstance(value, bool) and kind is not bool:
    raise ValueError(f"{name} must be {kind.__name__}; give --{name}=VALUE")
  try:
    return _PARSERS[kind].parse(value)
  except (ValueError, RecursionError, MemoryError) as error:
    raise ValueError(
      f"{name} must be {kind.__name__}, got {naming.quoted(value)}"
    ) from error


if __name__ == "__main__":
  flags.mark_flags_as_required(["config"])
  ending.run(lambda: app.run(main, flags_parser=_parse))
