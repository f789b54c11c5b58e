"""Judges a published model on benchmarks, dense and under plans."""

from collections.abc import Sequence
import contextlib
import dataclasses
import functools
import json
import pathlib
import time
from typing import Any

import jax
import tqdm

from eos_jax import cost, files, models, naming, ops
from eos_jax.data import benchmarks, fingerprints, processors
from eos_jax.data import faults as faults_lib
from eos_jax.data import sources as sources_lib
from eos_jax.data.benchmarks import batches
from eos_jax.evaluation import evaluator, store, submissions, tables
from eos_jax.evaluation import results as results_lib
from eos_jax.evaluation.scoring import letters
from eos_jax.models import loading
from eos_jax.tasks import common, published_model, report, results
from eos_jax.training import evaluate_settings, partition, settings

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
  plans: tuple[tuple[str, float | None, ops.ReductionPlan | None, str], ...]

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
  facts = _facts(job, found, fingerprint)
  print(*tables.question_lines(facts["questions"]), sep="\n", flush=True)

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

  watch, made = _Watch(), []
  total = sum(_batches(job, asked) for asked in found.sets)
  total *= sum(not reason for *_, reason in found.plans)
  with tqdm.tqdm(total=total, desc="batches", dynamic_ncols=True) as bar:
    for name, limit, plan, reason in found.plans:
      if reason:
        made.append(results_lib.Result(name, limit, reason=reason))
        continue
      answers = {}
      for asked in found.sets:
        bar.set_postfix_str(f"{name}, {asked.name}")
        path = _of_plan(folder, "predictions", name) / f"{asked.name}.jsonl"
        with contextlib.closing(store.Store(path)) as entries:
          known = _known(job, found, asked, plan, fingerprint, entries)
          bar.update(known.done)
          if not known.finished:
            timed = dataclasses.replace(asked, watch=watch.add)
            one = judge(_steps(job, asked)).with_questions(timed)
            with watch:
              for batch in one.told(plan, start=known.done):
                known.add(batch.texts, batch.lengths)
                bar.update()
        answers[asked.name] = known
      handed_in = _of_plan(folder, "submissions", name)
      for asked in found.sets:
        pairs = list(zip(asked.samples, answers[asked.name].texts, strict=True))
        submissions.write(handed_in, asked.name, pairs)
      scores = results.scored(job, found.sets, answers, handed_in)
      costs = _costs(found.cfg, plan, list(answers.values()))
      result = results_lib.measured(name, limit, plan, scores, costs)
      made.append(dataclasses.replace(result, weights=fingerprint))
  print(
    report.write_results(folder, made, facts),
    f"Look at {folder}/: report.html, table.md, table.csv, results.json,"
    " predictions/ and submissions/",
    watch.line(),
    sep="\n",
    flush=True,
  )


def _costs(cfg, plan, answers):
  """Costs of a plan (None: dense), with a prompt of mean length."""
  prompts = [known.prompt_tokens for known in answers]
  return cost.budget_of(
    plan,
    evaluator.model_shape(cfg),
    text_tokens=len(cfg.prefix) + round(sum(prompts) / len(prompts)),
  )


def _facts(job, found, fingerprint):
  """What is said of the questions, and what the scores are comparable with."""
  protocol = _protocol(job, found)
  rows, decoder = found.sets[0].rows, found.cfg.decoder
  return {
    "model": found.cfg.name,
    "weights": fingerprint,
    "protocol": protocol,
    "questions": {
      asked.name: {
        "asked": len(asked),
        "digest": files.digest([files.plain(protocol), asked.digests]),
        "files": list(questions.notes),
        "left out": dict(questions.left_out),
        "set apart": [str(fault) for fault in questions.faults],
        "whole": not (job.data.count or questions.faults),
      }
      for asked, questions in zip(found.sets, found.found, strict=True)
    },
    "published": {
      "layers": decoder.layers,
      "width": decoder.width,
      "tokens": found.cfg.tokens,
      "protocol": job.data.protocol,
      "style": rows.processor.style,
      "aspect": getattr(rows.processor.settings, "aspect", ""),
    },
  }


def _protocol(job, found):
  """How questions are asked and answered, for all benchmarks alike."""
  facts = settings.binding(job.data)
  for name in ("folder", "apart", "count", "files", "images_anywhere"):
    del facts[name]  # the digests of questions say what is asked
  inputs = {name: files.digest(value) for name, value in found.inputs.items()}
  return {**facts, "inputs": inputs, "seed": job.seed}


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


def _known(job, found, asked, plan, fingerprint, entries):
  """The answers to a benchmark under a plan that are known."""
  depends = {
    **_protocol(job, found),
    "weights": fingerprint,
    "model": dataclasses.asdict(found.cfg),
    "plan": None if plan is None else json.loads(plan.to_json()),
    "batch": job.batch,
    "steps": _steps(job, asked),
    "stop": asked.stop,
  }
  ids = [sample.id for sample in asked.samples]
  keys = list(zip(ids, asked.digests, strict=True))
  cut = [keys[i : i + job.batch] for i in range(0, len(keys), job.batch)]
  return store.Answers(entries, depends, cut)


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
  """Dense, the plans in files, and presets at each budget.

  Each is a name, the budget, the plan, and why it cannot be run, or "".

  Where no budgets are named, they are those of the plans.

  Raises:
    settings.ConfigError: a plan is not one of this model, or two have one name.
  """
  listed: list[Any] = [("dense", None, None, "")]
  for path in job.plans:
    plan = common.fitting_plan(cfg, path, "config.plans")
    average = float(cost.layer_average(cost.layer_counts(plan)))
    listed.append((plan.name, average, plan, ""))
  presets = dict.fromkeys((*job.presets, *PLAIN))
  averages = (round(average, 2) for _, average, *_ in listed[1:])
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
        listed.append((full, limit, plan, ""))
      except cost.UnreachableBudget as error:
        listed.append((full, limit, None, str(error)))
  names = [name for name, *_ in listed]
  twice = sorted({name for name in names if names.count(name) > 1})
  if twice:
    raise settings.ConfigError(
      [f"config.plans: {', '.join(twice)} is there twice; rename one"]
    )
  faults = [
    f"{name}: {fault}"
    for name, _, plan, _ in listed
    for site in (plan.sites if plan else ())
    if (fault := common.lacking(site.site, site.spec))
  ]
  if faults:
    raise settings.ConfigError(faults)
  return tuple(listed)
