"""Judges a published model on benchmarks, dense and under plans."""

from collections.abc import Sequence
import dataclasses
import functools
import json
import pathlib
from typing import Any

import jax
import tqdm

from eos_jax import cost, files, models, ops
from eos_jax.data import benchmarks, instruction_rows, processors, rooms
from eos_jax.data import sources as sources_lib
from eos_jax.data.benchmarks import batches
from eos_jax.evaluation import benchmark_report, evaluator, predictions
from eos_jax.evaluation.scoring import benchmarks as scoring
from eos_jax.evaluation.scoring import vqa
from eos_jax.models import loading
from eos_jax.tasks import common, published_model
from eos_jax.training import (
  evaluate_settings,
  partition,
  settings,
  workdir,
)

# Always beside presets that are asked for: what needs no idea at all.
PLAIN = ("random", "grid", "pool")


@dataclasses.dataclass(frozen=True)
class _Opened:
  """Everything that can be known before weights are read."""

  source: published_model.Source
  cfg: models.VLMConfig
  mesh: jax.sharding.Mesh
  sets: tuple[batches.BenchmarkSet, ...]
  found: tuple[benchmarks.Questions, ...]
  plans: tuple[tuple[str, ops.ReductionPlan | None, str], ...]


def check(job: evaluate_settings.EvaluatePublishedJob) -> None:
  """Refuses what does not fit, before the model is read."""
  _open(job)


def run(
  job: evaluate_settings.EvaluatePublishedJob, folder: pathlib.Path
) -> None:
  """Asks everything that was not asked yet, and writes the tables."""
  found = _open(job)
  params, fingerprint = published_model.load(found.source, found.mesh, {})
  print(_data_lines(found), flush=True)

  @functools.cache  # programs are those of a length of answers
  def judge(steps):
    return evaluator.Evaluator(
      found.cfg,
      params,
      found.sets[0],
      batch=job.batch,
      seed=job.seed,
      steps=steps,
      placement=partition.batch_sharding(found.mesh),
    )

  lines = []
  total = sum(_batches(job, asked) for asked in found.sets)
  total *= sum(not reason for _, _, reason in found.plans)
  with tqdm.tqdm(total=total, desc="batches", dynamic_ncols=True) as bar:
    for name, plan, reason in found.plans:
      if reason:
        lines.append(benchmark_report.Line(name, reason=reason))
        continue
      told = {}
      for asked in found.sets:
        bar.set_postfix_str(f"{name}, {asked.name}")
        path = folder / "predictions" / name / f"{asked.name}.jsonl"
        book = _book(job, asked, plan, fingerprint, path)
        bar.update(book.done)
        if not book.finished:
          one = judge(_steps(job, asked)).with_questions(asked)
          for batch in one.told(plan, start=book.done):
            book.add(batch.texts, batch.lengths)
            bar.update()
        told[asked.name] = book
      lines.append(_line(job, found, name, plan, told))
      _submit(folder / "submissions" / name, found.sets, told)
  _write(job, found, lines, folder)


def _steps(job, asked):
  """Most tokens of an answer."""
  known = benchmarks.prompts.answer_length(asked.name, job.data.protocol)
  return job.data.answer_length or known


