"""Tables of results, of one run or of several."""

from collections.abc import Iterator, Mapping, Sequence
import math
import statistics
from typing import Any

from eos_jax.evaluation import published_numbers, render
from eos_jax.evaluation import results as results_lib

Column = tuple[str, Sequence[str]]  # its heading and its cells

# Benchmarks that say little of vision, and why; they do not count in means.
NOT_COUNTED = {
  "scienceqa": "a model without the image answers most of it",
  "textvqa_ocr": "the words of the image are in the prompt",
}
# Units of costs, the largest first.
_FLOPS = {"TFLOPs": 1e12, "GFLOPs": 1e9, "MFLOPs": 1e6}
_BYTES = {"KV GiB": 2**30, "KV MiB": 2**20, "KV KiB": 2**10}


def table(
  results: Sequence[results_lib.Result],
  names: Sequence[str],
  *,
  before: Sequence[Column] = (),
  after: Sequence[Column] = (),
  tasks: bool = False,
) -> render.Table:
  """Returns a row with scores and costs for each result, the head first.

  Args:
    results: the rows.
    names: of the scores.
    before: columns at the left.
    after: columns next to the scores.
    tasks: whether to show the parts of `results_lib.ACCURACY`.
  """
  limits = ["" if r.limit is None else f"{r.limit:g}" for r in results]
  columns = [*before, ("plan", [r.name for r in results]), ("budget", limits)]
  for name in names:
    columns += _score(results, name)
  if tasks:
    columns += _tasks(results)
  columns += [*after, *_costs(results)]
  notes = [
    f"cannot reach it: {r.reason}" if r.reason else r.note for r in results
  ]
  columns += [("kept", [r.kept for r in results]), ("note", notes)]
  filled = [[head, *cells] for head, cells in columns if any(cells)]
  return list(zip(*filled, strict=True))


def _score(results, name):
  found = [r.scores.get(name) for r in results]
  values = [_number(s.value, s.unit) if s else "-" for s in found]
  values = [
    "" if r.reason else value for r, value in zip(results, values, strict=True)
  ]
  errors = [
    "" if s is None or s.error is None else _number(s.error, s.unit)
    for s in found
  ]
  return [(name, values), ("+-", errors)]


def _number(value, unit):
  return f"{value:.3f}" if unit == results_lib.FRACTION else f"{value:.2f}"


def _tasks(results):
  """Columns of the tasks, where there are several."""
  found = [
    r.scores[results_lib.ACCURACY].parts if r.scores else {} for r in results
  ]
  names = sorted({name for parts in found for name in parts})
  return [
    (name, [f"{p[name]:.3f}" if name in p else "" for p in found])
    for name in names[: len(names) if len(names) > 1 else 0]
  ]


def _costs(results):
  run = [r.layer_average is not None for r in results]

  def column(head, cells):
    return head, [c if was else "" for c, was in zip(cells, run, strict=True)]

  yield column("tokens", [f"{r.layer_average or 0:.2f}" for r in results])
  yield column("final", [str(r.final) for r in results])
  yield column(*_scaled([r.flops for r in results], _FLOPS))
  yield column(*_scaled([r.kv_bytes for r in results], _BYTES))


def _scaled(values, units):
  """Values in the largest unit that the greatest of them fills."""
  most = max(values)
  unit = next((u for u, size in units.items() if most >= size), [*units][-1])
  return unit, [f"{value / units[unit]:.4g}" for value in values]


def sections(
  facts: Mapping[str, Any], results: Sequence[results_lib.Result]
) -> list[render.Section]:
  """Returns the tables of a run.

  Args:
    facts: of the run, see `results.read`.
    results: of the run, the dense model first.
  """
  asked, dense = facts["questions"], results[0].scores
  if [*asked] == [results_lib.ACCURACY]:
    made = [_accuracy(asked[results_lib.ACCURACY]["asked"], results)]
    if "gaps" in facts:
      cells, _ = best(facts["gaps"], results)
      made.append(render.Section("Searched plans and the best presets", cells))
    return made
  counted = [
    name
    for name in asked
    if name not in NOT_COUNTED and name in dense and dense[name].value
  ]
  shares = [_share(result, dense, counted) for result in results]
  cells = table(results, [*asked], after=[("% of dense", shares)])
  notes = [*_notes(facts, results, counted), *question_lines(asked)]
  return [
    render.Section("Scores and costs", cells, notes),
    published_numbers.section(facts, results),
  ]


