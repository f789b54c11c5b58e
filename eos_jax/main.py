"""The one entry of the command line.

  python -m eos_jax.main --config=configs/search.py [--workdir=DIR]

`config.task` says what to do. The file is short on purpose: everything it calls
can be imported.
"""

import signal

if __name__ == "__main__":
  # Until a run has begun there is nothing to save, and imports drop exceptions.
  signal.signal(signal.SIGINT, signal.SIG_DFL)

from collections.abc import Iterator
import contextlib
import errno
import itertools
import os
import runpy
import shutil
import stat
import sys
import threading
import traceback
from typing import Any

from absl import app, flags, logging
import jax
from ml_collections import config_flags
from ml_collections.config_flags import tuple_parser

from eos_jax import files, naming, processes, tasks
from eos_jax.data import sources
from eos_jax.training import checkpoint, fits, loop, settings, workdir

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

# Of a disk, of a quota, and of what a process may write to a file.
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# tensorstore and protobuf pass on the text of the system's error only; the
# other one is what tfds says.
_FULL_TEXTS = (*map(os.strerror, _FULL), "Not enough disk space")


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
  path = _WORKDIR.value or f"runs/{tasks.TASKS[task].reads or task}"
  with errors_as_messages(path):
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


@contextlib.contextmanager
def errors_as_messages(path: str) -> Iterator[None]:
  """Ends the process with a message at errors that a user can mend.

  Args:
    path: the directory of the run.
  """
  try:
    yield
  except EXPECTED as error:
    sys.exit(f"error: {error}")
  except Exception as error:
    path = os.path.abspath(path)
    if _disk_is_full(error):
      free = shutil.disk_usage(path).free / 2**20
      sys.exit(
        f"error: the disk is full, {free:.0f} MiB are left at {path}. Free"
        " some space and run the same command again: it resumes at the last"
        f" checkpoint.\n  ({_line(error)})"
      )
    if _is_about_files(error, path):
      sys.exit(
        f"error: a file of the run in {path} could not be written or read;"
        " mend that and run the same command again: it resumes at the last"
        f" checkpoint.\n  ({_line(error)})"
      )
    raise


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
    sys.exit(f"error: --config={file!a} is no config: {_short(error)}")
  try:
    return made["get_config"](variant).to_dict()
  except ValueError as error:  # what our configs say of a variant
    sys.exit(f"error: --config={file}: {error}")
  except Exception as error:  # whatever is in the file
    sys.exit(
      f"error: --config={file!a} is no config: get_config({variant!r}) has to"
      f" return a ConfigDict: {_short(error)}"
    )


def _line(error: Exception) -> str:
  """What an error says, in one line."""
  return " ".join(str(error).split())[:300]


def _short(error: Exception) -> str:
  """An error in one line."""
  return f"{type(error).__name__}: {_line(error)}"


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


def _disk_is_full(error: Exception) -> bool:
  """Whether an error, or what caused it, is about a full disk."""
  return any(
    getattr(each, "errno", None) in _FULL
    or any(text in str(each) for text in _FULL_TEXTS)
    for each in _causes(error)
  )


def _is_about_files(error: Exception, path: str) -> bool:
  """Whether the system refused something with a file in a directory."""
  return any(
    path in str(each)
    and (isinstance(each, OSError) or "os_error_code=" in str(each))
    for each in _causes(error)
  )


def _causes(error: BaseException | None) -> Iterator[BaseException]:
  """An error and what led to it."""
  while error is not None:
    yield error
    error = error.__cause__ or error.__context__


def _say_once() -> None:
  """Leaves out what libraries print of errors that they raise as well.

  Orbax logs the traceback of each thread that fails in a save, and raises the
  first of their errors in the main thread. What tensorstore was still writing
  by then prints one for each array, since nothing waits for it any more.
  """

  def wanted(record):
    return not (record.exc_info and "orbax" in record.pathname)

  def print_others(lost, hook=sys.unraisablehook):
    last = traceback.extract_tb(lost.exc_traceback)[-1:]
    if [place.name for place in last] != ["_check_closed"]:
      hook(lost)

  logging.get_absl_logger().addFilter(wanted)
  sys.unraisablehook = print_others


def _run() -> None:
  """The command line; after a failure nothing keeps it from ending.

  Threads may wait for what never comes: Orbax's do, for minutes, where a save
  has failed early.
  """
  _say_once()
  try:
    try:
      app.run(main, flags_parser=_parse)
    finally:
      if sys.stdout is not None:
        sys.stdout.flush()
  except SystemExit as end:
    code = end.code
  except BrokenPipeError:
    # Or Python would fail to write the rest once more at its end.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    code = (
      "error: the reader of the output has gone; what is finished is kept, run"
      " the same command again to go on"
    )
  except Exception:
    traceback.print_exc()
    code = 1
  others = [t for t in threading.enumerate() if not t.daemon]
  if not code or others == [threading.main_thread()]:
    sys.exit(code)
  if isinstance(code, str):
    print(code, file=sys.stderr)
    code = 1
  sys.stderr.flush()
  os._exit(code)


if __name__ == "__main__":
  flags.mark_flags_as_required(["config"])
  _run()