def _batches(job, asked):
  return -(-len(asked) // job.batch)


def _book(job, asked, plan, fingerprint, path):
  """The answers to a benchmark under a plan that are known."""
  ids = [sample.id for sample in asked.samples]
  facts = {
    "weights": fingerprint,
    "plan": None if plan is None else json.loads(plan.to_json()),
    "batch": job.batch,
    "seed": job.seed,
    "steps": _steps(job, asked),
    **settings.binding(job.data),
  }
  del facts["folder"], facts["apart"]
  cut = [ids[i : i + job.batch] for i in range(0, len(ids), job.batch)]
  try:
    return predictions.Predictions(path, facts, cut)
  except predictions.OtherCircumstances as error:
    raise workdir.WorkdirError(str(error)) from error


def _line(job, found, name, plan, told):
  """Scores and costs of a plan."""
  scores = {
    asked.name: scoring.SCORES[asked.name](
      list(zip(asked.samples, told[asked.name].texts, strict=True)),
      job.data.protocol,
    )
    for asked in found.sets
    if asked.name in scoring.SCORES
  }
  prompts = [book.prompt_tokens for book in told.values()]
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


def _submit(folder, sets, told):
  """Answers in the form in which servers and judges want them."""
  makers = {
    "vqav2": lambda name, text: {
      "question_id": int(name),
      "answer": vqa.submitted(text),
    },
    "textvqa": lambda name, text: {"question_id": int(name), "answer": text},
    "gqa": lambda name, text: {"questionId": name, "prediction": text},
    "seed": lambda name, text: {"question_id": name, "prediction": text},
  }
  for asked in sets:
    pairs = [
      (sample.id, text)
      for sample, text in zip(
        asked.samples, told[asked.name].texts, strict=True
      )
    ]
    if asked.name == "mmvet":  # for the judge
      files.write_json(_made(folder) / "mmvet.json", dict(pairs))
    elif asked.name in makers:
      listed = [makers[asked.name](*pair) for pair in pairs]
      files.write_json(_made(folder) / f"{asked.name}.json", listed)


def _made(folder):
  folder.mkdir(parents=True, exist_ok=True)
  return folder


def _write(job, found, lines, folder):
  """Tables in four forms, and the summary."""
  names = [asked.name for asked in found.sets]
  table = benchmark_report.rows(lines, names)
  notes = benchmark_report.notes(lines, names, job.data.protocol)
  notes += [
    f"{asked.name}: {len(questions.faults)} rows cannot be used and were set"
    " apart, not scored."
    for asked, questions in zip(found.sets, found.found, strict=True)
    if questions.faults
  ]
  markdown = benchmark_report.as_markdown(table, notes)
  files.write_text(folder / "table.md", markdown)
  files.write_text(folder / "table.csv", benchmark_report.as_csv(table))
  title = f"{found.cfg.name} on benchmarks"
  page = benchmark_report.as_html(title, table, notes)
  files.write_text(folder / "report.html", page)
  value = {
    "model": found.cfg.name,
    "protocol": job.data.protocol,
    "lines": [dataclasses.asdict(line) for line in lines],
    "questions": {
      asked.name: {
        "asked": len(asked),
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


def _data_lines(found):
  lines = []
  for asked, questions in zip(found.sets, found.found, strict=True):
    parts = [f"{len(asked):,} questions"]
    parts += [f"{n:,} left out: {why}" for why, n in questions.left_out.items()]
    if questions.faults:
      parts.append(f"{len(questions.faults):,} rows set apart")
    lines.append(f"{asked.name}: {', '.join(parts)}")
  return "\n".join(lines)


@functools.lru_cache(maxsize=1)  # checked once, then run
def _open(job):
  """All that a job names but the weights; every fault is listed."""
  found: list[str] = []

  def attempt(field, make):
    try:
      return make()
    except (ValueError, sources_lib.DataError) as error:
      found.append(f"config.{field}: {error}")
      return None

  mesh = attempt("mesh", lambda: partition.make_mesh(job.mesh or None))
  source = attempt("model.path", lambda: published_model.source(job.model))
  processor = attempt(
    "model.path",
    lambda: processors.load(job.model.path, style=job.data.style or None),
  )
  root = pathlib.Path(job.data.folder)
  read = [
    attempt(
      f"data.folder, {name}",
      lambda name=name: benchmarks.read(
        name, root / name, job.data.protocol, apart=job.data.apart
      ),
    )
    for name in job.data.names
  ]
  if mesh is not None:
    found += common.batch_faults(mesh, {"batch": job.batch})
  if found:
    raise settings.ConfigError(found)
  shapes = loading.shapes(source.description.cfg)
  attempt("mesh", lambda: partition.param_shardings(mesh, shapes))
  cfg = attempt(
    "data", lambda: published_model.with_room(source.description, job.data)
  )
  rows = None
  if cfg is not None:
    rows = attempt("model.path", lambda: _rows(processor, cfg, job.data))
  if found:
    raise settings.ConfigError(found)
  plans = _plans(cfg, job)
  sets = tuple(
    batches.BenchmarkSet(name, _first(questions.samples, job.data.count), rows)
    for name, questions in zip(job.data.names, read, strict=True)
  )
  return _Opened(source, cfg, mesh, sets, tuple(read), plans)


def _first(samples: Sequence[Any], count: int) -> tuple[Any, ...]:
  """The first samples; all passes of a question of MMBench count as one."""
  return tuple(samples[:count] if count else samples)


def _rows(processor, cfg, data):
  room = rooms.Room(data.pictures, cfg.tokens, cfg.vision.size, cfg.tiles)
  return instruction_rows.Rows(processor, cfg.prefix, room, data.text_length)


def _plans(cfg, job):
  """Dense, the plans in files, and presets at each budget: name, plan, why not.

  Raises:
    settings.ConfigError: a plan is not one of this model, or two have one name.
  """
  listed: list[Any] = [("dense", None, "")]
  for path in job.plans:
    plan = common.fitting_plan(cfg, path, "config.plans")
    listed.append((plan.name, plan, ""))
  presets = dict.fromkeys((*job.presets, *PLAIN)) if job.budgets else ()
  for limit in job.budgets:
    for name in presets:
      full = f"{name}@{limit:g}"
      try:
        plan = cost.budget_plan(
          ops.PRESETS[name],
          limit=limit,
          tokens=cfg.tokens,
          layers=cfg.decoder.layers,
          vision_layers=cfg.vision_sites,
          model=cfg.name,
        )
        listed.append((full, plan, ""))
      except cost.UnreachableBudget as error:
        listed.append((full, None, str(error)))
  names = [name for name, _, _ in listed]
  twice = sorted({name for name in names if names.count(name) > 1})
  if twice:
    raise settings.ConfigError(
      [f"config.plans: {', '.join(twice)} is there twice; rename one"]
    )
  faults = [
    f"{name}: {fault}"
    for name, plan, _ in listed
    for site in (plan.sites if plan else ())
    if (fault := common.lacking(site.site, site.spec))
  ]
  if faults:
    raise settings.ConfigError(faults)
  return tuple(listed)
