"""Tables and files of measured times, from plain values."""

from collections.abc import Mapping, Sequence
import pathlib
from typing import Any

from eos_jax import cost, files
from eos_jax.evaluation import benchmark_report, timing_charts

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

_LEGEND = """\
Times are medians; quartiles are in deploy.json. *Prefill* is the decoder over
encoded pictures and the prompt, up to the first token; *first token* the same
from pixels on; *step* one decoded token; *end to end* the first token and
{steps} steps. *Speed-up* is dense time / plan's time, the median over rounds in
which both took turns; *ideal* is the same of their FLOPs, operators included;
*roofline* the same of the least times of the chip, where its figures are known.
*Operators* is their share of the plan's prefill (with `*`: from pixels on),
found against a prefill that only drops as many rows. *KV* is what the cache
holds behind the prefill, with biases and positions; *by model* is what the cost
model says of keys and values."""


def deploy_table(value: Row) -> str:
  """What was measured of plans, as Markdown that reads as plain text too.

  Args:
    value: content of deploy.json.
  """
  lines = [
    f"# Plans beside dense on {value['device']}",
    "",
    f"jax {value['jax']}, {value['cores']} CPU cores, {value['text_tokens']}"
    " text tokens.",
    "",
    *_LEGEND.format(steps=value["steps"]).splitlines(),
  ]
  for name, batch in _groups(value["rows"]):
    rows = [
      r for r in value["rows"] if (r["model"], r["batch"]) == (name, batch)
    ]
    facts = value["models"][name]
    lines += [
      "",
      f"## {name}, batch {batch}",
      "",
      f"{facts['visual_tokens']} visual tokens, {facts['layers']} layers,"
      f" {facts['parameters'] / 1e6:.1f} M parameters in {facts['dtype']},"
      f" attention by {facts['kernels']['decoder']}.",
      "",
      *_tables([row for row in rows if not row["reason"]]),
    ]
    missed = [r for r in rows if r["reason"]]
    if missed:
      lines.append("")
    lines += [
      f"- {r['name']} cannot be at {r['limit']:g} tokens: {r['reason']}"
      for r in missed
    ]
    budgets = [r["budget"]["plan"]["text"] for r in rows if not r["reason"]]
    lines += ["", "Budgets:", "", *(f"- {text}" for text in budgets)]
  lines += ["", "## Programs", "", *_served(value)]
  lines += [f"- skipped: {reason}" for reason in value["skipped"].values()]
  return "\n".join(lines)


def _served(value):
  """Lines about what was compiled for many pictures."""
  return [
    f"- {name} under {found['plan']}: {found['pictures']} pictures and prompts,"
    f" {found['prefill']} program(s) of the prefill and {found['step']} of the"
    " step"
    for name, facts in value["models"].items()
    for found in [facts["compilations"]]
  ]


def _groups(rows):
  return list(dict.fromkeys((row["model"], row["batch"]) for row in rows))


def _tables(rows):
  """Two tables: dense, then the plans."""
  if not rows:
    return ["Nothing could be measured."]
  # Dense was measured beside every plan; the first stands for all.
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
  return [*_aligned(prefill), "", *_aligned(answer)]


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


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
  """A Markdown table whose columns stand under one another."""
  rows = [[*map(benchmark_report.markdown_cell, cells)] for cells in rows]
  widths = [max(map(len, column)) for column in zip(*rows, strict=True)]

  def line(cells):
    padded = [cells[0].ljust(widths[0])]
    padded += [c.rjust(w) for c, w in zip(cells[1:], widths[1:], strict=True)]
    return "| " + " | ".join(padded) + " |"

  rule = ["-" * widths[0], *("-" * (w - 1) + ":" for w in widths[1:])]
  return [line(rows[0]), line(rule), *map(line, rows[1:])]


def deploy_summary(value: Row, folder: pathlib.Path) -> str:
  """A few lines for the end of a run."""
  lines = [
    f"Speed-ups on {value['device']}, prefill (ideal by FLOPs) / end to end:"
  ]
  for name, batch in _groups(value["rows"]):
    lines.append(f"  {name}, batch {batch}:")
    for row in value["rows"]:
      if (row["model"], row["batch"]) != (name, batch) or row["reason"]:
        continue
      prefill, whole = (row["speedup"][p] for p in ("prefill", "end_to_end"))
      lines.append(
        f"    {row['name']:<20}{row['limit']:5.4g} tokens:"
        f" {prefill['realised']:5.2f} x ({prefill['ideal']:.2f})"
        f" / {whole['realised']:5.2f} x, operators"
        f" {row['operators']['share']:.0%}"
      )
  missed = sum(bool(row["reason"]) for row in value["rows"])
  if missed:
    lines.append(f"  {missed} budget(s) cannot be reached, see deploy.md")
  lines += _served(value)
  lines.append(f"Look at {folder}/deploy.md, deploy.png and deploy.json")
  return "\n".join(lines)


def write_deploy(folder: pathlib.Path, value: Row) -> None:
  """Writes deploy.json, deploy.md and deploy.png."""
  files.write_json(folder / "deploy.json", value)
  files.write_text(folder / "deploy.md", deploy_table(value) + "\n")
  _save(folder / "deploy.png", timing_charts.speedups(value["rows"]))


def latency_summary(
  table: cost.LatencyTable, value: Row, folder: pathlib.Path
) -> str:
  """How well a table predicts, a line for each plan."""
  lines = [
    f"Layer times of {table.model} on {table.device}:"
    f" {table.tokens[0]} to {table.tokens[-1]} rows, batches"
    f" {', '.join(map(str, table.batches))}. Prefill from pixels on, predicted"
    " against measured (against rows only dropped, without operators):"
  ]
  lines += [
    f"  batch {row['batch']}, {row['name']:<24}"
    f" {1e3 * row['predicted']:8.3g} ms against"
    f" {1e3 * row['measured']:8.3g} ms: {row['error']:+.0%}"
    f" ({row['error_cut']:+.0%})"
    for row in value["checks"]
  ]
  lines.append(
    f"Look at {folder}/latency.json (cost.LatencyTable.from_json),"
    " latency_check.json and latency.png"
  )
  return "\n".join(lines)


def write_latency(
  folder: pathlib.Path, table: cost.LatencyTable, value: Row
) -> None:
  """Writes latency.json, latency_check.json and latency.png."""
  files.write_text(folder / "latency.json", table.to_json())
  files.write_json(folder / "latency_check.json", value)
  _save(
    folder / "latency.png", timing_charts.layer_times(table, value["checks"])
  )


def pictures_summary(value: Row, folder: pathlib.Path) -> str:
  """Rates of preprocessing, a line for each family."""
  lines = [
    "Pictures a second, JPEG of 640 x 480 to a model's array; median of rounds:"
  ]
  lines += [
    f"  {name:<18}"
    + ", ".join(
      f"{rate['median']:7.1f} with {threads} thread(s)"
      for threads, rate in rates.items()
    )
    for name, rates in value["rates"].items()
  ]
  lines.append(f"Look at {folder}/pictures.json")
  return "\n".join(lines)


def write_pictures(folder: pathlib.Path, value: Row) -> None:
  """Writes pictures.json."""
  files.write_json(folder / "pictures.json", value)


def _save(path, figure):
  with files.whole(path) as file:
    figure.savefig(file, format="png", dpi=150)
