"""The one entry of the command line.

  python -m eos_jax.main --config=configs/search.py [--workdir=DIR]

`config.task` says what to do. The file is short on purpose: everything it calls
can be imported.
"""

import pathlib
import sys

from absl import app, flags, logging
import jax
from ml_collections import config_flags

from eos_jax import tasks
from eos_jax.training import loop

_CONFIG = config_flags.DEFINE_config_file(
  "config", None, "Config file, optionally with a variant: FILE.py:VARIANT."
)
_WORKDIR = flags.DEFINE_string(
  "workdir", "", "Where output goes; empty = runs/TASK."
)


def main(argv: list[str]) -> None:
  """Runs the task that the config names."""
  if len(argv) > 1:
    raise app.UsageError(f"unexpected arguments {argv[1:]}; use --config=FILE")
  logging.set_verbosity(logging.WARNING)
  config = _CONFIG.value
  task = config.get("task", "")
  if task not in tasks.TASKS:
    sys.exit(
      f"error: config.task is {task!r}; use one of {', '.join(tasks.TASKS)}"
    )
  workdir = pathlib.Path(_WORKDIR.value or f"runs/{task}").absolute()
  workdir.mkdir(parents=True, exist_ok=True)
  print(
    f"eos_jax {task}: process {jax.process_index()}/{jax.process_count()},"
    f" {jax.device_count()} x {jax.devices()[0].device_kind}, jax"
    f" {jax.__version__}, output in {workdir}",
    flush=True,
  )
  try:
    tasks.TASKS[task](config, workdir)
  except (loop.Interrupted, ValueError) as error:
    sys.exit(f"error: {error}")


if __name__ == "__main__":
  flags.mark_flags_as_required(["config"])
  app.run(main)
