"""Runs the recorded cases of a folder and compares what they give."""

from collections.abc import Callable, Iterator, Mapping
import itertools
import json
import pathlib
from typing import Any

import numpy as np

from tests.golden import (
  decoder_cases,
  metric_cases,
  number_cases,
  outcomes,
  parameters,
  vision_cases,
)

# Operator of a manifest -> function of (params, in_ arrays) -> out_ arrays.
CASES: dict[str, Callable[..., Mapping[str, Any]]] = {
  **decoder_cases.CASES,
  **number_cases.CASES,
  **vision_cases.CASES,
}

RTOL = 1e-4
ATOL = 1e-5  # times the largest magnitude of the array


class ManifestError(ValueError):
  """A folder without cases that can be read."""


def run_all(
  folder: pathlib.Path, *, report: Callable[[str], None] = lambda line: None
) -> Iterator[outcomes.Outcome]:
  """Runs every case of a folder, reporting failures and sums.

  `folder/manifest.json` describes the cases of operators; each
  `folder/metrics/*.json` holds those of a metric. Metric files that nothing
  here computes are left out, and a line says how many.

  Raises:
    ManifestError: there are neither, or the manifest cannot be read.
  """
  metrics = folder / "metrics"
  described = []
  if (folder / "manifest.json").exists() or not metrics.is_dir():
    described = _described(folder / "manifest.json")
  skipped: list[str] = []
  totals: dict[str, list[int]] = {}
  ran = itertools.chain(
    (run_case(folder / file, *case, file) for file, *case in described),
    metric_cases.run_files(metrics, skipped),
  )
  for outcome in ran:
    name = outcome.operator
    for fault in outcome.faults:
      report(f"FAILED {name} {outcome.file}: {fault}")
    total = totals.setdefault(name, [0, 0, 0])
    total[0] += not outcome.faults
    total[1] += 1
    total[2] += outcome.arrays
    yield outcome
  for name, (right, cases, arrays) in totals.items():
    unit = "values" if name in metric_cases.METRICS else "arrays"
    report(f"{name}: {right} of {cases} cases, {arrays} {unit}")
  if skipped:
    report(
      f"{len(skipped)} metric files not run, nothing here computes them:"
      f" {', '.join(skipped)}"
    )


def _described(path):
  """File, operator and params of every case in a manifest."""
  try:
    operators = json.loads(path.read_text(encoding="utf-8"))["operators"]
    return [
      (str(case["file"]), name, case.get("params") or {})
      for name, operator in operators.items()
      for case in operator["cases"]
    ]
  except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
    raise ManifestError(
      f"{path} cannot be read as a manifest of cases ({error!r}): pass the"
      " folder that holds one"
    ) from error


def run_case(
  path: pathlib.Path, operator: str, params: Mapping[str, Any], file: str
) -> outcomes.Outcome:
  """Runs one case and compares every recorded output."""
  if operator not in CASES:
    return outcomes.Outcome(
      operator, file, 0, ("no such operator is known here",)
    )
  if unknown := parameters.unknown(operator, params):
    fault = f"parameters are not known here: {', '.join(unknown)}"
    return outcomes.Outcome(operator, file, 0, (fault,))
  try:
    with np.load(path) as table:
      data = dict(table)
    inputs = {n: v for n, v in data.items() if n.startswith("in_")}
    actual = CASES[operator](params, inputs)
  # Whatever stops a case is a failure of that case, and no other's.
  except Exception as error:
    fault = f"cannot be run: {type(error).__name__}: {error}"
    return outcomes.Outcome(operator, file, 0, (fault,))
  expected = {n: v for n, v in data.items() if n.startswith("out_")}
  if not expected:
    return outcomes.Outcome(operator, file, 0, ("the file records no outputs",))
  faults = []
  for name, want in expected.items():
    fault = difference(actual.get(name), want)
    if fault:
      faults.append(f"{name}: {fault}")
  return outcomes.Outcome(operator, file, len(expected), tuple(faults))


def difference(actual: Any, expected: np.ndarray) -> str:
  """What is wrong with an array, "" if nothing; integers have to be equal."""
  if actual is None:
    return "was not computed"
  actual = np.asarray(actual)
  if actual.shape != expected.shape:
    return f"shape {actual.shape}, expected {expected.shape}"
  if expected.dtype.kind in "biu":
    wrong = np.sum(actual != expected)
    if not wrong:
      return ""
    worst = np.max(np.abs(actual.astype(float) - expected.astype(float)))
    return f"{wrong} of {expected.size} differ, worst difference {worst:g}"
  if expected.size == 0:
    return ""
  if not np.isfinite(actual).all() and np.isfinite(expected).all():
    return "not finite"
  gap = np.abs(actual.astype(np.float64) - expected.astype(np.float64))
  allowed = RTOL * np.abs(expected) + ATOL * np.max(np.abs(expected))
  if np.all(gap <= allowed):
    return ""
  return (
    f"{np.sum(gap > allowed)} of {expected.size} differ, worst difference"
    f" {np.max(gap):.3g} at a largest magnitude of"
    f" {np.max(np.abs(expected)):.3g}"
  )
