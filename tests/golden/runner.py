"""Reads a manifest, runs its cases and compares their arrays."""

from collections.abc import Callable, Iterator, Mapping
import dataclasses
import json
import pathlib
from typing import Any

import numpy as np

from tests.golden import decoder_cases, number_cases, vision_cases

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


@dataclasses.dataclass(frozen=True)
class Outcome:
  """One case.

  Attributes:
    operator: name in the manifest.
    file: path inside the folder.
    arrays: number of arrays that were compared.
    faults: what differs, a line each.
  """

  operator: str
  file: str
  arrays: int
  faults: tuple[str, ...]


def run_all(
  folder: pathlib.Path, *, report: Callable[[str], None] = lambda line: None
) -> Iterator[Outcome]:
  """Runs every case of `folder/manifest.json`, reporting failures and sums.

  Raises:
    ManifestError: there is no manifest, or it names no operators.
  """
  path = folder / "manifest.json"
  try:
    operators = json.loads(path.read_text(encoding="utf-8"))["operators"]
    described = [
      (name, str(case["file"]), case.get("params") or {})
      for name, operator in operators.items()
      for case in operator["cases"]
    ]
  except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
    raise ManifestError(
      f"{path} cannot be read as a manifest of cases ({error!r}): pass the"
      " folder that holds one"
    ) from error
  totals: dict[str, list[int]] = {}
  for name, file, params in described:
    outcome = run_case(folder / file, name, params, file)
    for fault in outcome.faults:
      report(f"FAILED {name} {file}: {fault}")
    total = totals.setdefault(name, [0, 0, 0])
    total[0] += not outcome.faults
    total[1] += 1
    total[2] += outcome.arrays
    yield outcome
  for name, (right, cases, arrays) in totals.items():
    report(f"{name}: {right} of {cases} cases, {arrays} arrays")


def run_case(
  path: pathlib.Path, operator: str, params: Mapping[str, Any], file: str
) -> Outcome:
  """Runs one case and compares every recorded output."""
  if operator not in CASES:
    return Outcome(operator, file, 0, ("no such operator is known here",))
  try:
    with np.load(path) as table:
      data = dict(table)
    inputs = {n: v for n, v in data.items() if n.startswith("in_")}
    actual = CASES[operator](params, inputs)
  # Whatever stops a case is a failure of that case, and no other's.
  except Exception as error:
    fault = f"cannot be run: {type(error).__name__}: {error}"
    return Outcome(operator, file, 0, (fault,))
  expected = {n: v for n, v in data.items() if n.startswith("out_")}
  if not expected:
    return Outcome(operator, file, 0, ("the file records no outputs",))
  faults = []
  for name, want in expected.items():
    fault = difference(actual.get(name), want)
    if fault:
      faults.append(f"{name}: {fault}")
  return Outcome(operator, file, len(expected), tuple(faults))


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
