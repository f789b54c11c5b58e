"""Files of benchmarks as rows: JSON, lines of JSON, TSV and Parquet."""

from collections.abc import Iterator, Mapping
import csv
import json
import pathlib
import sys
from typing import Any

from eos_jax import files
from eos_jax.data import sources


def _fault(path, error, wanted):
  return sources.DataError(
    f"{path} cannot be read ({error}); expected {wanted} as the benchmark"
    " publishes it"
  )


def find(folder: pathlib.Path, *patterns: str) -> list[pathlib.Path]:
  """The files that the first pattern with any finds, by name.

  Raises:
    sources.DataError: there are none.
  """
  for pattern in patterns:
    if found := sorted(folder.glob(pattern)):
      return found
  raise sources.DataError(
    f"{folder} has no {' or '.join(patterns)}; give the folder with the files"
    " that the benchmark publishes"
  )


def read_json(path: pathlib.Path) -> Any:
  """The value in a JSON file."""
  try:
    return json.loads(path.read_text(encoding="utf-8"))
  except (OSError, ValueError) as error:
    raise _fault(path, error, "JSON") from error


def listed(path: pathlib.Path, value: Any, name: str = "") -> list[Any]:
  """A list that a JSON file holds, under a name or as a whole."""
  if name:
    value = value.get(name) if isinstance(value, dict) else None
  if not isinstance(value, list):
    where = f"a list under {name!r}" if name else "a list"
    raise _fault(path, "it has another form", where)
  return value


def json_lines(
  path: pathlib.Path,
) -> Iterator[tuple[int, Mapping[str, Any] | str]]:
  """Numbers of lines, and their objects, or what is wrong with them."""
  try:
    lines = files.lines(path)
  except (OSError, ValueError) as error:
    raise _fault(path, error, "lines of JSON") from error
  for place, line in enumerate(lines, 1):
    if not line.strip():
      continue
    try:
      row = json.loads(line)
    except ValueError as error:
      yield place, f"no JSON ({error})"
      continue
    yield place, row if isinstance(row, dict) else f"{row!r} is no object"


def tab_separated(path: pathlib.Path) -> Iterator[tuple[int, dict[str, Any]]]:
  """Numbers of rows, the header's being 1, and their fields by column."""
  csv.field_size_limit(sys.maxsize)  # pictures are fields
  try:
    with open(path, encoding="utf-8", newline="") as file:
      rows = csv.DictReader(file, delimiter="\t")
      yield from enumerate(rows, 2)
  except (OSError, ValueError, csv.Error) as error:
    raise _fault(path, error, "tab-separated values") from error


def parquet(path: pathlib.Path) -> Iterator[tuple[int, dict[str, Any]]]:
  """Numbers of rows, from 1, and their fields; a batch is in memory at once."""
  # It takes a while, and few readers need it.
  import pyarrow
  import pyarrow.parquet

  place = 0
  try:
    for batch in pyarrow.parquet.ParquetFile(path).iter_batches(256):
      for row in batch.to_pylist():
        place += 1
        yield place, row
  except (OSError, pyarrow.ArrowException) as error:
    raise _fault(path, error, "a Parquet table") from error
