"""The report of a search as one HTML file that needs nothing else.

Every piece of the page comes from `_fill`, which escapes what is filled in.
"""

import base64
from collections.abc import Mapping, Sequence
import html
import io
import json
import string
from typing import Any

import numpy as np
from PIL import Image

from eos_jax import cost, ops
from eos_jax.evaluation import charts, evaluator, examples

# What is printed of an operator, in the order of its stages.
_NUMBERS = ("gamma", "tau", "rho", "rho_attn", "eta", "delta", "kappa")
_CORNERS = ("prune", "reweight", "merge", "pool_soft")

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
  .pictures { display: grid; gap: 20px 12px;
    grid-template-columns: repeat(auto-fill, minmax(150px, 1fr)); }
  .pictures svg { width: 100%; height: auto; display: block;
    border-radius: 4px; }
  .pictures figcaption { font-size: .8rem; line-height: 1.35; }
  .right { color: #146c2e; } .wrong { color: #b3261e; }
  pre { font-size: .75rem; background: #f6f6f6; padding: 12px;
    overflow-x: auto; }
  summary { cursor: pointer; }
"""


class _Markup(str):
  """Text that is HTML already."""


class _Escaping(string.Formatter):
  """`str.format` that escapes all values but `_Markup`."""

  def format_field(self, value, format_spec):
    if isinstance(value, _Markup):
      return value
    return html.escape(format(value, format_spec))


def _fill(template: str, *values: Any, **named: Any) -> _Markup:
  """A template of HTML, with values in it as text."""
  return _Markup(_Escaping().vformat(template, values, named))


def _join(parts: Sequence[_Markup], between: str = "") -> _Markup:
  assert all(isinstance(part, _Markup) for part in parts), parts
  return _Markup(between.join(parts))


def render(
  run: Mapping[str, Any],
  results: Mapping[str, Any],
  rows: Sequence[Mapping[str, Any]],
  plans: Mapping[float, ops.ReductionPlan],
  pictures: Mapping[float, examples.Examples],
  table: str,
) -> str:
  """The report.

  Args:
    run: what `run.json` says: config and versions.
    results: what `results.json` says.
    rows: lines of `metrics.jsonl`.
    plans: plan of each budget.
    pictures: examples of each budget.
    table: the comparison as text.

  Returns:
    An HTML page; the same arguments give the same page.
  """
  counts = {limit: cost.layer_counts(plan) for limit, plan in plans.items()}
  parts = [
    _head(results, plans),
    _section(
      "Accuracy against cost",
      "Tokens are really dropped; bars are one standard error.",
      _chart(charts.accuracy_cost(results["results"])),
      _best_table(results),
    ),
    _section(
      "How many tokens reach each layer",
      "",
      _chart(charts.tokens_by_layer(counts)),
    ),
    _section(
      "What was found, beside the corners",
      "Each site of each plan: tokens kept, and the numbers of its operator."
      " The grey rows are the named corners of the same space.",
      _operators(plans),
    ),
    _pictures(pictures),
    _section(
      "The course of the search",
      "One policy for all budgets: each step is one of some budget."
      if run["config"].get("knots")
      else "Budgets are searched one after the other, from the largest.",
      _chart(charts.course(rows)),
    ),
    _section("All results", "", _fill("<pre>{}</pre>", table)),
    _section("Config and versions", "", _config(run, results)),
  ]
  return _fill(
    '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
    '<meta name="viewport" content="width=device-width, initial-scale=1">'
    '<link rel="icon" href="data:,">'
    "<title>eos_jax: search report</title><style>{}</style></head>"
    "<body>\n{}\n</body></html>\n",
    _Markup(_STYLE),
    _join(parts, "\n"),
  )


def _section(title, lead, *content):
  lead = _fill('<p class="lead">{}</p>', lead) if lead else _Markup()
  return _fill(
    "<section><h2>{}</h2>{}{}</section>", title, lead, _join(content)
  )


def _chart(figure):
  return _fill('<div class="chart">{}</div>', _Markup(charts.svg(figure)))


def _table(head, rows):
  """A table; rows are (class, cells)."""
  lines = [
    _fill(
      '<tr class="{}">{}</tr>',
      kind,
      _join([_fill("<td>{}</td>", str(cell)) for cell in cells]),
    )
    for kind, cells in rows
  ]
  return _fill(
    '<div class="wide"><table><thead><tr>{}</tr></thead>'
    "<tbody>{}</tbody></table></div>",
    _join([_fill("<th>{}</th>", str(cell)) for cell in head]),
    _join(lines),
  )


def _head(results, plans):
  dense = next(r for r in results["results"] if r["limit"] is None)
  plan = next(iter(plans.values()))
  return _fill(
    "<h1>Efficient operator search</h1>"
    '<p class="lead">Model {model}, {tokens} visual tokens, {layers} decoder'
    " layers; budgets of {budgets} tokens, averaged over the layers. Dense"
    " accuracy {mean:.3f} on {questions} test questions.</p>",
    model=plan.model,
    tokens=plan.tokens,
    layers=plan.layers,
    budgets=", ".join(f"{limit:g}" for limit in plans),
    mean=dense["mean"],
    questions=results["questions"],
  )


def _best_table(results):
  """Every budget: the searched plan, and the best hand-made operator."""
  rows = []
  for name in results["gaps"]:
    limit = float(name)
    block = [
      r for r in results["results"] if r["limit"] == limit and r["accuracy"]
    ]
    searched = next(r for r in block if r["name"] == evaluator.SEARCHED)
    others = [r for r in block if r["name"] not in evaluator.OURS]
    lines = [("searched", searched)]
    lines += [
      ("corner", r)
      for r in block
      if r["name"] in evaluator.OURS and r is not searched
    ]
    if others:
      lines.append(("", max(others, key=lambda r: r["mean"])))
    for kind, r in lines:
      gap = f"{100 * results['gaps'][name]:+.1f}" if r is searched else ""
      rows.append(
        (
          kind,
          (
            f"{name}: {r['name']}",
            f"{r['mean']:.3f}",
            f"{r['error']:.3f}",
            f"{r['layer_average']:.2f}",
            ">".join(str(keep) for keep in r["sites"].values()),
            f"{r['flops'] / 1e6:.1f}",
            f"{r['kv_bytes'] / 1024:.1f}",
            gap,
          ),
        )
      )
  head = (
    "budget: operator",
    "accuracy",
    "+-",
    "layer average",
    "kept",
    "MFLOPs",
    "KV KiB",
    "soft - hard, points",
  )
  return _table(head, rows)


def _operators(plans):
  rows = []
  for name in _CORNERS:
    spec = ops.PRESETS[name]
    rows.append(("corner", (name, "", *_numbers(spec), _scores(spec))))
  for limit, plan in plans.items():
    for site in plan.sites:
      cells = (
        f"{limit:g}, {site.site}",
        site.keep,
        *_numbers(site.spec),
        _scores(site.spec),
      )
      rows.append(("", cells))
  head = ("budget, site", "keeps", *_NUMBERS, "scores")
  return _table(head, rows)


def _numbers(spec):
  return [f"{getattr(spec, name):.3g}" for name in _NUMBERS]


def _scores(spec):
  """The mixture of scores, the greatest first."""
  parts = sorted(zip(spec.pi, spec.scores, strict=True), reverse=True)
  return ", ".join(f"{name} {weight:.2f}" for weight, name in parts)


def _pictures(pictures):
  blocks = []
  for limit, shown in pictures.items():
    cells = []
    for place in range(len(shown.questions)):
      right = shown.answers[place].strip() == shown.expected[place].strip()
      expected = _fill(" (is: {})", shown.expected[place])
      cells.append(
        _fill(
          "<figure>{picture}<figcaption>{question} <b class='{verdict}'>"
          "{answer}</b>{expected}</figcaption></figure>",
          picture=_picture(shown, place),
          question=shown.questions[place],
          verdict="right" if right else "wrong",
          answer=shown.answers[place],
          expected=_Markup() if right else expected,
        )
      )
    blocks.append(
      _fill(
        "<h3>Budget {:g}</h3><div class='pictures'>{}</div>",
        limit,
        _join(cells),
      )
    )
  if not blocks:
    return _Markup()
  return _section(
    "Test pictures",
    "Bright patches keep their row to the end. A dark one left, the earlier the"
    " darker; a line leads to the patch that took up most of it. One question"
    " of each task, the same for every budget.",
    *blocks,
  )


def _picture(shown, place):
  """A picture with the fate of its patches, as SVG."""
  image, owner = shown.images[place], shown.owner[place]
  left_at, sites = shown.left_at[place], len(shown.sites)
  height, width = image.shape[:2]
  side = round(np.sqrt(owner.size))
  patch = width / side
  buffer = io.BytesIO()
  Image.fromarray(image).save(buffer, format="PNG")
  data = base64.b64encode(buffer.getvalue()).decode()
  marks, lines = [], []
  for token in range(owner.size):
    row, col = divmod(token, side)
    if left_at[token] == sites:
      continue
    shade = 0.75 - 0.4 * left_at[token] / max(sites - 1, 1)
    marks.append(
      _fill(
        '<rect x="{x:g}" y="{y:g}" width="{side:g}" height="{side:g}"'
        ' fill-opacity="{shade:.2f}"/>',
        x=col * patch,
        y=row * patch,
        side=patch,
        shade=shade,
      )
    )
    if owner[token] >= 0 and owner[token] != token:
      to_row, to_col = divmod(int(owner[token]), side)
      lines.append(
        f"M{(col + 0.5) * patch:g} {(row + 0.5) * patch:g}"
        f"L{(to_col + 0.5) * patch:g} {(to_row + 0.5) * patch:g}"
      )
  kept = int(np.sum(left_at == sites))
  return _fill(
    '<svg viewBox="0 0 {width} {height}" role="img"'
    ' aria-label="{kept} of {all} patches are kept">'
    '<image width="{width}" height="{height}"'
    ' href="data:image/png;base64,{data}"/>{marks}'
    '<path d="{lines}" stroke="#ffd54a" stroke-width=".35"'
    ' stroke-opacity=".7" fill="none"/></svg>',
    width=width,
    height=height,
    kept=kept,
    all=owner.size,
    data=data,
    marks=_join(marks),
    lines="".join(lines),
  )


def _config(run, results):
  facts = {
    "versions": run["versions"],
    "weights": results["weights"],
    **{n: results[n] for n in ("generator", "instructions") if n in results},
    "config": run["config"],
  }
  return _fill(
    "<details><summary>show</summary><pre>{}</pre></details>",
    json.dumps(facts, indent=2),
  )
