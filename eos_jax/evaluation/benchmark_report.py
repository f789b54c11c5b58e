"""A model on benchmarks, dense and under plans, as tables for people."""

from collections.abc import Mapping, Sequence
import csv
import dataclasses
import html
import io
import re
import statistics
from typing import Any

_NUMBER = re.compile(r"[-+]?[0-9.]+(e[-+]?[0-9]+)?")

# Benchmarks that say little of vision, and why; they do not count in means.
APART = {
  "scienceqa": "a model without the picture answers most of it",
  "textvqa_ocr": "the words of the picture are in the prompt",
}


@dataclasses.dataclass(frozen=True)
class Line:
  """A model under a plan.

  Attributes:
    name: of the plan, or "dense".
    layer_average: visual tokens, mean over decoder layers; None where there is
      no such plan.
    final: visual tokens after the last site.
    flops: of a prefill with a prompt of mean length and one picture.
    kv_bytes: of the cache behind it.
    scores: of each benchmark, as of `scoring.benchmarks.Score`.
    reason: why there is no such plan, else "".
  """

  name: str
  layer_average: float | None = None
  final: int = 0
  flops: int = 0
  kv_bytes: int = 0
  scores: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  reason: str = ""


def counted(names: Sequence[str], dense: Line) -> list[str]:
  """The benchmarks that the mean is over: scored, not apart, not 0 dense."""
  return [
    name
    for name in names
    if name not in APART and name in dense.scores and dense.scores[name].value
  ]


def share_of_dense(line: Line, dense: Line, names: Sequence[str]) -> float:
  """Mean of a plan's scores, each in percent of the dense model's."""
  ratios = [
    100 * line.scores[name].value / dense.scores[name].value for name in names
  ]
  return statistics.fmean(ratios) if ratios else float("nan")


def rows(lines: Sequence[Line], names: Sequence[str]) -> list[list[str]]:
  """The table as texts, the head first; `lines` begin with dense."""
  dense = lines[0]
  whole = counted(names, dense)
  head = ["plan", "tokens", "final", "TFLOPs", "KV MiB", *names]
  table = [[*head, "% of dense"]]
  for line in lines:
    if line.reason:
      table.append([line.name, line.reason, *[""] * (len(head) - 1)])
      continue
    scores = [
      f"{line.scores[name].value:.2f}" if name in line.scores else "-"
      for name in names
    ]
    table.append(
      [
        line.name,
        f"{line.layer_average:.1f}",
        str(line.final),
        f"{line.flops / 1e12:.4g}",
        f"{line.kv_bytes / 2**20:.4g}",
        *scores,
        f"{share_of_dense(line, dense, whole):.1f}",
      ]
    )
  return table


def notes(
  lines: Sequence[Line], names: Sequence[str], protocol: str
) -> list[str]:
  """What has to be known to read the table."""
  whole = counted(names, lines[0])
  found = [
    f"Protocol {protocol}: numbers of another one are not comparable.",
    "Tokens: visual ones, mean over decoder layers; of one picture, as FLOPs of"
    " a prefill and the cache are.",
    f"% of dense: mean over {', '.join(whole) or 'no benchmark'}.",
  ]
  found += [
    f"{name} is not in it: {why}."
    for name, why in APART.items()
    if name in names
  ]
  units = {
    name: score.unit
    for line in lines
    for name, score in line.scores.items()
    if score.unit != "%"
  }
  found += [f"{name} is {unit}." for name, unit in units.items()]
  unscored = [name for name in names if name not in lines[0].scores]
  if unscored:
    found.append(
      f"{', '.join(unscored)}: the right answers are not here; hand in what is"
      " in submissions/."
    )
  return found


@dataclasses.dataclass(frozen=True)
class Section:
  """A table with what has to be known to read it.

  Attributes:
    title: of the section.
    table: texts, the head first; may be empty.
    notes: sentences.
  """

  title: str
  table: Sequence[Sequence[str]]
  notes: Sequence[str]


def as_markdown(sections: Sequence[Section]) -> str:
  """Tables and their notes."""
  parts = []
  for section in sections:
    parts += [f"## {one_line(section.title)}", ""]
    if section.table:
      head, *body = section.table
      parts += [_row(head), _row(["---", *["---:"] * (len(head) - 1)])]
      parts += [*(_row(cells) for cells in body), ""]
    parts += [*(f"- {one_line(line)}" for line in section.notes), ""]
  return "\n".join(parts)


def _row(cells):
  return f"| {' | '.join(map(markdown_cell, cells))} |"


def one_line(text: str) -> str:
  r"""A text without line ends and other control characters.

  >>> one_line("a\nb")
  'a b'
  """
  return "".join(x if x.isprintable() else " " for x in text)


def markdown_cell(text: str) -> str:
  r"""A text as a cell of a Markdown table, which it can neither end nor split.

  >>> print(markdown_cell("a|b"))
  a\|b
  """
  return one_line(text).replace("\\", "\\\\").replace("|", "\\|")


def as_csv(table: Sequence[Sequence[str]]) -> str:
  """A table alone."""
  file = io.StringIO()
  rows = ([_csv_cell(cell) for cell in row] for row in table)
  csv.writer(file, lineterminator="\n").writerows(rows)
  return file.getvalue()


def _csv_cell(text):
  """A text that no spreadsheet takes for a formula."""
  if not text.startswith(("=", "+", "-", "@", "\t", "\r", "\n")):
    return text
  return text if text == "-" or _NUMBER.fullmatch(text) else f"'{text}"


def as_html(title: str, sections: Sequence[Section]) -> str:
  """A page that needs nothing else."""

  def cells(row, tag):
    return "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in row)

  parts = []
  for section in sections:
    parts.append(f"<h2>{html.escape(section.title)}</h2>")
    if section.table:
      head, *body = section.table
      lined = "".join(f"<tr>{cells(row, 'td')}</tr>" for row in body)
      parts.append(
        f'<div class="wide"><table><thead><tr>{cells(head, "th")}</tr></thead>'
        f"<tbody>{lined}</tbody></table></div>"
      )
    said = "".join(f"<li>{html.escape(line)}</li>" for line in section.notes)
    parts.append(f"<ul>{said}</ul>")
  return (
    '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
    f"<title>{html.escape(title)}</title><style>"
    "body{font:16px/1.5 system-ui,sans-serif;margin:24px auto;max-width:1080px}"
    "table{border-collapse:collapse;font-variant-numeric:tabular-nums}"
    "td,th{padding:3px 10px;text-align:right;border-bottom:1px solid #e4e4e4}"
    "td:first-child,th:first-child{text-align:left}"
    ".wide{overflow-x:auto}</style></head><body>"
    f"<h1>{html.escape(title)}</h1>{''.join(parts)}</body></html>\n"
  )
