"""The directory of a run: one run at a time, one config, nobody else's files.

`run.json` in it says what the run is: its task, its resolved config and the
versions that it started with. A second start in the same directory resumes the
run and has to mean the same.
"""

from collections.abc import Collection, Mapping
import contextlib
import errno
import fcntl
import importlib.metadata
import os
import pathlib
import stat
from typing import Any

import eos_jax
from eos_jax import files

_FORMAT = "eos_jax.Run/2"
# Folders of a run, and the endings of its files.
_FOLDERS = {"checkpoints", "checkpoints.damaged", "examples", "plans"}
_FOLDERS |= {"tensorboard", "vision", "lookup", "grounding", "answers"}
_FILES = {".csv", ".html", ".json", ".jsonl", ".md", ".npz", ".png"}
_FILES |= {".safetensors", ".txt"}
_PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint")


class WorkdirError(ValueError):
  """A directory that a run cannot use."""


def absolute(path: str | pathlib.Path) -> pathlib.Path:
  """The directory of a run, by its absolute path.

  Raises:
    WorkdirError: files of that path cannot be made, or not be named in text.
  """
  try:
    whole = pathlib.Path(path).absolute()
    if "\0" not in whole.as_posix().encode().decode():
      return whole
    fault = "holds a NUL character"
  except UnicodeEncodeError:
    fault = "is not in UTF-8"
  except OSError as error:  # of the current directory
    fault = f"cannot be found from the current directory ({error.strerror})"
  raise WorkdirError(
    f"--workdir={str(path)!a} {fault}; choose another directory"
  )


@contextlib.contextmanager
def opened(
  path: pathlib.Path,
  task: str,
  config: Mapping[str, Any],
  *,
  resumable: Collection[str] = (),
):
  """Makes a directory this run's own until the block ends.

  Args:
    path: the directory; made if need be.
    task: what the run does.
    config: resolved config, plain JSON values.
    resumable: dotted names, starting with "config.", of the fields or groups
      that may differ from those of an earlier start.

  Raises:
    WorkdirError: it cannot be written, holds other things than a run, belongs
      to a run of another task or config, or is in use.
  """
  path = absolute(path)
  with contextlib.ExitStack() as stack:
    try:
      path.mkdir(parents=True, exist_ok=True)
      lock = stack.enter_context(_lock(path / ".lock"))
    except OSError as error:
      raise WorkdirError(
        f"--workdir={path} cannot be written ({error.strerror}); choose another"
        " directory or change its permissions"
      ) from error
    try:
      fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
      raise WorkdirError(
        f"--workdir={path} is in use by another process; wait for it, or choose"
        " another directory"
      ) from error
    if os.path.lexists(path / "run.json"):
      _check_kinds(path)
    _claim(path, task, config, resumable)
    with _named(path):
      yield


@contextlib.contextmanager
def _named(path):
  """What the system refuses in a directory is a fault of what is in it."""
  try:
    yield
  except OSError as error:
    name = str(error.filename or "")
    if error.errno == errno.ENOSPC or not name.startswith(f"{path}{os.sep}"):
      raise
    raise WorkdirError(
      f"{name} cannot be read or written ({error.strerror}); move it away, or"
      " choose another --workdir"
    ) from error


def _check_kinds(path):
  """Refuses folders in place of a run's files, and the reverse."""
  faults = []
  for root, folders, names in os.walk(path):
    for name in sorted([*folders, *names]):
      entry = pathlib.Path(root, name)
      if name in _FOLDERS and not entry.is_dir():
        faults.append(f"{entry.relative_to(path)} is no folder")
      elif entry.suffix in _FILES and not entry.is_file():
        faults.append(f"{entry.relative_to(path)} is no file")
    # Orbax and TensorBoard name what is in theirs.
    folders[:] = [
      name
      for name in folders
      if not name.startswith(("checkpoints", "tensorboard"))
    ]
  if faults:
    raise WorkdirError(
      f"--workdir={path} holds what is not of a run; move it away, or choose"
      " another directory:\n  " + "\n  ".join(faults)
    )


