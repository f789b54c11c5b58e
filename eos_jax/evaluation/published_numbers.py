"""Numbers that papers print of LLaVA-1.5-7B, to compare with our own.

There are two lineages of tables that do not agree even where they name the same
method, and numbers of other prompts, images or scores are not comparable at
all: `comparable` says which may be compared.
"""

from collections.abc import Mapping, Sequence
import functools
import pathlib
from typing import Any

from eos_jax import files
from eos_jax.evaluation import render
from eos_jax.evaluation import results as results_lib

_PATH = pathlib.Path(__file__).parent / "published_numbers.json"

# How far a layer average may be from a budget that it is compared at.
_CLOSE = 0.05


@functools.cache
def known() -> Mapping[str, Any]:
  """What is in `published_numbers.json`."""
  return files.read_json(_PATH)


def comparable(asked: Mapping[str, int], **how: Any) -> tuple[list[str], str]:
  """Returns the benchmarks whose published numbers may be compared with ours.

  Args:
    asked: scored questions of each benchmark.
    **how: layers, width and tokens of the model; protocol, style of the
      conversation, and aspect: what was done to images that are no square.

  Returns:
    Their names, and why there is none, or "".
  """
  if [how[name] for name in ("layers", "width", "tokens")] != [32, 4096, 576]:
    return [], f"those here are of {known()['model']}, the model is another"
  given = [how[name] for name in ("protocol", "style", "aspect")]
  if given != ["llava", "vicuna", "pad"]:
    return [], (
      "they are of the protocol llava with the conversation vicuna and padded"
      f" images, these of {', '.join(filter(None, given))}"
    )
  official = known()["questions"]
  names = [
    name
    for name, count in asked.items()
    if name in official and (not official[name] or count in official[name])
  ]
  if not names:
    return [], f"only {', '.join(official)} are known, asked as a whole"
  return names, ""


def section(
  facts: Mapping[str, Any], results: Sequence[results_lib.Result]
) -> render.Section:
  """Returns published numbers to compare with, or says why there are none.

  Args:
    facts: of a run on benchmarks.
    results: of the run, the dense model first.
  """
  asked = {
    name: found["asked"]
    for name, found in facts["questions"].items()
    if found["whole"] and name in results[0].scores
  }
  names, reason = comparable(asked, **facts["published"])
  if reason:
    notes_ = [f"There are none to compare with: {reason}."]
    return render.Section("Published numbers", notes=notes_)
  ours = [result for result in results if not result.reason]
  return render.Section("Published numbers", table(ours, names), notes())


def table(
  results: Sequence[results_lib.Result], names: Sequence[str]
) -> list[list[str]]:
  """Ours and published numbers at equal budgets as texts, the head first.

  Args:
    results: of a model under plans.
    names: of the benchmarks, from `comparable`.

  Returns:
    Rows of all published budgets that a result comes near to.
  """
  head = ["tokens", "method", "lineage", "source", *names]
  made, rows = [head], known()["rows"]
  for budget in sorted({row["budget"] for row in rows}, reverse=True):
    ours = [
      result
      for result in results
      if abs(result.layer_average - budget) <= _CLOSE * budget
    ]
    if not ours:
      continue
    made += [
      [f"{result.layer_average:.1f}", result.name, "here", ""]
      + [f"{result.scores[name].value:.1f}" for name in names]
      for result in ours
    ]
    made += [
      [str(budget), row["method"], row["lineage"], row["source"]]
      + [_printed(row["scores"].get(name)) for name in names]
      for row in rows
      if row["budget"] == budget and row["scores"].keys() & set(names)
    ]
  return made


def _printed(value):
  return "-" if value is None else f"{value:g}"


def notes() -> list[str]:
  """What has to be known to read the table."""
  lineages = known()["lineages"].items()
  return [
    f"{known()['model']}. {known()['protocol']}",
    *(f"Lineage {name}: {what}." for name, what in lineages),
    "Tokens of published rows are as their sources count them, as a rule the"
    " mean over layers.",
  ]
