"""Measures on the machine at hand what plans save."""

import contextlib
import dataclasses
import os
import pathlib
from typing import Any

import jax
import tqdm

import eos_jax
from eos_jax import cost, files, models, ops
from eos_jax.evaluation import (
  deploy,
  evaluator,
  latency,
  ledger,
  picture_rate,
  programs,
  timing_report,
)
from eos_jax.tasks import common, subjects
from eos_jax.training import benchmark_settings, settings


@dataclasses.dataclass(frozen=True)
class Candidate:
  """A plan to be measured, or why there is none.

  Attributes:
    name: of the operator, or of the plan.
    limit: layer average that it stands for.
    plan: what is run; None where the operator cannot.
    reason: why it cannot.
  """

  name: str
  limit: float
  plan: ops.ReductionPlan | None
  reason: str = ""


def check(job: benchmark_settings.BenchmarkJob) -> None:
  """Refuses plans that no measured model can run."""
  faults = []
  for path in job.plans:
    try:
      plan = common.read_plan(path, "config.plans")
    except settings.ConfigError as error:
      faults += error.faults
      continue
    if plan.model not in job.models:
      faults.append(
        f"config.plans: {path} is of the model {plan.model!r}, which is not"
        f" among config.models={job.models}; leave it out, or add the model"
      )
      continue
    cfg = subjects.config(plan.model)
    faults += common.plan_faults(cfg, plan, f"config.plans: {path}")
  if faults:
    raise settings.ConfigError(faults)


def run(job: benchmark_settings.BenchmarkJob, folder: pathlib.Path) -> None:
  """Measures, and writes tables, figures and all numbers."""
  with contextlib.closing(ledger.Book(folder / "timings.jsonl")) as book:
    if "deploy" in job.measure:
      _deploy(job, folder, book)
    if "latency" in job.measure:
      _latency(job, folder, book)
    if "pictures" in job.measure:
      _pictures(job, folder, book)


def candidates(
  job: benchmark_settings.BenchmarkJob, cfg: models.VLMConfig
) -> list[Candidate]:
  """Searched plans, operators at every budget, and the user's plans."""
  found = []
  for share in job.budgets:
    limit = share * cfg.tokens
    plan = common.shipped_plan(cfg.name, limit)
    if plan is not None:
      found.append(Candidate(evaluator.SEARCHED, limit, plan))
    found += [preset_candidate(cfg, name, limit) for name in job.presets]
  for path in job.plans:
    plan = common.read_plan(path, "config.plans")
    if plan.model == cfg.name:
      average = float(cost.layer_average(cost.layer_counts(plan)))
      found.append(Candidate(plan.name, average, plan))
  return found


def preset_candidate(
  cfg: models.VLMConfig, name: str, limit: float
) -> Candidate:
  """A hand-made operator at a budget, or why it cannot be there."""
  try:
    plan = evaluator.preset_plan(cfg, ops.PRESETS[name], limit)
  except ValueError as error:  # unreachable, or a schedule that it lacks
    return Candidate(name, limit, None, str(error))
  for site in plan.sites:
    if fault := common.lacking(site.site, site.spec):
      return Candidate(name, limit, None, fault)
  return Candidate(name, limit, plan)


def machine() -> dict[str, Any]:
  """What the times depend on beside the settings."""
  device = jax.devices()[0]
  return {
    "device": device.device_kind,
    "platform": device.platform,
    "devices": jax.device_count(),
    "cores": os.cpu_count(),
    "eos_jax": eos_jax.__version__,
    "jax": jax.__version__,
    "xla_flags": os.environ.get("XLA_FLAGS", ""),
    "compilation_cache": bool(jax.config.jax_compilation_cache_dir),
  }


def circumstances(
  job: benchmark_settings.BenchmarkJob, model: programs.Model
) -> dict[str, Any]:
  """All that a time of a model depends on, but for plan and batch."""
  return {
    "machine": machine(),
    "kernels": model.kernels,
    "model": files.plain(dataclasses.asdict(model.cfg)),
    "dtype": model.dtype,
    **{
      name: getattr(job, name)
      for name in ("text_tokens", "steps", "repeats", "seconds", "seed")
    },
  }


def _fitting(job, names):
  """Models that have room on the device; the others are named, with why."""
  skipped = {}
  for name in names:
    if reason := subjects.lacking_memory(
      name, max(job.batches), job.text_tokens, job.steps
    ):
      skipped[name] = reason
      print(f"skipped: {reason}", flush=True)
  return [name for name in names if name not in skipped], skipped


