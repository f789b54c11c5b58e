"""Makes reports of finished runs from their files, and compares runs."""

from collections.abc import Callable, Mapping, Sequence
import pathlib
from typing import Any

from eos_jax import files, ops
from eos_jax.evaluation import (
  charts,
  compare,
  examples,
  html,
  render,
  search_page,
  tables,
)
from eos_jax.evaluation import results as results_lib
from eos_jax.tasks import compile as compile_task
from eos_jax.timing import report as timing_report
from eos_jax.training import metrics, report_settings, settings, workdir


def write_results(
  folder: pathlib.Path,
  results: Sequence[results_lib.Result],
  facts: Mapping[str, Any],
) -> str:
  """Writes the results of a run, and its report; returns the report as text."""
  run = workdir.read(folder)
  known = {name: run[name] for name in ("config", "versions")}
  results_lib.write(folder / "results.json", results, {**facts, **known})
  return write(folder)


def write(folder: pathlib.Path) -> str:
  """Writes the report of a finished run from its files; returns it as text.

  Raises:
    workdir.WorkdirError: a file is missing or damaged.
  """
  run = workdir.read(folder)
  if run["task"] not in _REPORTS:
    raise workdir.WorkdirError(
      f"{folder} holds a run of the task {run['task']!r}, which has no report;"
      f" give one of {', '.join(_REPORTS)}"
    )
  try:
    return _REPORTS[run["task"]](folder, run)
  except (OSError, ValueError, KeyError) as error:
    raise workdir.WorkdirError(
      f"the report of {folder} cannot be made ({type(error).__name__}:"
      f" {error}); run the {run['task']} there to its end first"
    ) from error


def _results(folder, run):
  facts, results = results_lib.read(folder / "results.json")
  sections = tables.sections(facts, results)
  text = _write_tables(folder, sections)
  if "gaps" in facts:
    page = _search_page(folder, run, facts, results)
  else:
    parts = html.tables(sections)
    if results_lib.ACCURACY in facts["questions"]:
      parts.append(html.chart(charts.accuracy_cost(results)))
    page = html.page(f"{facts['model']}, {run['task']}", parts)
  files.write_text(folder / "report.html", page)
  return text


def _search_page(folder, run, facts, results):
  judged = {result.plan for result in results}
  plans, shown = {}, {}
  for limit in map(float, facts["gaps"]):  # no name of a file is read
    path = folder / "plans" / f"{limit:g}.json"
    plan = ops.ReductionPlan.from_json(path.read_bytes())
    if plan.digest not in judged:
      raise ValueError(f"{path} is not the plan that results.json is about")
    plans[limit] = plan
    if facts["drawn"]:
      shown[limit] = examples.load(folder / "examples" / f"{limit:g}.npz")
  figure = charts.accuracy_cost(results)
  charts.write_png(folder / "accuracy_cost.png", figure)
  rows = metrics.read(folder)
  return search_page.render(run, facts, results, rows, plans, shown)


def _write_tables(folder, sections):
  """Writes tables as text, Markdown and CSV; returns the text."""
  text = render.text(sections)
  files.write_text(folder / "table.txt", text)
  files.write_text(folder / "table.md", render.markdown(sections))
  files.write_text(folder / "table.csv", render.as_csv(sections[0].table))
  return text


# How the report of a run is made, by its task.
_REPORTS: dict[str, Callable[[pathlib.Path, Any], str]] = {
  "compile": lambda folder, run: compile_task.report(folder),
  "evaluate": _results,
  "finetune": _results,
  "search": _results,
  "timing": lambda folder, run: timing_report.write(folder),
}


def _opened(name):
  """The results of a run.

  Raises:
    ValueError: it has none.
  """
  folder = workdir.absolute(name)
  task = workdir.read(folder)["task"]
  try:
    return results_lib.read(folder / "results.json")
  except (OSError, ValueError, KeyError) as error:
    raise ValueError(
      f"{name} has no results to compare ({type(error).__name__}: {error});"
      f" run the {task} there to its end, or leave it out"
    ) from error


def check(job: report_settings.ReportJob) -> None:
  """Refuses runs that have no results; all of them are listed."""
  faults = []
  for name in job.runs:
    try:
      _opened(name)
    except ValueError as error:
      faults.append(f"config.runs: {error}")
  if faults:
    raise settings.ConfigError(faults)


def run(job: report_settings.ReportJob, folder: pathlib.Path) -> None:
  """Makes the report of a finished run anew, or compares the runs named."""
  if job.runs:
    ends = [pathlib.Path(name).name for name in job.runs]
    names = ends if len(set(ends)) == len(ends) else job.runs
    found = map(_opened, job.runs)
    runs = dict(zip(names, found, strict=True))
    text = _write_tables(folder, [compare.section(runs)])
    files.write_text(folder / "report.html", compare.page(runs))
  else:
    text = write(folder)
  print(text, f"wrote the report to {folder}/", sep="\n", flush=True)
