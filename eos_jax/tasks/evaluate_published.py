"""Judges a published model on benchmarks, dense and under plans."""

from collections.abc import Sequence
import dataclasses
import functools
import json
import pathlib
import time
from typing import Any

import jax
import tqdm

from eos_jax import cost, files, models, ops
from eos_jax.data import benchmarks, processors
from eos_jax.data import faults as faults_lib
from eos_jax.data import sources as sources_lib
from eos_jax.data.benchmarks import batches
from eos_jax.evaluation import (
  benchmark_report,
  evaluator,
  predictions,
  published_numbers,
  submissions,
)
from eos_jax.evaluation.scoring import benchmarks as scoring
from eos_jax.evaluation.scoring import letters
from eos_jax.models import loading
from eos_jax.tasks import common, published_model
from eos_jax.training import (
  evaluate_settings,
  partition,
  settings,
  workdir,
)

# Always beside plans: what needs no idea at all.
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
  with jax.set_mesh(found.mesh):  # for `models.target.spread`
    _run(job, folder, found)


def _run(job, folder, found):
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

  watch = _Watch()
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
          timed = dataclasses.replace(asked, watch=watch.add)
          one = judge(_steps(job, asked)).with_questions(timed)
          with watch:
            for batch in one.told(plan, start=book.done):
              book.add(batch.texts, batch.lengths)
              bar.update()
        told[asked.name] = book
      lines.append(_line(job, found, name, plan, told, folder))
      for asked in found.sets:
        submissions.write(
          folder / "submissions" / name,
          asked.name,
          list(zip(asked.samples, told[asked.name].texts, strict=True)),
        )
  _write(job, found, lines, folder)
  print(watch.line(), flush=True)


class _Watch:
  """How long the model waited for pictures."""

  def __init__(self):
    self._asked = self._waited = self._since = 0.0
    self._pictures = 0

  def __enter__(self):
    self._since = time.perf_counter()

  def __exit__(self, *error):
    self._asked += time.perf_counter() - self._since

  def add(self, seconds: float, pictures: int) -> None:
    """A batch came after so many seconds."""
    self._waited += seconds
    self._pictures += pictures

  def line(self) -> str:
    """What is told at the end."""
    if not self._asked:
      return "All answers were there already."
    return (
      f"{self._pictures:,} pictures were read while the model answered; it"
      f" waited for them {100 * self._waited / self._asked:.1f} % of the time."
    )


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
  del facts["folder"], facts["apart"], facts["images_anywhere"]
  cut = [ids[i : i + job.batch] for i in range(0, len(ids), job.batch)]
  try:
    return predictions.Predictions(path, facts, cut)
  except predictions.OtherCircumstances as error:
    raise workdir.WorkdirError(str(error)) from error


def _judged(path, samples):
  """The score of MM-Vet from the marks that a judge gave."""
  try:
    return scoring.mmvet(samples, files.read_json(path))
  except ValueError as error:
    raise sources_lib.DataError(f"{path}: {error}") from error