def _deploy(job, folder, book):
  names, skipped = _fitting(job, job.models)
  rows, facts = [], {}
  total = sum(len(candidates(job, subjects.config(n))) for n in names)
  with tqdm.tqdm(
    total=total * len(job.batches), desc="deploy", dynamic_ncols=True
  ) as bar:
    for name in names:
      model = subjects.load(name, job.seed)
      listed = candidates(job, model.cfg)
      for batch in job.batches:
        rows += _rows(job, model, batch, listed, book, bar)
      facts[name] = _facts(job, model, listed, book)
  value = {
    **machine(),
    "skipped": skipped,
    "text_tokens": job.text_tokens,
    "steps": job.steps,
    "models": facts,
    "rows": rows,
  }
  timing_report.write_deploy(folder, value)
  print(timing_report.deploy_summary(value, folder), flush=True)


def _rows(job, model, batch, listed, book, bar):
  """The measurements of a model at a batch size."""
  known = circumstances(job, model)
  inputs = programs.draw(
    model, batch=batch, text_tokens=job.text_tokens, seed=job.seed
  )
  dense = None
  for item in listed:
    bar.set_postfix_str(f"{model.cfg.name} x {batch}, {item.name}")
    row = {
      "model": model.cfg.name,
      "batch": batch,
      "name": item.name,
      "limit": item.limit,
      "reason": item.reason,
    }
    if item.plan is not None:
      content = {**known, "what": "deploy", "batch": batch}
      content["plan"] = item.plan.digest
      found = book.find(content)
      if found is None:
        if dense is None:
          dense = programs.Pipeline(model, inputs, None, steps=job.steps)
        found = files.plain(
          deploy.compare(
            model,
            inputs,
            dense,
            item.plan,
            steps=job.steps,
            repeats=job.repeats,
            seconds=job.seconds,
          )
        )
        book.add(content, found)
      row |= {"note": item.plan.note, **found}
    bar.update()
    yield row


def _facts(job, model, listed, book):
  """What is said once of a model, with the programs that pictures need."""
  # The shortest sequences, or dense where there is no plan.
  plans = sorted(
    (item for item in listed if item.plan is not None),
    key=lambda item: item.limit,
  )
  plan = plans[0].plan if plans else None
  content = {
    **circumstances(job, model),
    "what": "compilations",
    "pictures": job.pictures,
    "plan": None if plan is None else plan.digest,
  }
  served = book.once(
    content,
    lambda: deploy.compilations(
      model,
      plan,
      text_tokens=job.text_tokens,
      pictures=job.pictures,
      seed=job.seed,
    ),
  )
  return {
    "parameters": sum(leaf.size for leaf in jax.tree.leaves(model.params)),
    "dtype": model.dtype,
    "kernels": model.kernels,
    "visual_tokens": model.cfg.tokens,
    "layers": model.cfg.decoder.layers,
    "compilations": {"plan": plan.name if plan else "dense", **served},
  }


def _latency(job, folder, book):
  names, _ = _fitting(job, (job.model,))
  if not names:
    return
  model = subjects.load(job.model, job.seed)
  plans = [
    item.plan
    for share in job.budgets
    for name in job.presets
    if (
      item := preset_candidate(model.cfg, name, share * model.cfg.tokens)
    ).plan
  ]
  known = circumstances(job, model)
  measure = latency.Measurement(
    model,
    text_tokens=job.text_tokens,
    points=job.points,
    repeats=job.repeats,
    seconds=job.seconds,
    seed=job.seed,
    once=lambda content, compute: book.once({**known, **content}, compute),
  )
  table, spread = measure.table(job.batches, device=machine()["device"])
  checks = measure.check(table, plans)
  value = {
    **machine(),
    "model": model.cfg.name,
    "kernels": model.kernels,
    "text_tokens": job.text_tokens,
    "spread": spread,
    "checks": checks,
  }
  timing_report.write_latency(folder, table, value)
  print(timing_report.latency_summary(table, value, folder), flush=True)


def _pictures(job, folder, book):
  cores = os.cpu_count() or 1
  content = {
    "what": "pictures",
    "cores": cores,
    "eos_jax": eos_jax.__version__,
    **{
      name: getattr(job, name)
      for name in ("pictures", "repeats", "seconds", "seed")
    },
  }

  def measure():
    rates = picture_rate.rates(
      picture_rate.draw(job.pictures, job.seed),
      sorted({1, cores}),
      repeats=job.repeats,
      seconds=job.seconds,
    )
    return {
      family: {n: dataclasses.asdict(rate) for n, rate in by_threads.items()}
      for family, by_threads in rates.items()
    }

  value = {**content, "rates": book.once(content, measure)}
  timing_report.write_pictures(folder, value)
  print(timing_report.pictures_summary(value, folder), flush=True)