def best(
  gaps: Mapping[str, float], results: Sequence[results_lib.Result]
) -> tuple[render.Table, list[str]]:
  """Returns the searched plan and the best preset of each budget.

  Args:
    gaps: by budget, accuracy of the soft operator minus that of its plan.
    results: of the search.

  Returns:
    The table, and what each row is: "searched", "corner" for its plan or its
    weights alone, "" for a preset.
  """
  rows, kinds, points = [], [], []
  for name, gap in gaps.items():
    block = [r for r in results if r.limit == float(name) and r.scores]
    searched = next(r for r in block if r.name == results_lib.SEARCHED)
    halves = [r for r in block if r.name in results_lib.OURS[1:]]
    others = [r for r in block if r.name not in results_lib.OURS]
    first = sorted(others, key=lambda r: -r.accuracy.value)[:1]
    rows += [searched, *halves, *first]
    kinds += ["searched", *["corner"] * len(halves), *[""] * len(first)]
    points += [f"{100 * gap:+.1f}", *[""] * len(halves + first)]
  after = [("soft - hard, points", points)]
  return table(rows, [results_lib.ACCURACY], after=after), kinds


def _share(result, dense, names):
  """Mean of the scores, each in percent of the dense model's."""
  if result.reason or not names:
    return ""
  shares = (result.scores[name].value / dense[name].value for name in names)
  return f"{100 * statistics.fmean(shares):.1f}"


def _accuracy(asked, results):
  """A section with the results of each budget, the best first."""

  def rank(result):
    limit = math.inf if result.limit is None else result.limit
    return -limit, -result.accuracy.value if result.scores else math.inf

  cells = table(sorted(results, key=rank), [results_lib.ACCURACY], tasks=True)
  notes = [
    f"Accuracy: mean over tasks, {asked} test questions; +- is one standard"
    " error.",
    "Budget and tokens: visual tokens, mean over decoder layers. FLOPs of a"
    " prefill, from pixels on; cache after it.",
  ]
  return render.Section("Accuracy and cost", cells, notes)


def _notes(facts, results, counted):
  """What a reader of scores has to know."""
  yield (
    f"Protocol {facts['protocol']['protocol']}: numbers of another one are not"
    " comparable."
  )
  yield (
    "Budget and tokens: visual tokens of one image, mean over decoder layers;"
    " so are FLOPs of a prefill and the cache."
  )
  yield f"% of dense: mean over {', '.join(counted) or 'no benchmark'}."
  for name, why in NOT_COUNTED.items():
    if name in facts["questions"]:
      yield f"{name} is not in it: {why}."
  units = {n: s.unit for r in results for n, s in r.scores.items()}
  for name, unit in units.items():
    if unit != "%":
      yield f"{name} is {unit}."
  unscored = [n for n in facts["questions"] if n not in results[0].scores]
  if unscored:
    yield (
      f"{', '.join(unscored)}: the right answers are not here; hand in what is"
      " in submissions/."
    )


def question_lines(questions: Mapping[str, Any]) -> Iterator[str]:
  """Yields which questions are asked of each benchmark, and which are not."""
  for name, found in questions.items():
    parts = [f"{found['asked']:,} questions"]
    parts += [f"{n:,} left out: {why}" for why, n in found["left out"].items()]
    if found["skipped"]:
      parts.append(f"{len(found['skipped']):,} rows cannot be used, left out")
    yield f"{name}: {', '.join([*parts, *found['files']])}"
