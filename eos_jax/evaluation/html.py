"""Pages of HTML that need nothing else.

Every piece of a page comes from `fill`, which escapes what is filled in.
"""

from collections.abc import Sequence
import html
import string
from typing import Any

from matplotlib import figure as figure_lib

from eos_jax.evaluation import charts, render

_STYLE = """
  :root { color-scheme: light; }
  body { font: 16px/1.5 system-ui, sans-serif; color: #1a1a1a; margin: 0 auto;
    max-width: 1080px; padding: 0 16px 48px; background: #fff; }
  h1 { font-size: 1.6rem; line-height: 1.2; margin: 28px 0 4px; }
  h2 { font-size: 1.2rem; margin: 40px 0 8px; }
  .lead { color: #444; margin-top: 0; }
  .wide { overflow-x: auto; }
  table { border-collapse: collapse; font-variant-numeric: tabular-nums;
    font-size: .875rem; }
  th, td { padding: 3px 10px; text-align: right; white-space: nowrap;
    border-bottom: 1px solid #e4e4e4; }
  th:first-child, td:first-child { text-align: left; }
  tr.searched td { font-weight: 600; background: #f1f5ff; }
  tr.corner td { color: #666; }
  figure { margin: 0; }
  figure > svg, .chart > svg { width: 100%; max-width: 760px; height: auto; }
  .chart { overflow-x: auto; }
  .chart > svg { min-width: 520px; }
  .images { display: grid; gap: 20px 12px;
    grid-template-columns: repeat(auto-fill, minmax(150px, 1fr)); }
  .images svg { width: 100%; height: auto; display: block;
    border-radius: 4px; }
  .images figcaption { font-size: .8rem; line-height: 1.35; }
  .right { color: #146c2e; } .wrong { color: #b3261e; }
  pre { font-size: .75rem; background: #f6f6f6; padding: 12px;
    overflow-x: auto; }
  summary { cursor: pointer; }
"""


class Markup(str):
  """Text that is HTML already."""


class _Escaping(string.Formatter):
  """`str.format` that escapes all values but `Markup`."""

  def format_field(self, value, format_spec):
    if isinstance(value, Markup):
      return value
    return html.escape(format(value, format_spec))


def fill(template: str, *values: Any, **named: Any) -> Markup:
  """Returns a template of HTML, with values in it as text."""
  return Markup(_Escaping().vformat(template, values, named))


def join(parts: Sequence[Markup], between: str = "") -> Markup:
  """Returns pieces in a row."""
  assert all(isinstance(part, Markup) for part in parts), parts
  return Markup(between.join(parts))


def page(title: str, parts: Sequence[Markup]) -> str:
  """Returns a whole page; the same parts give the same page."""
  return fill(
    '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
    '<meta name="viewport" content="width=device-width, initial-scale=1">'
    '<link rel="icon" href="data:,">'
    "<title>{}</title><style>{}</style></head>"
    "<body>\n<h1>{}</h1>\n{}\n</body></html>\n",
    title,
    Markup(_STYLE),
    title,
    join(parts, "\n"),
  )


def section(title: str, lead: str, *content: Markup) -> Markup:
  """Returns a part of a page; `lead` comes first and may be empty."""
  lead = fill('<p class="lead">{}</p>', lead) if lead else Markup()
  return fill("<section><h2>{}</h2>{}{}</section>", title, lead, join(content))


def table(cells: render.Table, kinds: Sequence[str] = ()) -> Markup:
  """Returns a table.

  Args:
    cells: rows, the head first; may be empty.
    kinds: class of each row but the head, for the style.
  """
  if not cells:
    return Markup()
  head, *rows = cells
  lines = [
    fill(
      '<tr class="{}">{}</tr>',
      kind,
      join([fill("<td>{}</td>", cell) for cell in row]),
    )
    for kind, row in zip(kinds or [""] * len(rows), rows, strict=True)
  ]
  return fill(
    '<div class="wide"><table><thead><tr>{}</tr></thead>'
    "<tbody>{}</tbody></table></div>",
    join([fill("<th>{}</th>", cell) for cell in head]),
    join(lines),
  )


def tables(sections: Sequence[render.Section]) -> list[Markup]:
  """Returns tables with their notes, as parts of a page."""
  return [
    section(
      one.title,
      "",
      table(one.table),
      fill("<ul>{}</ul>", join([fill("<li>{}</li>", x) for x in one.notes])),
    )
    for one in sections
  ]


def chart(figure: figure_lib.Figure) -> Markup:
  """Returns a figure."""
  return fill('<div class="chart">{}</div>', Markup(charts.svg(figure)))