def read(path: pathlib.Path) -> dict[str, Any]:
  """What `run.json` of a directory says.

  Returns:
    Its "task", "config" and "versions".

  Raises:
    WorkdirError: there is none, or it is damaged.
  """
  try:
    run = files.read_json(path / "run.json")
  except (OSError, ValueError) as error:
    raise WorkdirError(
      f"{path} holds no run of eos_jax: run.json cannot be read ({error})"
    ) from error
  if not isinstance(run, dict) or run.get("format") != _FORMAT:
    raise WorkdirError(
      f"{path}/run.json has not the format {_FORMAT!r}; it was written by"
      " another version of eos_jax, whose runs this one cannot resume or"
      " report, or by hand; choose another directory, or use that version"
    )
  for name, kind in (("task", str), ("config", dict)):
    if not isinstance(run.get(name), kind):
      raise WorkdirError(
        f"{path}/run.json is damaged: {name} is {run.get(name, 'absent')!r},"
        f" expected {kind.__name__}; put an intact copy back, or choose"
        " another directory"
      )
  # Which they were is only said; the run goes on without.
  versions = run.get("versions")
  return {**run, "versions": versions if isinstance(versions, dict) else {}}


@contextlib.contextmanager
def _lock(path):
  """Opens a lock, which is made if need be, and closes it at the end.

  No link is followed, nothing is written, and nothing waits for the other end
  of a pipe: what is there may be anybody's.
  """
  flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
  try:
    lock = os.open(path, flags, 0o666)
  except OSError as error:
    if not os.path.lexists(path) or stat.S_ISREG(os.lstat(path).st_mode):
      raise
    raise _no_lock(path) from error
  try:
    if not stat.S_ISREG(os.fstat(lock).st_mode):
      raise _no_lock(path)
    yield lock
  finally:
    os.close(lock)


def _no_lock(path):
  return WorkdirError(
    f"{path} is no regular file but a link, a folder or a device, which no run"
    " has made; delete it, or choose another --workdir"
  )


def _claim(path, task, config, resumable):
  fresh = {
    "format": _FORMAT,
    "task": task,
    "config": files.plain(config),
    "versions": {
      "eos_jax": eos_jax.__version__,
      **{name: importlib.metadata.version(name) for name in _PACKAGES},
    },
  }
  if not (path / "run.json").exists():
    present = sorted(_holds(path))
    if present:
      more = ", ..." if len(present) > 5 else ""
      raise WorkdirError(
        f"--workdir={path} holds {', '.join(present[:5])}{more} but no run of"
        " eos_jax; choose an empty or a new directory"
      )
    files.write_json(path / "run.json", fresh)
    return
  run = read(path)
  if run["task"] != task:
    raise WorkdirError(
      f"--workdir={path} belongs to a run of the task {run['task']!r}, not"
      f" {task!r}; choose another directory"
    )
  before, now = (files.flat(r["config"], "config") for r in (run, fresh))
  changed = [
    f"{name}: {before.get(name, 'absent')!r} before,"
    f" {now.get(name, 'absent')!r} now"
    for name in sorted(before.keys() | now.keys())
    if before.get(name) != now.get(name)
    and not any(f"{name}.".startswith(f"{free}.") for free in resumable)
  ]
  if changed and _holds(path) <= {"run.json"}:
    changed = []  # nothing was computed under the old config
  if changed:
    raise WorkdirError(
      f"--workdir={path} belongs to a run with other settings; choose another"
      " directory, or restore these:\n  " + "\n  ".join(changed)
    )
  if before != now:
    files.write_json(path / "run.json", {**run, "config": fresh["config"]})
  versions = [
    f"{name} {run['versions'].get(name)} -> {version}"
    for name, version in fresh["versions"].items()
    if run["versions"].get(name) != version
  ]
  if versions:
    print(
      f"note: {path} was begun with other versions ({', '.join(versions)});"
      " what follows may differ from an uninterrupted run in the last digits",
      flush=True,
    )


def _holds(path):
  """Names in a directory, but for those that opening it makes."""
  return set(os.listdir(path)) - {".lock", "run.json.part"}
