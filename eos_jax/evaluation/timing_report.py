"""Tables and files of measured times, from plain values."""

from collections.abc import Mapping
import pathlib
from typing import Any

from eos_jax import cost, files
from eos_jax.evaluation import charts, render, timing_charts

Row = Mapping[str, Any]

_PREFILL = (
  "operator",
  "tokens",
  "prefill ms",
  "speed-up",
  "ideal",
  "of ideal",
  "roofline",
  "of it",
  "operators",
  "first token ms",
  "speed-up",
  "ideal",
  "of ideal",
)
_ANSWER = (
  "operator",
  "tokens",
  "step ms",
  "speed-up",
  "end to end ms",
  "speed-up",
  "ideal",
  "of ideal",
  "KV KiB",
  "by model",
  "compile s: prefill",
  "step",
)

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


def deploy_table(value: Row) -> str:
  """Returns what was measured of plans, as Markdown.

  Args:
    value: content of deploy.json.
  """
  sections = [
    render.Section(
      f"Plans and dense on {value['device']}",
      notes=[
        f"jax {value['jax']}, {value['cores']} CPU cores,"
        f" {value['text_tokens']} text tokens.",
        *(line.format(steps=value["steps"]) for line in _LEGEND),
      ],
    )
  ]
  for name, batch in _groups(value["rows"]):
    rows = [
      r for r in value["rows"] if (r["model"], r["batch"]) == (name, batch)
    ]
    facts = value["models"][name]
    measured = [row for row in rows if not row["reason"]]
    tables = _tables(measured) if measured else ((), ())
    notes = [
      f"{facts['visual_tokens']} visual tokens, {facts['layers']} layers,"
      f" {facts['parameters'] / 1e6:.1f} M parameters in {facts['dtype']},"
      f" attention by {facts['kernels']['decoder']}."
    ]
    notes += [] if measured else ["Nothing could be measured."]
    notes += [
      f"{r['name']} cannot be at {r['limit']:g} tokens: {r['reason']}"
      for r in rows
      if r["reason"]
    ]
    budgets = [row["budget"]["plan"]["text"] for row in measured]
    title = f"{name}, batch {batch}"
    sections += [
      render.Section(f"{title}: prefill", tables[0], notes),
      render.Section(f"{title}: answer", tables[1], budgets),
    ]
  skipped = [f"skipped: {reason}" for reason in value["skipped"].values()]
  programs = [*_served(value), *skipped]
  sections.append(render.Section("Programs", notes=programs))
  return render.markdown(sections)


def _served(value):
  """Lines about what was compiled for many pictures."""
  return [
    f"{name} under {found['plan']}: {found['pictures']} images and prompts,"
    f" {found['prefill']} program(s) of the prefill and {found['step']} of the"
    " step"
    for name, facts in value["models"].items()
    for found in [facts["compilations"]]
  ]


def _groups(rows):
  return list(dict.fromkeys((row["model"], row["batch"]) for row in rows))


def _tables(rows):
  """Two tables: dense, then the plans."""
  # Dense was measured with every plan; the first stands for all.
  sides = [("dense", rows[0]), *(("plan", row) for row in rows)]
  prefill, answer = [_PREFILL], [_ANSWER]
  for side, row in sides:
    seconds, budget = row["seconds"][side], row["budget"][side]
    gain = None if side == "dense" else row["speedup"]
    name = side if side == "dense" else _name(row)
    first = (name, f"{budget['layer_average']:.4g}")
    share = "" if side == "dense" else _share(row["operators"])
    kept, spent = row["kv_bytes"][side], row["compile_seconds"][side]
    prefill.append(
      (
        *first,
        _ms(seconds["prefill"]),
        *_gain(gain, "prefill"),
        *_bound(gain, "prefill"),
        share,
        _ms(seconds["first_token"]),
        *_gain(gain, "first_token"),
      )
    )
    answer.append(
      (
        *first,
        _ms(seconds["step"]),
        _gain(gain, "step")[0],
        _ms(seconds["end_to_end"]),
        *_gain(gain, "end_to_end"),
        f"{kept['segments'] / 1024:.0f}",
        f"{kept['model'] / 1024:.0f}",
        f"{spent['prefill']:.1f}",
        f"{spent['step']:.1f}",
      )
    )
  return prefill, answer


def _name(row):
  return row["name"] + (" (moved)" if row["note"] == "moved" else "")


def _share(found):
  mark = "*" if found["part"] == "first_token" else ""
  return f"{found['share']:.0%}{mark}"


