"""The report of a search as one HTML file that needs nothing else.

Every piece of the page comes from `html.fill`, which escapes what is filled in.
"""

from collections.abc import Mapping, Sequence
import json
from typing import Any

import numpy as np

from eos_jax import cost, ops
from eos_jax.evaluation import charts, drawing, examples, html, tables
from eos_jax.evaluation import results as results_lib

# What is printed of an operator, in the order of its stages.
_NUMBERS = ("gamma", "tau", "rho", "rho_attn", "eta", "delta", "kappa")
_CORNERS = ("prune", "reweight", "merge", "pool_soft")


def render(
  run: Mapping[str, Any],
  facts: Mapping[str, Any],
  results: Sequence[results_lib.Result],
  rows: Sequence[Mapping[str, Any]],
  plans: Mapping[float, ops.ReductionPlan],
  shown: Mapping[float, examples.Examples],
) -> str:
  """Returns the report.

  Args:
    run: what `run.json` says: config and versions.
    facts: what `results.json` says of the run.
    results: what is in `results.json`.
    rows: lines of `metrics.jsonl`.
    plans: plan of each budget.
    shown: examples of each budget.

  Returns:
    An HTML page; the same arguments give the same page.
  """
  counts = {limit: cost.layer_counts(plan) for limit, plan in plans.items()}
  parts = [
    _head(facts, results, plans),
    html.section(
      "Accuracy against cost",
      "Tokens are really dropped; bars are one standard error.",
      html.chart(charts.accuracy_cost(results)),
      html.table(*tables.best(facts["gaps"], results)),
    ),
    html.section(
      "How many tokens reach each layer",
      "",
      html.chart(charts.tokens_by_layer(counts)),
    ),
    html.section(
      "Searched operators and the named corners",
      "Each site of each plan: tokens kept, and the numbers of its operator."
      " The grey rows are the named corners of the same space.",
      _operators(plans),
    ),
    _images(shown),
    html.section(
      "The course of the search",
      "One policy for all budgets: each step is one of some budget."
      if run["config"].get("knots")
      else "Budgets are searched one after the other, from the largest.",
      html.chart(charts.course(rows)),
    ),
    *html.tables(tables.sections(facts, results)[:1]),
    html.section("Config and versions", "", _config(run, facts)),
  ]
  return html.page("Efficient operator search", parts)


def _head(facts, results, plans):
  dense = next(r for r in results if r.limit is None)
  plan = next(iter(plans.values()))
  return html.fill(
    '<p class="lead">Model {model}, {tokens} visual tokens, {layers} decoder'
    " layers; budgets of {budgets} tokens, averaged over the layers. Dense"
    " accuracy {mean:.3f} on {questions} test questions.</p>",
    model=plan.model,
    tokens=plan.tokens,
    layers=plan.layers,
    budgets=", ".join(f"{limit:g}" for limit in plans),
    mean=dense.accuracy.value,
    questions=facts["questions"][results_lib.ACCURACY]["asked"],
  )


def _operators(plans):
  rows = [("budget, site", "keeps", *_NUMBERS, "scores")]
  rows += [(name, "", *_numbers(ops.PRESETS[name])) for name in _CORNERS]
  rows += [
    (f"{limit:g}, {site.site}", str(site.keep), *_numbers(site.spec))
    for limit, plan in plans.items()
    for site in plan.sites
  ]
  corners = len(_CORNERS)
  kinds = ["corner"] * corners + [""] * (len(rows) - 1 - corners)
  return html.table(rows, kinds)


def _numbers(spec):
  """Numbers of an operator, and its mixture of scores, the greatest first."""
  parts = sorted(zip(spec.pi, spec.scores, strict=True), reverse=True)
  scores = ", ".join(f"{name} {weight:.2f}" for weight, name in parts)
  return [*(f"{getattr(spec, name):.3g}" for name in _NUMBERS), scores]


def _images(all_shown):
  blocks = []
  for limit, shown in all_shown.items():
    cells = []
    for place in range(len(shown.questions)):
      right = shown.answers[place].strip() == shown.expected[place].strip()
      expected = html.fill(" (is: {})", shown.expected[place])
      cells.append(
        html.fill(
          "<figure>{image}<figcaption>{question} <b class='{verdict}'>"
          "{answer}</b>{expected}</figcaption></figure>",
          image=_image(shown, place),
          question=shown.questions[place],
          verdict="right" if right else "wrong",
          answer=shown.answers[place],
          expected=html.Markup() if right else expected,
        )
      )
    blocks.append(
      html.fill(
        "<h3>Budget {:g}</h3><div class='images'>{}</div>",
        limit,
        html.join(cells),
      )
    )
  if not blocks:
    return html.Markup()
  return html.section(
    "Test images",
    "Bright patches keep their row to the end. A dark one left, the earlier the"
    " darker; a line leads to the patch that took up most of it. One question"
    " of each task, the same for every budget.",
    *blocks,
  )


def _image(shown, place):
  """An image with what happened to its patches, as SVG."""
  owner, left_at = shown.owner[place], shown.left_at[place]
  side = round(np.sqrt(owner.size))
  view = drawing.raster(shown.images[place], (side, side))
  return drawing.svg(view, owner, left_at, len(shown.sites))


def _config(run, facts):
  said = {
    "versions": run["versions"],
    "weights": facts["weights"],
    "protocol": facts["protocol"],
    "config": run["config"],
  }
  return html.fill(
    "<details><summary>show</summary><pre>{}</pre></details>",
    json.dumps(said, indent=2),
  )
