"""Reports of measured times, from the files of a run."""

from collections.abc import Mapping
import pathlib
from typing import Any

from eos_jax import cost, files
from eos_jax.evaluation import charts as charts_lib
from eos_jax.evaluation import render
from eos_jax.timing import charts

Row = Mapping[str, Any]

_LEGEND = (
  "Times are medians; quartiles are in deploy.json.",
  "Prefill: the decoder over encoded images and the prompt, up to the first"
  " token; first token: the same from pixels on; step: one decoded token; end"
  " to end: the first token and {steps} steps.",
  "Speed-up: dense time / plan's time, the median over rounds in which both"
  " took turns; ideal: the same ratio of their FLOPs, operators included;"
  " roofline: the same ratio of the least times of the chip, where its figures"
  " are known.",
  "Operators: their share of the plan's prefill (with *: from pixels on),"
  " compared with a prefill that only drops as many rows.",
  "KV: size of the cache after the prefill, with biases and positions; by"
  " model: keys and values by the cost model.",
)


def write(folder: pathlib.Path) -> str:
  """Writes tables and figures of what was measured; returns them as text.

  Raises:
    OSError: nothing was measured.
    ValueError: a file is damaged.
  """
  made = [make(folder) for name, make in _MADE if (folder / name).exists()]
  return "\n".join(made or [deploy(folder)])


def deploy(folder: pathlib.Path) -> str:
  """Writes deploy.md and deploy.png from deploy.json; returns the former."""
  value = _read(folder / "deploy.json")
  text = deploy_table(value)
  files.write_text(folder / "deploy.md", text)
  figure = charts.speedups(value["rows"])
  charts_lib.write_png(folder / "deploy.png", figure)
  return f"{text}Look at {folder}/deploy.md, deploy.png and deploy.json"


def deploy_table(value: Row) -> str:
  """Returns what was measured of plans, as Markdown.

  Args:
    value: content of deploy.json.
  """
  about = [
    f"jax {value['jax']}, {value['cores']} CPU cores, {value['text_tokens']}"
    " text tokens.",
    *(line.format(steps=value["steps"]) for line in _LEGEND),
  ]
  title = f"Plans and dense on {value['device']}"
  sections = [render.Section(title, notes=about)]
  groups = [(row["model"], row["batch"]) for row in value["rows"]]
  for name, batch in dict.fromkeys(groups):
    sections += _group(value, name, batch)
  programs = [
    f"{name} under {found['plan']}: {found['pictures']} images and prompts,"
    f" {found['prefill']} program(s) of the prefill and {found['step']} of the"
    " step"
    for name, facts in value["models"].items()
    for found in [facts["compilations"]]
  ]
  programs += [f"skipped: {reason}" for reason in value["skipped"].values()]
  sections.append(render.Section("Programs", notes=programs))
  return render.markdown(sections)


def _group(value, name, batch):
  """Tables of a model at a batch size."""
  rows = [r for r in value["rows"] if (r["model"], r["batch"]) == (name, batch)]
  measured = [row for row in rows if not row["reason"]]
  # Dense was measured with every plan; the first stands for all.
  sides = [("dense", row) for row in measured[:1]]
  sides += [("plan", row) for row in measured]
  facts = value["models"][name]
  notes = [
    f"{facts['visual_tokens']} visual tokens, {facts['layers']} layers,"
    f" {facts['parameters'] / 1e6:.1f} M parameters in {facts['dtype']},"
    f" attention by {facts['kernels']['decoder']}."
  ]
  notes += [] if measured else ["Nothing could be measured."]
  notes += [
    f"{row['name']} cannot be at {row['limit']:g} tokens: {row['reason']}"
    for row in rows
    if row["reason"]
  ]
  budgets = [row["budget"]["plan"]["text"] for row in measured]
  prefill = render.table([_prefill(*side) for side in sides])
  answer = render.table([_answer(*side) for side in sides])
  return [
    render.Section(f"{name}, batch {batch}: prefill", prefill, notes),
    render.Section(f"{name}, batch {batch}: answer", answer, budgets),
  ]