def _line(job, found, name, plan, told, folder):
  """Scores and costs of a plan."""
  scores = {
    asked.name: scoring.SCORES[asked.name](
      list(zip(asked.samples, told[asked.name].texts, strict=True)),
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
  title = f"{found.cfg.name} on benchmarks"
  sections = [
    benchmark_report.Section("Scores and costs", table, notes),
    _beside(job, found, lines),
  ]
  markdown = benchmark_report.as_markdown(sections)
  files.write_text(folder / "table.md", markdown)
  files.write_text(folder / "table.csv", benchmark_report.as_csv(table))
  page = benchmark_report.as_html(title, sections)
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


def _beside(job, found, lines):
  """Published numbers, or why there are none beside."""
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
    notes = [f"There are none beside: {reason}."]
    return benchmark_report.Section("Published numbers", [], notes)
  return benchmark_report.Section(
    "Published numbers",
    published_numbers.table([x for x in lines if not x.reason], names),
    published_numbers.notes(),
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
  attempt = common.Attempts()
  source = attempt("model.path", lambda: published_model.source(job.model))
  shapes = source and loading.shapes(source.description.cfg)
  mesh = attempt("mesh", lambda: partition.make_mesh(job.mesh, shapes))
  processor = attempt(
    "model.path",
    lambda: _processor(job),
  )
  root = pathlib.Path(job.data.folder)
  read = [
    attempt(
      f"data.folder, {name}",
      lambda name=name: benchmarks.read(
        name,
        root / name,
        job.data.protocol,
        apart=job.data.apart,
        images_anywhere=job.data.images_anywhere,
      ),
    )
    for name in job.data.names
  ]
  if mesh is not None:
    attempt.faults += common.batch_faults(mesh, {"batch": job.batch})
  attempt.check()
  attempt("mesh", lambda: partition.param_shardings(mesh, shapes))
  cfg = attempt(
    "data", lambda: published_model.with_room(source.description, job.data)
  )
  rows = None
  if cfg is not None:
    rows = attempt(
      "model.path", lambda: published_model.rows(processor, cfg, job.data)
    )
  attempt.check()
  plans = _plans(cfg, job)
  checked = [
    attempt(
      f"data.folder, {name}",
      lambda name=name, questions=questions: _checked(
        name, questions, rows, job
      ),
    )
    for name, questions in zip(job.data.names, read, strict=True)
  ]
  attempt.check()
  sets, found = zip(*checked, strict=True)
  return _Opened(source, cfg, mesh, sets, found, plans)


def _checked(name, questions, rows, job):
  """The questions to ask, all of them with rows that can be made.

  Raises:
    sources_lib.DataError: there are others, or no questions.
  """
  asked = batches.BenchmarkSet(
    name, _first(name, questions.samples, job.data.count), rows
  )
  faults = asked.unusable()
  if faults and not job.data.apart or len(faults) == len(asked):
    raise sources_lib.DataError(faults_lib.listed(list(faults.values())))
  samples = tuple(one for one in asked.samples if one.id not in faults)
  asked = dataclasses.replace(asked, samples=samples)
  return asked, questions.without(faults)


def _processor(job):
  """The processor of the model's folder, told how to read pictures."""
  found = processors.load(job.model.path, style=job.data.style or None)
  if not job.data.aspect:
    return found
  if not hasattr(found.settings, "aspect"):
    raise ValueError(
      f"data.aspect is {job.data.aspect!r}, and models like {job.model.path}"
      " take pictures of any shape; use ''"
    )
  settings_ = dataclasses.replace(found.settings, aspect=job.data.aspect)
  return dataclasses.replace(found, settings=settings_)


def _first(name: str, samples: Sequence[Any], count: int) -> tuple[Any, ...]:
  """The first samples, but none whose score needs others that are cut off."""
  if not count:
    return tuple(samples)
  if name == "mme":  # both questions of a picture
    return tuple(samples[: count + count % 2])
  if name == "mmbench":  # all passes of a question
    number = lambda sample: int(sample.id) % letters.PASS
    kept = set(list(dict.fromkeys(map(number, samples)))[:count])
    return tuple(sample for sample in samples if number(sample) in kept)
  return tuple(samples[:count])


def _plans(cfg, job):
  """Dense, the plans in files, and presets at each budget: name, plan, why not.

  Where no budgets are named, they are those of the plans.

  Raises:
    settings.ConfigError: a plan is not one of this model, or two have one name.
  """
  listed: list[Any] = [("dense", None, "")]
  for path in job.plans:
    plan = common.fitting_plan(cfg, path, "config.plans")
    listed.append((plan.name, plan, ""))
  presets = dict.fromkeys((*job.presets, *PLAIN))
  averages = (
    round(float(cost.layer_average(cost.layer_counts(plan))), 2)
    for _, plan, _ in listed[1:]
  )
  for limit in job.budgets or dict.fromkeys(averages):
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
