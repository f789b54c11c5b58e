"""Makes the report of a finished search from its files."""

import pathlib

from eos_jax import files, ops
from eos_jax.evaluation import examples, html, report
from eos_jax.training import metrics, settings, workdir

# Tasks that end with a report.
SEARCHES = ("search", "search_published")


def write(folder: pathlib.Path) -> None:
  """Writes `report.html` of a finished search from its files alone.

  Raises:
    workdir.WorkdirError: a file is missing or damaged.
  """
  run_facts = workdir.read(folder)
  if run_facts["task"] not in SEARCHES:
    raise workdir.WorkdirError(
      f"{folder} holds a run of the task {run_facts['task']!r}; a report is"
      " made of a search"
    )
  try:
    results = report.read_json(folder / "results.json")
    judged = {row["plan"] for row in results["results"]}
    plans, pictures = {}, {}
    for limit in map(float, results["gaps"]):  # no name of a file is read
      path = folder / "plans" / f"{limit:g}.json"
      plan = ops.ReductionPlan.from_json(path.read_bytes())
      if plan.digest not in judged:
        raise ValueError(f"{path} is not the plan that results.json is about")
      plans[limit] = plan
      if results["drawn"]:
        file = folder / "examples" / f"{limit:g}.npz"
        pictures[limit] = examples.load(file)
    page = html.render(
      run_facts,
      results,
      metrics.read(folder),
      plans,
      pictures,
      (folder / "table.txt").read_text(encoding="utf-8"),
    )
  except (OSError, ValueError, KeyError) as error:
    raise workdir.WorkdirError(
      f"the report of {folder} cannot be made ({type(error).__name__}:"
      f" {error}); run the search there to its end first"
    ) from error
  files.write_text(folder / "report.html", page)


def run(job: settings.ReportJob, folder: pathlib.Path) -> None:
  """Makes the report of a finished search anew."""
  del job  # it has no settings
  write(folder)
  print(f"wrote {folder}/report.html", flush=True)