def _prefill(side, row):
  """Cells of a plan up to the first token, by heading."""
  mark = "*" if row["operators"]["part"] == "first_token" else ""
  bound = {} if side == "dense" else row["speedup"]["prefill"]
  return {
    **_named(side, row),
    "prefill ms": _ms(row, side, "prefill"),
    **_gain(row, side, "prefill", "speed-up", "ideal", "of ideal"),
    "roofline": f"{bound['roofline']:.2f}" if "roofline" in bound else "",
    "of it": f"{bound['roofline_share']:.0%}" if "roofline" in bound else "",
    "operators": ""
    if side == "dense"
    else f"{row['operators']['share']:.0%}{mark}",
    "first token ms": _ms(row, side, "first_token"),
    **_gain(row, side, "first_token", "its speed-up", "its ideal", "of that"),
  }


def _answer(side, row):
  """Cells of a plan after the first token, by heading."""
  kept, spent = row["kv_bytes"][side], row["compile_seconds"][side]
  return {
    **_named(side, row),
    "step ms": _ms(row, side, "step"),
    **_gain(row, side, "step", "speed-up"),
    "end to end ms": _ms(row, side, "end_to_end"),
    **_gain(row, side, "end_to_end", "its speed-up", "ideal", "of ideal"),
    "KV KiB": f"{kept['segments'] / 1024:.0f}",
    "by model": f"{kept['model'] / 1024:.0f}",
    "compile s: prefill": f"{spent['prefill']:.1f}",
    "step": f"{spent['step']:.1f}",
  }


def _named(side, row):
  moved = " (moved)" if row["note"] == "moved" else ""
  return {
    "operator": side if side == "dense" else row["name"] + moved,
    "tokens": f"{row['budget'][side]['layer_average']:.4g}",
  }


def _ms(row, side, part):
  return f"{1e3 * row['seconds'][side][part]['median']:.3g}"


def _gain(row, side, part, *heads):
  """Realised speed-up, the ideal one and their ratio; 1 for dense."""
  cells = ["1", "1", ""]
  if side != "dense":
    found = row["speedup"][part]
    cells = [f"{found[name]:.2f}" for name in ("realised", "ideal")]
    cells.append(f"{found['share']:.0%}")
  return dict(zip(heads, cells, strict=False))


def latency(folder: pathlib.Path) -> str:
  """Writes latency.png from latency.json and latency_check.json.

  Returns:
    How well the table predicts, a row for each plan.
  """
  text = (folder / "latency.json").read_text(encoding="utf-8")
  table = cost.LatencyTable.from_json(text)
  checks = _read(folder / "latency_check.json")["checks"]
  figure = charts.layer_times(table, checks)
  charts_lib.write_png(folder / "latency.png", figure)
  rows = [
    {
      "plan": row["name"],
      "batch": str(row["batch"]),
      "predicted ms": f"{1e3 * row['predicted']:.3g}",
      "measured ms": f"{1e3 * row['measured']:.3g}",
      "error": f"{row['error']:+.0%}",
      "error without operators": f"{row['error_cut']:+.0%}",
    }
    for row in checks
  ]
  notes = (
    f"{table.tokens[0]} to {table.tokens[-1]} rows, batches"
    f" {', '.join(map(str, table.batches))}. Prefill from pixels on.",
    f"Look at {folder}/latency.json (cost.LatencyTable.from_json),"
    " latency_check.json and latency.png",
  )
  title = f"Layer times of {table.model} on {table.device}"
  return render.text([render.Section(title, render.table(rows), notes)])


def pictures(folder: pathlib.Path) -> str:
  """Returns rates of preprocessing, a row for each family."""
  rows = [
    {"family": name}
    | {
      f"{threads} thread(s)": f"{rate['median']:.1f}"
      for threads, rate in rates.items()
    }
    for name, rates in _read(folder / "pictures.json")["rates"].items()
  ]
  title = "Images a second, JPEG of 640 x 480 to a model's array"
  notes = ("Medians of rounds.", f"Look at {folder}/pictures.json")
  return render.text([render.Section(title, render.table(rows), notes)])


# What is made of each file.
_MADE = (
  ("deploy.json", deploy),
  ("latency_check.json", latency),
  ("pictures.json", pictures),
)


def _read(path):
  return files.unsealed(files.read_json(path))
