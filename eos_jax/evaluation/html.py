"""The report of a search as one HTML file that needs nothing else."""

import base64
from collections.abc import Mapping, Sequence
import html
import io
import json
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
    _section("All results", "", f"<pre>{html.escape(table)}</pre>"),
    _section("Config and versions", "", _config(run, results)),
  ]
  body = "\n".join(parts)
  return (
    '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
    '<meta name="viewport" content="width=device-width, initial-scale=1">'
    '<link rel="icon" href="data:,">'
    f"<title>eos_jax: search report</title><style>{_STYLE}</style></head>"
    f"<body>\n{body}\n</body></html>\n"
  )


def _section(title, lead, *content):
  lead = f'<p class="lead">{html.escape(lead)}</p>' if lead else ""
  return (
    f"<section><h2>{html.escape(title)}</h2>{lead}{''.join(content)}</section>"
  )


def _chart(figure):
  return f'<div class="chart">{charts.svg(figure)}</div>'


def _table(head, rows):
  """A table; rows are (class, cells)."""
  top = "".join(f"<th>{html.escape(str(cell))}</th>" for cell in head)
  lines = "".join(
    f'<tr class="{kind}">'
    + "".join(f"<td>{html.escape(str(cell))}</td>" for cell in cells)
    + "</tr>"
    for kind, cells in rows
  )
  return (
    f'<div class="wide"><table><thead><tr>{top}</tr></thead>'
    f"<tbody>{lines}</tbody></table></div>"
  )


def _head(results, plans):
  dense = next(r for r in results["results"] if r["limit"] is None)
  budgets = ", ".join(f"{limit:g}" for limit in plans)
  plan = next(iter(plans.values()))
  return (
    "<h1>Efficient operator search</h1>"
    f'<p class="lead">Model {html.escape(plan.model)}, {plan.tokens} visual'
    f" tokens, {plan.layers} decoder layers; budgets of {budgets} tokens,"
    f" averaged over the layers. Dense accuracy {dense['mean']:.3f} on"
    f" {results['questions']} test questions.</p>"
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
      verdict = "right" if right else "wrong"
      cells.append(
        f"<figure>{_picture(shown, place)}<figcaption>"
        f"{html.escape(shown.questions[place])} <b class='{verdict}'>"
        f"{html.escape(shown.answers[place])}</b>"
        + ("" if right else f" (is: {html.escape(shown.expected[place])})")
        + "</figcaption></figure>"
      )
    blocks.append(
      f"<h3>Budget {limit:g}</h3><div class='pictures'>{''.join(cells)}</div>"
    )
  if not blocks:
    return ""
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
      f'<rect x="{col * patch:g}" y="{row * patch:g}" width="{patch:g}"'
      f' height="{patch:g}" fill-opacity="{shade:.2f}"/>'
    )
    if owner[token] >= 0 and owner[token] != token:
      to_row, to_col = divmod(int(owner[token]), side)
      lines.append(
        f"M{(col + 0.5) * patch:g} {(row + 0.5) * patch:g}"
        f"L{(to_col + 0.5) * patch:g} {(to_row + 0.5) * patch:g}"
      )
  kept = int(np.sum(left_at == sites))
  return (
    f'<svg viewBox="0 0 {width} {height}" role="img"'
    f' aria-label="{kept} of {owner.size} patches are kept">'
    f'<image width="{width}" height="{height}"'
    f' href="data:image/png;base64,{data}"/>{"".join(marks)}'
    f'<path d="{"".join(lines)}" stroke="#ffd54a" stroke-width=".35"'
    ' stroke-opacity=".7" fill="none"/></svg>'
  )


def _config(run, results):
  facts = {
    "versions": run["versions"],
    "weights": results["weights"],
    **{n: results[n] for n in ("generator", "instructions") if n in results},
    "config": run["config"],
  }
  text = html.escape(json.dumps(facts, indent=2))
  return f"<details><summary>show</summary><pre>{text}</pre></details>"
