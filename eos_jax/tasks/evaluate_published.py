"""Judges a published model on benchmarks, dense and under plans."""

from collections.abc import Sequence
import dataclasses
import functools
import pathlib
import time
from typing import Any

import jax
import tqdm

from eos_jax import cost, models, naming, ops
from eos_jax.data import benchmarks, fingerprints, processors
from eos_jax.data import faults as faults_lib
from eos_jax.data import sources as sources_lib
from eos_jax.data.benchmarks import batches
from eos_jax.evaluation import (
  benchmark_report,
  evaluator,
  predictions,
  submissions,
)
from eos_jax.evaluation.scoring import letters
from eos_jax.models import loading
from eos_jax.tasks import benchmark_results, common, published_model
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

  @functools.cached_property
  def inputs(self) -> dict[str, Any]:
    """What turns questions into what the model reads; all sets share it."""
    return fingerprints.inputs(self.sets[0].rows)


def check(job: evaluate_settings.EvaluatePublishedJob) -> None:
  """Refuses what does not fit, before the model is read."""
  _open.cache_clear()  # files may have changed since
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
  print(benchmark_results.data_lines(found), flush=True)

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
        path = _of_plan(folder, "predictions", name) / f"{asked.name}.jsonl"
        book = _book(job, found, asked, plan, fingerprint, path)
        bar.update(book.done)
        if not book.finished:
          timed = dataclasses.replace(asked, watch=watch.add)
          one = judge(_steps(job, asked)).with_questions(timed)
          with watch:
            for batch in one.told(plan, start=book.done):
              book.add(batch.texts, batch.lengths)
              bar.update()
        told[asked.name] = book
      for asked in found.sets:
        submissions.write(
          _of_plan(folder, "submissions", name),
          asked.name,
          list(zip(asked.samples, told[asked.name].texts, strict=True)),
        )
      line = benchmark_results.line(job, found, name, plan, told, folder)
      lines.append(line)
  benchmark_results.write(job, found, lines, folder)
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


def _of_plan(folder, kind, name):
  """The folder of a plan's files."""
  if fault := naming.name_fault(name):
    raise ValueError(
      f"a plan's name is {naming.quoted(name)}; expected {fault}"
    )
  return folder / kind / name


def _book(job, found, asked, plan, fingerprint, path):
  """The answers to a benchmark under a plan that are known."""
  facts = {
    "weights": fingerprint,
    "model": dataclasses.asdict(found.cfg),
    "inputs": found.inputs,
    "plan": None if plan is None else plan.digest,
    "batch": job.batch,
    "seed": job.seed,
    "steps": _steps(job, asked),
    "stop": asked.stop,
    **settings.binding(job.data),
  }
  for name in ("folder", "apart", "count", "files", "images_anywhere"):
    del facts[name]  # the digests of questions say what is asked
  ids = [sample.id for sample in asked.samples]
  keys = list(zip(ids, asked.digests, strict=True))
  cut = [keys[i : i + job.batch] for i in range(0, len(keys), job.batch)]
  try:
    book = predictions.Predictions(path, facts, cut)
  except predictions.OtherCircumstances as error:
    raise workdir.WorkdirError(str(error)) from error
  if book.dropped:
    print(
      f"note: {book.dropped} answers in {path} are not those to the questions"
      " and pictures as they now are; they are computed again",
      flush=True,
    )
  return book


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
        files=evaluate_settings.files_of(job.data, name),
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
    "data",
    lambda: published_model.with_room(source.description, job.data, processor),
  )
  rows = None
  if cfg is not None:
    rows = attempt(
      "model.path",
      lambda: published_model.rows(processor, cfg, job.data, job.data.protocol),
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
        plan = evaluator.preset_plan(cfg, ops.PRESETS[name], limit)
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
