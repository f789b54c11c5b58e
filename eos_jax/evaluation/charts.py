"""Figures of a run, from the plain values in its files."""

from collections.abc import Mapping, Sequence
import io
import itertools
import pathlib
from typing import Any

import matplotlib as mpl
from matplotlib import figure as figure_lib
import numpy as np

from eos_jax import files
from eos_jax.evaluation import results as results_lib

Rows = Sequence[Mapping[str, Any]]

_WIDTH = 6.4  # inches; text stays legible when a phone shows it
_LEGEND = 70  # characters in a line of a legend


def accuracy_cost(
  results: Sequence[results_lib.Result], score: str = results_lib.ACCURACY
) -> figure_lib.Figure:
  """Draws a score against prefill FLOPs, a line for each operator.

  Args:
    results: of models and plans; those without the score are left out.
    score: its name.
  """
  figure, axes = _figure(5.0)
  measured = [result for result in results if score in result.scores]
  names = sorted({r.name for r in measured if r.limit is not None})
  names.sort(key=lambda name: name != results_lib.SEARCHED)
  colors = mpl.colormaps["tab20"]
  for index, name in enumerate(names):
    line = [result for result in measured if result.name == name]
    line.sort(key=lambda result: result.flops)
    searched = name == results_lib.SEARCHED
    axes.errorbar(
      [result.flops / 1e6 for result in line],
      [result.scores[score].value for result in line],
      yerr=[result.scores[score].error or 0 for result in line],
      label="EOS (searched)" if searched else _literal(name),
      marker="*" if searched else "o",
      markersize=11 if searched else 4,
      linewidth=2.5 if searched else 1,
      color="black" if searched else colors(index % 20),
      capsize=2,
      zorder=3 if searched else 2,
    )
  lines: dict[float, list[str]] = {}
  for dense in (result for result in measured if result.limit is None):
    label = f"{_literal(dense.name)}, {dense.flops / 1e6:.0f} MFLOPs"
    lines.setdefault(dense.scores[score].value, []).append(label)
  for value, labels in lines.items():
    axes.axhline(value, linestyle="--", color="gray", linewidth=1)
    axes.annotate(
      "; ".join(labels),
      (0, value),  # at the left operators are cheap, and far below
      xycoords=("axes fraction", "data"),
      xytext=(4, 4),
      textcoords="offset points",
    ).set_in_layout(False)  # a long one would leave no space for the axes
  axes.set_xlabel("FLOPs of a prefill, millions (vision encoder included)")
  mean = ", mean over tasks" if score == results_lib.ACCURACY else ""
  axes.set_ylabel(_literal(score) + mean)
  if names:  # below the axes: operators fill all of them
    columns = min(4, 1 + _LEGEND // max(map(len, names)))
    figure.legend(fontsize=9, ncols=columns, loc="outside lower center")
  return figure


def tokens_by_layer(plans: Mapping[float, Sequence[int]]) -> figure_lib.Figure:
  """Visual tokens that enter each decoder layer.

  Args:
    plans: for each budget the tokens of every layer.
  """
  figure, axes = _figure(3.4)
  colors = mpl.colormaps["viridis"](np.linspace(0, 0.85, len(plans)))
  for color, (limit, counts) in zip(colors, plans.items(), strict=True):
    layers = np.arange(len(counts) + 1) - 0.5
    axes.stairs(
      counts,
      layers,
      baseline=None,
      color=color,
      linewidth=2,
      label=f"{limit:g}",
    )
    axes.axhline(limit, color=color, linestyle=":", linewidth=1)
  axes.set_xticks(range(max(len(c) for c in plans.values())))
  axes.set_yscale("log", base=2)
  axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
  axes.set_xlabel("decoder layer (dotted: the budget, a layer average)")
  axes.set_ylabel("visual tokens")
  axes.legend(title="budget", fontsize=8)
  return figure


def course(rows: Rows) -> figure_lib.Figure:
  """The search over its steps: loss, constraint, multiplier, checks.

  Args:
    rows: lines of `metrics.jsonl`.
  """
  steps = [row for row in rows if "task" in row]
  checks = [row for row in rows if "check/limit" in row]
  figure = figure_lib.Figure((_WIDTH, 8.6), layout="constrained")
  loss, value, weight, accuracy = figure.subplots(4, sharex=True)

  # A search for all budgets at once has another limit at every step.
  passes = sum(a["limit"] != b["limit"] for a, b in itertools.pairwise(steps))
  drawn = (
    {"linestyle": "none", "marker": "."} if passes > len(steps) / 2 else {}
  )

  def draw(axes, field, label, source=steps, **style):
    style = style | (drawn if source is steps else {})
    found = [row for row in source if field in row]  # none, if they are lost
    across, up = ([row[name] for row in found] for name in ("step", field))
    axes.plot(across, up, label=label, **style)

  draw(loss, "task", "task")
  draw(loss, "alignment", "alignment")
  loss.set_ylabel("loss")
  loss.set_yscale("log")
  draw(value, "value/layer_average", "soft layer average")
  draw(value, "limit", "limit", color="gray", linestyle="--")
  value.set_ylabel("visual tokens")
  value.set_yscale("log", base=2)
  value.yaxis.set_major_formatter(lambda x, _: f"{x:g}")
  draw(weight, "multiplier/layer_average", "Lagrange multiplier")
  draw(weight, "temperature", "temperature")
  weight.set_ylabel("multiplier, temperature")
  for field, label in (("check/soft", "soft"), ("check/hard", "hard")):
    draw(accuracy, field, label, checks, marker="o")
  accuracy.set_ylabel("check accuracy")
  accuracy.set_xlabel("step")
  for axes in (loss, value, weight, accuracy):
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
  return figure


def svg(figure: figure_lib.Figure) -> str:
  """A figure as an SVG element; the same figure gives the same text."""
  buffer = io.StringIO()
  # Names of shapes are hashes; the salt makes them the same in every run.
  with mpl.rc_context({"svg.hashsalt": "eos_jax", "svg.fonttype": "none"}):
    figure.savefig(buffer, format="svg", metadata={"Date": None})
  text = buffer.getvalue()
  return text[text.index("<svg") :]


def write_png(path: pathlib.Path, figure: figure_lib.Figure) -> None:
  """Writes a figure as PNG, whole or not at all."""
  with files.whole(path) as file:
    figure.savefig(file, format="png", dpi=150)


def _literal(name: str) -> str:
  """A name as a label: no formula, and not hidden from the legend."""
  shown = name.replace("$", r"\$")
  return f"\N{ZERO WIDTH SPACE}{shown}" if name.startswith("_") else shown


def _figure(height):
  # Without pyplot: no global state, and no display.
  figure = figure_lib.Figure((_WIDTH, height), layout="constrained")
  axes = figure.subplots()
  axes.grid(alpha=0.3)
  return figure, axes
