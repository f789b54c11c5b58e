"""python -m tests.golden DIR: every recorded case in a folder.

These are the cases that DIR/manifest.json describes, and those in the files
DIR/metrics/*.json of the metrics that are computed here.

Closes with `N passed, N failed`; the exit status says whether any failed. A
case that cannot be run is a failure.
"""

import pathlib
import sys

import jax

from tests.golden import runner


def main(argv: list[str]) -> int:
  """Runs the cases; returns the exit status."""
  if len(argv) != 2:
    print(f"usage: python -m tests.golden DIR, got {argv[1:]}", file=sys.stderr)
    return 2
  jax.config.update("jax_platforms", "cpu")
  # The origins computed in float32; so do the reference parts of the cases.
  jax.config.update("jax_default_matmul_precision", "highest")
  try:
    outcomes = list(runner.run_all(pathlib.Path(argv[1]), report=print))
  except runner.ManifestError as error:
    print(f"error: {error}", file=sys.stderr)
    return 2
  failed = sum(bool(outcome.faults) for outcome in outcomes)
  print(f"{len(outcomes) - failed} passed, {failed} failed")
  return 1 if failed or not outcomes else 0


if __name__ == "__main__":
  sys.exit(main(sys.argv))
