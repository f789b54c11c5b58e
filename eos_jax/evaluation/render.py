"""Tables as aligned text, Markdown and CSV; `html` makes pages of them."""

from collections.abc import Mapping, Sequence
import csv
import dataclasses
import io
import re

_NUMBER = re.compile(r"[-+]?[0-9.]+(e[-+]?[0-9]+)?")

Table = Sequence[Sequence[str]]


@dataclasses.dataclass(frozen=True)
class Section:
  """A table with what a reader has to know.

  Attributes:
    title: of the section.
    table: cells, the head first; may be empty.
    notes: sentences.
  """

  title: str
  table: Table = ()
  notes: Sequence[str] = ()


def table(rows: Sequence[Mapping[str, str]]) -> Table:
  """Returns rows of cells by heading as a table."""
  return [list(row) for row in rows[:1]] + [list(row.values()) for row in rows]


def text(sections: Sequence[Section]) -> str:
  """Returns tables whose columns are aligned, each with its notes."""
  return _joined(sections, "", _plain_rows)


def markdown(sections: Sequence[Section]) -> str:
  """Returns Markdown that reads as plain text too."""
  return _joined(sections, "## ", _markdown_rows)


def _joined(sections, mark, rows):
  parts = []
  for section in sections:
    parts += [f"{mark}{one_line(section.title)}", ""]
    if section.table:
      parts += [*rows(section.table), ""]
    if section.notes:
      parts += [*(f"- {one_line(note)}" for note in section.notes), ""]
  return "\n".join(parts)


def _plain_rows(cells):
  rows, _ = _aligned([[one_line(cell) for cell in row] for row in cells])
  return ["  ".join(row).rstrip() for row in rows]


def _markdown_rows(cells):
  rows, right = _aligned(
    [[markdown_cell(cell) for cell in row] for row in cells]
  )
  rule = [
    "-" * (len(cell) - at_right) + ":" * at_right
    for cell, at_right in zip(rows[0], right, strict=True)
  ]
  return [f"| {' | '.join(row)} |" for row in (rows[0], rule, *rows[1:])]


def _aligned(rows):
  """Rows of padded cells, and which columns hold numbers, at the right."""
  columns = list(zip(*rows, strict=True))
  right = [
    bool(place) and all(cell[:1] in "+-0123456789" for cell in column[1:])
    for place, column in enumerate(columns)
  ]
  padded = []
  for column, at_right in zip(columns, right, strict=True):
    width = max(3, *map(len, column))
    pad = str.rjust if at_right else str.ljust
    padded.append([pad(cell, width) for cell in column])
  return list(zip(*padded, strict=True)), right


def one_line(value: str) -> str:
  r"""Returns a text without line ends and other control characters.

  >>> one_line("a\nb")
  'a b'
  """
  return "".join(x if x.isprintable() else " " for x in value)


def markdown_cell(value: str) -> str:
  r"""Returns a text as a cell of Markdown, which it can neither end nor split.

  >>> print(markdown_cell("a|b"))
  a\|b
  """
  return one_line(value).replace("\\", "\\\\").replace("|", "\\|")


def as_csv(cells: Table) -> str:
  """Returns a table alone, as CSV without formulas."""
  file = io.StringIO()
  rows = ([_csv_cell(cell) for cell in row] for row in cells)
  csv.writer(file, lineterminator="\n").writerows(rows)
  return file.getvalue()


def _csv_cell(value):
  """A text that no spreadsheet takes for a formula."""
  if not value.startswith(("=", "+", "-", "@", "\t", "\r", "\n")):
    return value
  return value if value == "-" or _NUMBER.fullmatch(value) else f"'{value}"
