"""Figures of measured times, from plain values."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
from matplotlib import figure as figure_lib

from eos_jax import cost
from eos_jax.evaluation import results as results_lib

Rows = Sequence[Mapping[str, Any]]

_WIDTH = 6.4  # inches; text stays legible when a phone shows it


def speedups(rows: Rows) -> figure_lib.Figure:
  """Realised and ideal speed-ups of the prefill by budget.

  A panel for each model and batch, a colour for each operator; what is
  realised is solid, with quartiles, what FLOPs promise is dashed.

  Args:
    rows: of deploy.json.
  """
  rows = [row for row in rows if not row["reason"]]
  panels = list(dict.fromkeys((row["model"], row["batch"]) for row in rows))
  names = list(dict.fromkeys(row["name"] for row in rows))
  colors = dict(zip(names, mpl.colormaps["tab10"].colors * 9, strict=False))
  colors[results_lib.SEARCHED] = "black"
  height = 1.2 + 2.6 * max(1, -(-len(panels) // 2))
  figure = figure_lib.Figure((_WIDTH, height), layout="constrained")
  handles = {}
  for index, (model, batch) in enumerate(panels):
    axes = figure.add_subplot(
      -(-len(panels) // 2), min(2, len(panels)), index + 1
    )
    for name in names:
      line = [
        row
        for row in rows
        if (row["model"], row["batch"], row["name"]) == (model, batch, name)
      ]
      if line:
        handles[name] = _line(axes, line, colors[name])
    axes.axhline(1, color="gray", linewidth=1)
    axes.set_title(f"{model}, batch {batch}", fontsize=10)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log", base=2)
    for axis in (axes.xaxis, axes.yaxis):
      axis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.grid(alpha=0.3)
  figure.supxlabel("visual tokens (layer average)", fontsize=10)
  figure.supylabel("speed-up of the prefill (dashed: by FLOPs)", fontsize=10)
  if handles:
    figure.legend(
      handles.values(),
      handles,
      fontsize=9,
      ncols=4,
      loc="outside upper center",
    )
  return figure


def _line(axes, line, color):
  """Draws an operator; returns what stands for it in the legend."""
  line = sorted(line, key=lambda row: row["limit"])
  limits = [row["limit"] for row in line]
  gains = [row["speedup"]["prefill"] for row in line]
  real = [gain["realised"] for gain in gains]
  drawn = axes.errorbar(
    limits,
    real,
    yerr=[
      [r - gain["low"] for r, gain in zip(real, gains, strict=True)],
      [gain["high"] - r for r, gain in zip(real, gains, strict=True)],
    ],
    marker="o",
    markersize=4,
    color=color,
    capsize=2,
  )
  ideal = [gain["ideal"] for gain in gains]
  axes.plot(limits, ideal, linestyle="--", linewidth=1, color=color)
  return drawn


def layer_times(table: cost.LatencyTable, checks: Rows) -> figure_lib.Figure:
  """Times of layers and blocks by rows, and of prefills as predicted.

  Args:
    table: the times.
    checks: "checks" of latency_check.json.
  """
  figure = figure_lib.Figure((_WIDTH, 7.0), layout="constrained")
  grid = figure.add_gridspec(2, 2)
  for column, (title, rows, seconds) in enumerate(
    (
      ("decoder layer", table.tokens, table.seconds),
      ("encoder block", table.vision_rows, table.vision_seconds),
    )
  ):
    axes = figure.add_subplot(grid[0, column])
    for batch, times in zip(table.batches, seconds, strict=True):
      axes.plot(rows, 1e3 * times, marker="o", label=f"batch {batch}")
    axes.set_title(title, fontsize=10)
    axes.set_xlabel("rows")
    axes.set_ylabel("ms")
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
  axes = figure.add_subplot(grid[1, :])
  for field, label in (
    ("measured_cut", "rows only dropped"),
    ("measured", "with operators"),
  ):
    axes.scatter(
      [1e3 * row["predicted"] for row in checks],
      [1e3 * row[field] for row in checks],
      s=18,
      label=label,
    )
  most = 1e3 * max(max(r["predicted"], r["measured"]) for r in checks)
  axes.plot([0, most], [0, most], color="gray", linewidth=1)
  axes.set_xlabel("prefill from pixels on, predicted, ms")
  axes.set_ylabel("measured, ms")
  axes.grid(alpha=0.3)
  axes.legend(fontsize=8)
  return figure
