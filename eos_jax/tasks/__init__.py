"""What the command line can do: each task is a function of settings and folder.

This is where training and evaluation meet; neither imports the other.
"""

from collections.abc import Callable, Mapping
import dataclasses
import pathlib
from typing import Any

import jax

from eos_jax import processes
from eos_jax.tasks import (
  answer,
  compile,  # noqa: A004, the name of the task
  convert,
  evaluate,
  finetune,
  pretrain,
  report,
  search,
  timing,
)
from eos_jax.training import (
  answer_settings,
  compile_settings,
  convert_settings,
  evaluate_settings,
  finetune_settings,
  pretrain_settings,
  report_settings,
  search_settings,
  settings,
  timing_settings,
  workdir,
)


@dataclasses.dataclass(frozen=True)
class Task:
  """Something that the command line can do.

  Attributes:
    settings: dataclass of its config.
    run: does it, in an opened working directory.
    check: refuses a config that cannot work, before the directory is taken.
    reads: the task whose finished run it reads instead of having its own,
      unless its config names `runs` to read; "".
    alone: why several processes cannot run it together; "" = they can.
  """

  settings: type
  run: Callable[[Any, pathlib.Path], None]
  check: Callable[[Any], None] = lambda job: None
  reads: str = ""
  alone: str = ""


TASKS = {
  "answer": Task(
    answer_settings.AnswerJob,
    answer.run,
    answer.check,
    alone="it asks one question",
  ),
  "compile": Task(
    compile_settings.CompileJob,
    compile.run,
    compile.check,
    alone="it compiles for chips that need not be there",
  ),
  "convert": Task(
    convert_settings.ConvertJob,
    convert.run,
    convert.check,
    alone="it writes one folder, from the disk of one host",
  ),
  "evaluate": Task(evaluate_settings.EvaluateJob, evaluate.run, evaluate.check),
  "finetune": Task(
    finetune_settings.FinetuneJob,
    finetune.run,
    finetune.check,
    alone="its batches and its model are not spread over hosts yet;"
    " configs/search.py with config.mode=joint trains a model over several",
  ),
  "pretrain": Task(
    pretrain_settings.PretrainSettings,
    pretrain.run,
    pretrain.check,
    alone="its model has two million parameters",
  ),
  "report": Task(
    report_settings.ReportJob,
    report.run,
    report.check,
    reads="search",
    alone="it reads files",
  ),
  "search": Task(search_settings.SearchJob, search.run, search.check),
  "timing": Task(
    timing_settings.TimingJob,
    timing.run,
    timing.check,
    alone="it measures one device",
  ),
}


def reads(name: str, config: Mapping[str, Any]) -> str:
  """Returns the task whose run the directory of a task belongs to, or ""."""
  return "" if config.get("runs") else TASKS[name].reads


def run(name: str, config: Mapping[str, Any], path: pathlib.Path) -> None:
  """Runs or resumes a task in a directory.

  Args:
    name: one of `TASKS`.
    config: its settings, as plain values.
    path: the directory of the run.

  Raises:
    settings.ConfigError: the config has faults; all are listed.
    workdir.WorkdirError: the directory cannot be this run's.
    processes.LaunchError: the task is not one for several processes.
  """
  task = TASKS[name]
  if processes.several() and task.alone:
    known = ", ".join(n for n, other in TASKS.items() if not other.alone)
    raise processes.LaunchError(
      f"the task {name!r} runs in one process, and there are"
      f" {jax.process_count()}: {task.alone}; start one, or a task for several:"
      f" {known}"
    )
  job = settings.build(task.settings, config)
  task.check(job)
  if reads(name, config):
    task.run(job, path)
    return
  opened = workdir.opened(
    path, name, config, resumable=settings.resumable(task.settings)
  )
  with processes.books(path, opened) as folder:
    task.run(job, folder)