def _gain(gain, part):
  """Realised, ideal and their ratio; dense is what they refer to."""
  if gain is None:
    return "1", "1", ""
  found = gain[part]
  return (
    f"{found['realised']:.2f}",
    f"{found['ideal']:.2f}",
    f"{found['share']:.0%}",
  )


def _bound(gain, part):
  """Speed-up by the chip's roofline, and the share of it that is realised."""
  found = {} if gain is None else gain[part]
  if "roofline" not in found:
    return "", ""
  return f"{found['roofline']:.2f}", f"{found['roofline_share']:.0%}"


def _ms(measured):
  return f"{1e3 * measured['median']:.3g}"


def write(folder: pathlib.Path) -> str:
  """Writes tables and figures of what was measured; returns a summary.

  Raises:
    OSError: nothing was measured.
    ValueError: a file is damaged.
  """
  made = [make(folder) for name, make in _FILES if (folder / name).exists()]
  return "\n".join(made or [deploy(folder)])


def deploy(folder: pathlib.Path) -> str:
  """Writes deploy.md and deploy.png from deploy.json; returns a summary."""
  value = _read(folder / "deploy.json")
  files.write_text(folder / "deploy.md", deploy_table(value))
  charts.write_png(folder / "deploy.png", timing_charts.speedups(value["rows"]))
  head = ("model", "batch", "plan", "tokens", "prefill", "by FLOPs")
  cells = [(*head, "end to end", "operators")]
  for row in value["rows"]:
    if not row["reason"]:
      prefill, whole = (row["speedup"][p] for p in ("prefill", "end_to_end"))
      cells.append(
        (
          *(row["model"], str(row["batch"]), row["name"]),
          f"{row['limit']:.4g}",
          f"{prefill['realised']:.2f}",
          f"{prefill['ideal']:.2f}",
          f"{whole['realised']:.2f}",
          f"{row['operators']['share']:.0%}",
        )
      )
  notes = _served(value)
  if missed := sum(bool(row["reason"]) for row in value["rows"]):
    notes.append(f"{missed} budget(s) cannot be reached, see deploy.md")
  notes.append(f"Look at {folder}/deploy.md, deploy.png and deploy.json")
  return _text(f"Speed-ups on {value['device']}", cells, notes)


def latency(folder: pathlib.Path) -> str:
  """Writes latency.png from latency.json and latency_check.json.

  Returns:
    How well the table predicts, a row for each plan.
  """
  text = (folder / "latency.json").read_text(encoding="utf-8")
  table = cost.LatencyTable.from_json(text)
  checks = _read(folder / "latency_check.json")["checks"]
  charts.write_png(
    folder / "latency.png", timing_charts.layer_times(table, checks)
  )
  cells = [("plan", "batch", "predicted ms", "measured ms", "error", "cut")]
  cells += [
    (
      *(row["name"], str(row["batch"])),
      f"{1e3 * row['predicted']:.3g}",
      f"{1e3 * row['measured']:.3g}",
      f"{row['error']:+.0%}",
      f"{row['error_cut']:+.0%}",
    )
    for row in checks
  ]
  notes = (
    f"{table.tokens[0]} to {table.tokens[-1]} rows, batches"
    f" {', '.join(map(str, table.batches))}. Prefill from pixels on; cut: error"
    " where rows are only dropped, without operators.",
    f"Look at {folder}/latency.json (cost.LatencyTable.from_json),"
    " latency_check.json and latency.png",
  )
  title = f"Layer times of {table.model} on {table.device}"
  return _text(title, cells, notes)


def pictures(folder: pathlib.Path) -> str:
  """Returns rates of preprocessing, a row for each family."""
  rates = _read(folder / "pictures.json")["rates"]
  threads = list(next(iter(rates.values())))
  cells = [("family", *(f"{count} thread(s)" for count in threads))]
  cells += [
    (name, *(f"{found[count]['median']:.1f}" for count in threads))
    for name, found in rates.items()
  ]
  title = "Images a second, JPEG of 640 x 480 to a model's array"
  notes = ("Medians of rounds.", f"Look at {folder}/pictures.json")
  return _text(title, cells, notes)


# By the file that a measurement writes.
_FILES = (
  ("deploy.json", deploy),
  ("latency_check.json", latency),
  ("pictures.json", pictures),
)


def _read(path):
  return files.unsealed(files.read_json(path))


def _text(title, cells, notes):
  return render.text([render.Section(title, cells, notes)])
