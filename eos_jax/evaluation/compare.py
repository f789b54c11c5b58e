"""Results of several runs in one table, and why they may not be comparable."""

from collections.abc import Iterator, Mapping, Sequence
import dataclasses
from typing import Any

from eos_jax import files, naming
from eos_jax.evaluation import charts, html, render, tables
from eos_jax.evaluation import results as results_lib

# Facts of a run and its results, as `results.read` returns them.
Run = tuple[Mapping[str, Any], Sequence[results_lib.Result]]

_SHOWN = 12  # characters of a fingerprint


def section(runs: Mapping[str, Run]) -> render.Section:
  """Returns the results of runs as a table, with a note on each difference.

  Args:
    runs: by name.
  """
  rows = [(name, r) for name, (_, results) in runs.items() for r in results]
  results = [result for _, result in rows]
  before, notes = [("run", [name for name, _ in rows])], list(_notes(runs))
  if len({r.weights for r in results if not r.reason}) > 1:
    before += [("weights", [r.weights[:_SHOWN] for r in results])]
    notes.insert(
      0,
      "warning: the weights differ, see their fingerprints: scores differ by"
      " more than the plans.",
    )
  cells = tables.table(results, _names(runs), before=before)
  return render.Section("Results of several runs", cells, notes)


def page(runs: Mapping[str, Run]) -> str:
  """Returns the table as a page of HTML, with a chart for each score."""
  results = [
    dataclasses.replace(result, name=f"{name}: {result.name}")
    for name, (_, found) in runs.items()
    for result in found
  ]
  parts = html.tables([section(runs)])
  for name in _names(runs):
    chart = html.chart(charts.accuracy_cost(results, name))
    parts.append(html.section(f"{name} against cost", "", chart))
  return html.page("Comparison of runs", parts)


def _names(runs):
  """Scores that any result has."""
  results = [result for _, found in runs.values() for result in found]
  return list(dict.fromkeys(name for r in results for name in r.scores))


def _notes(runs) -> Iterator[str]:
  for name in _names(runs):
    asked = {
      run: facts["questions"][name]
      for run, (facts, _) in runs.items()
      if name in facts["questions"]
    }
    if len({found["digest"] for found in asked.values()}) > 1:
      counts = [f"{found['asked']} in {run}" for run, found in asked.items()]
      yield (
        f"warning: {name}: the questions, or how they were asked, are not the"
        f" same ({', '.join(counts)} questions): these numbers are not"
        " comparable."
      )
    missing = [run for run in runs if run not in asked]
    if missing:
      yield f"{name} was not asked in {', '.join(missing)}."
  (first, (facts, _)), *others = runs.items()
  for name, (theirs, _) in others:
    for field in ("model", "protocol", "versions"):
      found = list(_differences(facts, theirs, field, first, name))
      if found:
        yield f"{naming.listed(found)}."
  if results_lib.ACCURACY in _names(runs):
    yield "+- is one standard error; accuracy is a mean over tasks."


def _differences(here, there, field, ours, theirs):
  """What differs in a field, by dotted name."""
  here, there = (files.flat(facts.get(field), field) for facts in (here, there))
  for name in sorted(here.keys() | there.keys()):
    mine, other = here.get(name), there.get(name)
    if mine != other:
      yield (
        f"{name} is {naming.quoted(mine)} in {ours} and"
        f" {naming.quoted(other)} in {theirs}"
      )
