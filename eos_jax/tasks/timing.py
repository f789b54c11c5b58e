"""Measures on the machine at hand what plans save."""

import contextlib
import dataclasses
import os
import pathlib
from typing import Any

import jax
import tqdm

import eos_jax
from eos_jax import cost, files, models
from eos_jax.evaluation import evaluator, store
from eos_jax.evaluation import results as results_lib
from eos_jax.models import fits
from eos_jax.tasks import common, opening
from eos_jax.timing import deploy, latency, picture_rate, programs, report
from eos_jax.training import timing_settings


def check(job: timing_settings.TimingJob) -> None:
  """Refuses models that cannot be opened, and plans that none can run."""
  attempt, plans = opening.Attempts(), {}
  opened = [
    attempt("models", lambda n=n: open_files(job, n)) for n in job.models
  ]
  by_name = {files.cfg.name: files.cfg for files in opened if files}
  for path in job.plans:
    plan = attempt("plans", lambda p=path: common.read_plan(p, "config.plans"))
    if plan is not None:
      plans[path] = plan
  for path, plan in plans.items():
    if plan.model in by_name:
      attempt.faults += common.plan_faults(
        by_name[plan.model], plan, f"config.plans: {path}"
      )
    else:
      attempt.faults.append(
        f"config.plans: {path} is of the model {plan.model!r}, which is not"
        f" among config.models={job.models}; leave it out, or add the model"
      )
  attempt.check()


def open_files(job: timing_settings.TimingJob, name: str) -> models.ModelFiles:
  """Opens a model to be timed; all but "tiny" have random weights."""
  dtype = job.dtype or ("float32" if name == "wide" else "")
  files = models.open_files(
    name, dtype=dtype, random_weights=name != models.TINY, seed=job.seed
  )
  return files.with_shape(**job.image_shape)


def _load(files):
  """The model as inference has it, on one device."""
  mesh = models.partition.mesh_of(jax.local_devices()[:1])
  params = models.for_inference(files.load(mesh).params)
  raw = files.family == models.TINY
  return programs.Model(files.cfg, params, files.dtype.name, raw)


def lacking_memory(
  files: models.ModelFiles, batch: int, text_tokens: int, steps: int
) -> str:
  """Says why a model does not fit the free memory; "" = it does.

  Args:
    files: the model.
    batch: greatest number of samples at once.
    text_tokens: of the prompt.
    steps: tokens decoded after it.
  """
  cfg, kind = files.cfg, files.dtype.name
  shape = evaluator.model_shape(cfg)
  counts = (cfg.tokens,) * cfg.decoder.layers
  text = len(cfg.prefix) + text_tokens
  kernel = models.attention.choose(
    None, cfg.decoder.head_dim, kind, devices=jax.device_count()
  )
  parts = {
    "parameters": cost.parameter_bytes(shape, dtype=kind),
    # Of the dense model, the plan's and the one that only drops rows: what the
    # last call of each left may live until the next.
    "caches": 3
    * batch
    * cost.kv_cache_bytes(shape, counts, text + steps, dtype=kind),
    "activations": cost.activation_bytes(
      shape,
      counts,
      text,
      attention_map=kernel not in models.attention.FUSED,
      batch=batch,
      dtype=kind,
    ),
  }
  free = fits.room().free
  if free is None or sum(parts.values()) <= free:
    return ""
  listed = ", ".join(f"{k} {v / 2**30:.1f}" for k, v in parts.items())
  return (
    f"{files.name} in {kind} at batch {batch} needs"
    f" {sum(parts.values()) / 2**30:.1f} GiB ({listed}), {free / 2**30:.1f} GiB"
    f" of the {jax.devices()[0].device_kind} are free; use smaller batches or"
    " another model"
  )


def run(job: timing_settings.TimingJob, folder: pathlib.Path) -> None:
  """Measures, and writes tables, figures and all numbers."""
  with contextlib.closing(store.Store(folder / "timings.jsonl")) as times:
    if "deploy" in job.measure:
      _deploy(job, folder, times)
    if "latency" in job.measure:
      _latency(job, folder, times)
    if "pictures" in job.measure:
      _pictures(job, folder, times)


def candidates(
  job: timing_settings.TimingJob, cfg: models.VLMConfig
) -> list[common.Candidate]:
  """Searched plans, operators at every budget, and the user's plans."""
  found = []
  for share in job.budgets:
    limit = share * cfg.tokens
    plan = common.shipped_plan(cfg.name, limit)
    if plan is not None:
      found.append(common.Candidate(results_lib.SEARCHED, limit, plan))
    found += [common.preset_candidate(cfg, name, limit) for name in job.presets]
  for path in job.plans:
    plan = common.read_plan(path, "config.plans")
    if plan.model == cfg.name:
      found.append(common.Candidate(plan.name, cost.plan_average(plan), plan))
  return found


def machine() -> dict[str, Any]:
  """What the times depend on in addition to the settings."""
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
  job: timing_settings.TimingJob, model: programs.Model
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
  fitting, skipped = [], {}
  for name in names:
    files = open_files(job, name)
    if reason := lacking_memory(
      files, max(job.batches), job.text_tokens, job.steps
    ):
      skipped[name] = reason
      print(f"skipped: {reason}", flush=True)
    else:
      fitting.append(files)
  return fitting, skipped


def _deploy(job, folder, times):
  fitting, skipped = _fitting(job, job.models)
  rows, facts = [], {}
  total = sum(len(candidates(job, opened.cfg)) for opened in fitting)
  with tqdm.tqdm(
    total=total * len(job.batches), desc="deploy", dynamic_ncols=True
  ) as bar:
    for opened in fitting:
      model = _load(opened)
      listed = candidates(job, model.cfg)
      for batch in job.batches:
        rows += _rows(job, model, batch, listed, times, bar)
      facts[model.cfg.name] = _facts(job, model, listed, times)
  value = {
    **machine(),
    "skipped": skipped,
    "text_tokens": job.text_tokens,
    "steps": job.steps,
    "models": facts,
    "rows": rows,
  }
  _write(folder / "deploy.json", value)
  print(report.deploy(folder), flush=True)


def _rows(job, model, batch, listed, times, bar):
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
      found = times.find(content)
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
        times.add(content, found)
      row |= {"note": item.plan.note, **found}
    bar.update()
    yield row


def _facts(job, model, listed, times):
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
  served = times.once(
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


def _latency(job, folder, times):
  fitting, _ = _fitting(job, job.models[:1])
  if not fitting:
    return
  model = _load(fitting[0])
  plans = [
    item.plan
    for share in job.budgets
    for name in job.presets
    if (
      item := common.preset_candidate(model.cfg, name, share * model.cfg.tokens)
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
    once=lambda content, compute: times.once({**known, **content}, compute),
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
  files.write_text(folder / "latency.json", table.to_json())
  _write(folder / "latency_check.json", value)
  print(report.latency(folder), flush=True)


def _pictures(job, folder, times):
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

  value = {**content, "rates": times.once(content, measure)}
  _write(folder / "pictures.json", value)
  print(report.pictures(folder), flush=True)


def _write(path, value):
  files.write_json(path, files.sealed(files.plain(value)))
