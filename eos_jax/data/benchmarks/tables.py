"""Files of benchmarks as rows: JSON, lines of JSON, TSV and Parquet."""

from collections.abc import Iterator
import csv
import fnmatch
import json
import pathlib
import re
import sys
from typing import Any

from eos_jax import naming
from eos_jax.data import sources
from eos_jax.data.faults import RowError

# Characters that stand for bytes that are not UTF-8; see `Collector.add`.
_ESCAPES = "surrogateescape"
_SHARD = re.compile(r"(.*)-(\d{5})-of-(\d{5})(\.\w+)")

# Bytes by which text in UTF-16 begins.
_UTF_16 = (b"\xff\xfe", b"\xfe\xff")


def fault(path: pathlib.Path, error: Any, wanted: str) -> sources.DataError:
  """Returns the error for a file that cannot be read."""
  return sources.DataError(
    f"{path} cannot be read ({error}); expected {wanted} as the benchmark"
    " publishes it"
  )


def matching(
  folder: pathlib.Path, *rules: str, unless: tuple[str, ...] = ()
) -> list[list[pathlib.Path]]:
  """Returns the files of a folder that each rule matches, sorted by name.

  Args:
    folder: to look in; folders below it are not searched.
    rules: patterns of file names such as `*_val.json`, in either case.
    unless: patterns of file names that no rule matches.
  """
  there = sorted(path for path in folder.glob("*") if path.is_file())

  def fits(path, rule):
    return fnmatch.fnmatchcase(path.name.lower(), rule.lower())

  there = [p for p in there if not any(fits(p, rule) for rule in unless)]
  return [[p for p in there if fits(p, rule)] for rule in rules]


def missing_shards(paths: list[pathlib.Path]) -> list[str]:
  """Returns names of absent files of sets such as `test-00000-of-00002.x`."""
  names = {path.name for path in paths}
  wanted = {
    f"{found[1]}-{number:05d}-of-{found[3]}{found[4]}"
    for name in names
    if (found := _SHARD.fullmatch(name))
    for number in range(int(found[3]))
  }
  return sorted(wanted - names)


class _Object(dict):
  """A JSON object; `pairs` are its entries if a name is there twice."""

  pairs: list[tuple[str, Any]] | None = None


def _object(pairs):
  made = _Object(pairs)
  if len(made) < len(pairs):
    made.pairs = pairs
  return made


def _text(path, wanted):
  """A file's text; what is not UTF-8 is escaped, so that its row is named."""
  try:
    data = path.read_bytes()
  except OSError as error:
    raise fault(path, error.strerror, wanted) from error
  if data[:2] in _UTF_16:
    raise fault(path, "it is encoded as UTF-16", f"{wanted} in UTF-8")
  return data.removeprefix(b"\xef\xbb\xbf").decode(errors=_ESCAPES)


def read_json(path: pathlib.Path) -> Any:
  """Returns the value in a JSON file."""
  text = _text(path, "JSON")
  try:
    return json.loads(text, object_pairs_hook=_object)
  except (ValueError, RecursionError) as error:
    raise fault(path, error, "JSON") from error


def listed(path: pathlib.Path, value: Any, name: str = "") -> list[Any]:
  """Returns a list that a JSON file holds, under a name or as a whole."""
  if name:
    value = value.get(name) if isinstance(value, dict) else None
  if not isinstance(value, list):
    where = f"a list under {name!r}" if name else "a list"
    raise fault(path, "it has another form", where)
  return value


def entries(path: pathlib.Path) -> list[tuple[str, Any]]:
  """Returns names and values of a JSON object, also those that repeat."""
  value = read_json(path)
  if not isinstance(value, _Object):
    raise fault(path, "it has another form", "an object")
  return value.pairs or list(value.items())


def json_lines(
  path: pathlib.Path,
) -> Iterator[tuple[int, Any]]:
  """Yields numbers of lines, and their values, or what is wrong with them."""
  for place, line in lines(path, "lines of JSON"):
    try:
      row = json.loads(line)
    except (ValueError, RecursionError) as error:
      yield place, RowError(f"no JSON ({error})")
      continue
    yield place, row


def lines(path: pathlib.Path, wanted: str) -> Iterator[tuple[int, str]]:
  """Yields numbers and texts of lines that are not blank.

  Only a line feed ends a line, with a carriage return before it or not: other
  characters that Unicode calls line ends may be part of a text.
  """
  for place, line in enumerate(_text(path, wanted).split("\n"), 1):
    if line.strip():
      yield place, line.removesuffix("\r")


def tab_separated(
  path: pathlib.Path,
) -> Iterator[tuple[int, dict[str, str] | RowError]]:
  """Yields numbers of rows, the header's being 1, and their cells by column.

  Cells that a short row lacks are empty. A row with too many comes as what is
  wrong with it.
  """
  wanted = "tab-separated values"
  csv.field_size_limit(sys.maxsize)  # images are cells
  rows = csv.reader(_text_lines(path, wanted), delimiter="\t", strict=True)
  place = 1
  try:
    head = next(rows, [])
    if (
      not head
      or len(set(head)) < len(head)
      or not naming.is_unicode("".join(head))
    ):
      raise fault(path, "its first row does not name the columns", wanted)
    for row in rows:
      place += 1
      if not row:
        continue
      if len(row) > len(head):
        what = f"it has {len(row)} cells; expected {len(head)}"
        yield place, RowError(what)
        continue
      yield place, dict.fromkeys(head, "") | dict(zip(head, row, strict=False))
  except csv.Error as error:
    why = f"row {place + 1}: {error}; quotes inside of cells are doubled"
    raise fault(path, why, wanted) from error


def _text_lines(path, wanted):
  """Lines with their ends, as `csv` wants them; what is not UTF-8 escaped."""
  try:
    with open(path, encoding="utf-8-sig", errors=_ESCAPES, newline="") as file:
      yield from file
  except OSError as error:
    raise fault(path, error.strerror, wanted) from error


def parquet(
  path: pathlib.Path,
) -> Iterator[tuple[int, dict[str, Any] | RowError]]:
  """Yields numbers of rows, from 1, and their fields, or what is wrong.

  One batch of rows is in memory at a time.
  """
  # It takes a while to import, and few readers need it.
  import pyarrow
  import pyarrow.parquet

  place = 0
  try:
    for batch in pyarrow.parquet.ParquetFile(path).iter_batches(256):
      for row in _arrow_rows(batch):
        place += 1
        yield place, row
  except (OSError, ValueError, pyarrow.ArrowException) as error:
    raise fault(path, error, "a Parquet table") from error


def _arrow_rows(batch):
  """Rows of a batch; those with texts that are not UTF-8 as what is wrong."""
  try:
    return batch.to_pylist()
  except UnicodeDecodeError:
    pass
  rows = []
  for place in range(batch.num_rows):
    try:
      rows += batch.slice(place, 1).to_pylist()
    except UnicodeDecodeError as error:
      rows.append(RowError(f"a text is not UTF-8 ({error.reason})"))
  return rows
