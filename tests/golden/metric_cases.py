"""Numbers that a metric file records: DIR/metrics/<name>.json.

A file is {"metric": name, "cases": [{"id", "input", "expected"}, ..]}. A metric
is a function of the input that gives the expected fields; registered in
`METRICS` by the file's "metric".
"""

from collections.abc import Callable, Iterator, Mapping
import json
import math
import pathlib
from typing import Any

from eos_jax import cost
from tests.golden import outcomes

RTOL = 1e-9
ATOL = 1e-12  # of values that should be 0


def _flops_proxy(given):
  sizes = dict(width=given["hidden"], mlp=given["ffn"])
  layers, text = given["layers"], given["text_tokens"]
  lengths = cost.pruned_lengths(
    visual_tokens=given["visual_tokens"],
    text_tokens=text,
    layers=layers,
    after=given["prune_after_layer"],
    keep_ratio=given["keep_ratio"],
  )
  dense = [text + given["visual_tokens"]] * layers
  full = cost.two_matrix_proxy(dense, **sizes)
  pruned = cost.two_matrix_proxy(lengths, **sizes)
  schedule = given["schedule"]
  return {
    "fastv_divprune_full_flops": full,
    "fastv_divprune_pruned_tflops": pruned / 1e12,
    "fastv_divprune_ratio_percent": 100 * pruned / full,
    "sparsevlm_pdrop_schedule_flops": cost.gated_proxy(
      [text + count for count in schedule], **sizes
    ),
    "equal_tokens": cost.layer_average(schedule),
  }


METRICS: dict[str, Callable[[Any], Mapping[str, Any]]] = {
  "flops_proxy": _flops_proxy,
}


def run_files(
  folder: pathlib.Path, skipped: list[str]
) -> Iterator[outcomes.Outcome]:
  """Runs every case of every metric file of a folder, in order of their names.

  Args:
    folder: holds the files.
    skipped: names of files whose metric is not registered are added to it.
  """
  for path in sorted(folder.glob("*.json")):
    file = f"{folder.name}/{path.name}"
    try:
      data = json.loads(path.read_text(encoding="utf-8"))
      name, cases = data["metric"], list(data["cases"])
    except (OSError, ValueError, KeyError, TypeError) as error:
      fault = f"cannot be read as a metric file: {error!r}"
      yield outcomes.Outcome(path.stem, file, 0, (fault,))
      continue
    if name not in METRICS:
      skipped.append(path.stem)
      continue
    for case in cases:
      yield run_case(name, case, file)


def run_case(
  name: str, case: Mapping[str, Any], file: str = ""
) -> outcomes.Outcome:
  """Runs one case and compares every field that it expects."""
  try:
    where = f"{file} {case['id']}".strip()
    expected = case["expected"]
    actual = METRICS[name](case["input"])
  # Whatever stops a case is a failure of that case, and no other's.
  except Exception as error:
    fault = f"cannot be run: {type(error).__name__}: {error}"
    return outcomes.Outcome(name, file, 0, (fault,))
  if not expected:
    fault = "the file records no outputs"
    return outcomes.Outcome(name, where, 0, (fault,))
  faults = [
    f"{field}: {fault}"
    for field, want in expected.items()
    if (fault := _field_fault(actual, field, want))
  ]
  return outcomes.Outcome(name, where, len(expected), tuple(faults))


def _field_fault(actual, field, want):
  if field not in actual:
    return "was not computed"
  return difference(actual[field], want)


def difference(actual: Any, expected: Any) -> str:
  """What is wrong with a value of JSON, "" if nothing.

  Integers, texts and truth values have to be equal, other numbers to 1e-9
  relative, lists and objects entry by entry.
  """
  if isinstance(expected, dict):
    if not isinstance(actual, Mapping) or set(actual) != set(expected):
      return f"{actual!r}, expected {expected!r}"
    pairs = [(key, actual[key], expected[key]) for key in expected]
  elif isinstance(expected, list):
    if not isinstance(actual, list | tuple) or len(actual) != len(expected):
      return f"{actual!r}, expected {expected!r}"
    pairs = [
      (i, *both) for i, both in enumerate(zip(actual, expected, strict=True))
    ]
  else:
    return (
      "" if _same(actual, expected) else f"{actual!r}, expected {expected!r}"
    )
  for place, got, want in pairs:
    if fault := difference(got, want):
      return f"[{place!r}] {fault}"
  return ""


def _same(actual, expected):
  if isinstance(expected, float) and not isinstance(actual, bool | str):
    try:
      return math.isclose(actual, expected, rel_tol=RTOL, abs_tol=ATOL)
    except TypeError:
      return False
  if isinstance(actual, bool) != isinstance(expected, bool):
    return False
  return actual == expected
