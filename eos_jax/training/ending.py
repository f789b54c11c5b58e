"""How the command line ends: one message for what a user can mend, and no hang.

Anything else is a bug and ends with its traceback.
"""

from collections.abc import Callable, Iterator
import contextlib
import errno
import gc
import os
import shutil
import sys
import traceback
from typing import NoReturn

from absl import logging
import jax

# Of a disk, of a quota, and of what a process may write to a file.
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# tensorstore and protobuf pass on the text of the system's error only; the
# other one is what tfds says.
_FULL_TEXTS = (*map(os.strerror, _FULL), "Not enough disk space")


@contextlib.contextmanager
def errors_as_messages(
  path: str | os.PathLike, expected: tuple[type[BaseException], ...]
) -> Iterator[None]:
  """Ends the process with a message at errors that a user can mend.

  Args:
    path: the directory of the run.
    expected: errors whose text says what to do.
  """
  try:
    yield
  except expected as error:
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


def run(command: Callable[[], None]) -> NoReturn:
  """Runs a command and ends the process, whatever is left running.

  A run that fails or is stopped ends without Python's own shutdown: threads may
  wait for what never comes (Orbax's do, for minutes, where a save has failed
  early), and native ones that still run can crash in it.
  """
  _say_once()
  code: object = 0
  try:
    command()
  except SystemExit as end:
    code = end.code
  except BrokenPipeError:
    code = (
      "error: the reader of the output has gone; what is finished is kept, run"
      " the same command again to go on"
    )
  except Exception:
    traceback.print_exc()
    code = 1
  gc.collect()  # progress bars that the error held draw their last line now
  try:
    if sys.stdout is not None:
      sys.stdout.flush()
  except OSError as error:
    # Or Python would fail to write the rest once more at its end.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    code = code or f"error: the output cannot be written ({error.strerror})"
  # Several processes shut down together, which Python does at its exit.
  if not code or jax.distributed.is_initialized():
    sys.exit(code)
  if isinstance(code, str):
    print(code, file=sys.stderr)
    code = 1
  sys.stderr.flush()
  os._exit(code)


def _line(error: Exception) -> str:
  """What an error says, in one line."""
  return " ".join(str(error).split())[:300]


def in_a_line(error: Exception) -> str:
  """An error, and of what kind it is, in one line."""
  return f"{type(error).__name__}: {_line(error)}"
