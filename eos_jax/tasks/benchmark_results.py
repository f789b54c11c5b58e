"""Scores of a published model on benchmarks, as tables and as JSON."""

from collections.abc import Mapping
import dataclasses
import math
from typing import Any

from eos_jax import cost, files
from eos_jax.data import sources as sources_lib
from eos_jax.evaluation import (
  benchmark_report,
  evaluator,
  published_numbers,
)
from eos_jax.evaluation.scoring import benchmarks as scoring


def _judged(path, samples):
  """The score of MM-Vet from the marks that a judge gave."""
  try:
    return scoring.mmvet(samples, files.read_json(path))
  except ValueError as error:
    raise sources_lib.DataError(f"{path}: {error}") from error


def line(job, found, name, plan, answers, folder):
  """Returns scores and costs of a plan as a line of the table.

  Args:
    job: `evaluate_settings.EvaluatePublishedJob`.
    found: what the job names, as of `evaluate_published`.
    name: of the plan.
    plan: None = dense.
    answers: `predictions.Predictions` by benchmark.
    folder: of the run.
  """
  scores = {
    asked.name: scoring.SCORES[asked.name](
      list(zip(asked.samples, answers[asked.name].texts, strict=True)),
      job.data.protocol,
    )
    for asked in found.sets
    if asked.name in scoring.SCORES
    and all(sample.answers for sample in asked.samples)
  }
  marks = folder / "submissions" / name / "mmvet_marks.json"
  for asked in found.sets:
    if asked.name == "mmvet" and marks.is_file():
      scores["mmvet"] = _judged(marks, asked.samples)
  prompts = [book.prompt_tokens for book in answers.values()]
  budget = cost.budget_of(
    plan,
    evaluator.model_shape(found.cfg),
    text_tokens=len(found.cfg.prefix) + round(sum(prompts) / len(prompts)),
  )
  return benchmark_report.Line(
    name=name,
    layer_average=float(budget.layer_average),
    final=budget.final,
    flops=budget.total_flops,
    kv_bytes=budget.kv_bytes,
    scores=scores,
  )


def write(job, found, lines, folder):
  """Writes the tables in four forms, and prints the summary."""
  names = [asked.name for asked in found.sets]
  table = benchmark_report.rows(lines, names)
  notes = benchmark_report.notes(lines, names, job.data.protocol)
  notes += [
    f"{asked.name}: {len(questions.faults)} rows cannot be used and were set"
    " apart, not scored."
    for asked, questions in zip(found.sets, found.found, strict=True)
    if questions.faults
  ]
  notes += [
    f"{asked.name}: {'; '.join(questions.notes)}."
    for asked, questions in zip(found.sets, found.found, strict=True)
    if questions.notes
  ]
  title = f"{found.cfg.name} on benchmarks"
  sections = [
    benchmark_report.Section("Scores and costs", table, notes),
    _published(job, found, lines),
  ]
  markdown = benchmark_report.as_markdown(sections)
  files.write_text(folder / "table.md", markdown)
  files.write_text(folder / "table.csv", benchmark_report.as_csv(table))
  page = benchmark_report.as_html(title, sections)
  files.write_text(folder / "report.html", page)
  value = {
    "model": found.cfg.name,
    "protocol": job.data.protocol,
    "lines": [_finite(dataclasses.asdict(line)) for line in lines],
    "questions": {
      asked.name: {
        "asked": len(asked),
        "files": list(questions.notes),
        "left out": dict(questions.left_out),
        "set apart": [str(fault) for fault in questions.faults],
      }
      for asked, questions in zip(found.sets, found.found, strict=True)
    },
  }
  files.write_json(folder / "results.json", value)
  print(
    markdown,
    f"Look at {folder}/: report.html, table.md, table.csv, results.json,"
    " predictions/ and submissions/",
    sep="\n",
    flush=True,
  )


def _finite(value: Mapping[str, Any]) -> dict[str, Any]:
  """Numbers that were not measured as null."""
  return {
    name: None if isinstance(v, float) and not math.isfinite(v) else v
    for name, v in value.items()
  }


def _published(job, found, lines):
  """Published numbers to compare with, or why there are none."""
  rows, dense = found.sets[0].rows, lines[0]
  names, reason = published_numbers.comparable(
    {
      asked.name: len(asked)
      for asked, questions in zip(found.sets, found.found, strict=True)
      if asked.name in dense.scores and not (job.data.count or questions.faults)
    },
    layers=found.cfg.decoder.layers,
    width=found.cfg.decoder.width,
    tokens=found.cfg.tokens,
    protocol=job.data.protocol,
    style=rows.processor.style,
    aspect=getattr(rows.processor.settings, "aspect", ""),
  )
  if reason:
    notes = [f"There are none to compare with: {reason}."]
    return benchmark_report.Section("Published numbers", [], notes)
  return benchmark_report.Section(
    "Published numbers",
    published_numbers.table([x for x in lines if not x.reason], names),
    published_numbers.notes(),
  )


def data_lines(found):
  """Returns what is said of the questions before they are asked."""
  lines = []
  for asked, questions in zip(found.sets, found.found, strict=True):
    parts = [f"{len(asked):,} questions"]
    parts += [f"{n:,} left out: {why}" for why, n in questions.left_out.items()]
    if questions.faults:
      parts.append(f"{len(questions.faults):,} rows set apart")
    parts += questions.notes
    lines.append(f"{asked.name}: {', '.join(parts)}")
  return "\n".join(lines)
