"""What the command line can do: each task is a function of config and workdir.

This is where training and evaluation meet; neither imports the other.
"""

from collections.abc import Callable, Mapping
import contextlib
import dataclasses
import functools
import hashlib
import importlib.resources
import json
import pathlib
import time
from typing import Any

import jax
import numpy as np
import tqdm

import eos_jax
from eos_jax import cost, models, ops
from eos_jax.data import (
  generator,
  language_only,
  loader,
  prompts,
  sources,
  tokenizer,
)
from eos_jax.evaluation import evaluator, ledger, report
from eos_jax.search import check_reachable
from eos_jax.training import (
  metrics,
  partition,
  pretrain,
  search,
  search_loop,
  settings,
  workdir,
)

ANSWER_TOKENS = 6  # the longest answer and </s>


def shipped_weights() -> pathlib.Path:
  """The weights of the `tiny` model inside the package."""
  root = importlib.resources.files(eos_jax)
  return pathlib.Path(str(root / "models" / "weights" / "tiny.safetensors"))


def _model() -> tuple[Any, models.VLMConfig]:
  words = tokenizer.load()
  return words, models.tiny(words.vocab_size, tuple(prompts.prefix_ids(words)))


def _sources(split: str, data: settings.DataSettings, keep: bool = False):
  return [
    sources.load(
      name,
      split,
      data_dir=data.directory or None,
      config=data.suite if name == "mini_suite" else "default",
      keep=keep,
    )
    for name in ("mini_suite", "easy_vqa")
  ]


def _evaluator(cfg, params, words, data, chosen, split="test"):
  questions = loader.evaluation_set(
    _sources(split, data),
    words,
    count=chosen.questions or None,
    seed=chosen.seed,
  )
  mesh = partition.make_mesh()
  partition.check_batch(mesh, chosen.batch)
  return evaluator.Evaluator(
    cfg,
    jax.device_put(params, partition.param_shardings(mesh, params)),
    questions,
    batch=chosen.batch,
    seed=chosen.seed,
    normalize=pretrain.normalize,
    steps=ANSWER_TOKENS,
    placement=partition.batch_sharding(mesh),
  )


def _read_weights(cfg, path):
  """Weights by `config.weights_path`; "" = those inside the package."""
  like = jax.eval_shape(functools.partial(models.init, cfg), jax.random.key(0))
  try:
    return models.weights.load(
      pathlib.Path(path) if path else shipped_weights(), like
    )
  except ValueError as error:
    raise settings.ConfigError([f"config.weights_path: {error}"]) from error


def _make_space(cfg, job):
  """The search space of a job.

  Raises:
    settings.ConfigError: what does not fit this model or these devices.
  """
  faults = []
  mesh = partition.make_mesh()
  for name, batch in (
    ("batch", job.batch),
    ("check_batch", job.check_batch),
    ("evaluation.batch", job.evaluation.batch),
  ):
    try:
      partition.check_batch(mesh, batch)
    except ValueError as error:
      faults.append(f"config.{name}: {error}")
  faults += [
    f"config.sites has {site!r}; {settings.nearest(site, cfg.sites)}"
    for site in job.sites
    if site not in cfg.sites
  ]
  space = None
  try:
    space = None if faults else search.make_space(cfg, job)
  except ValueError as error:
    faults.append(f"config.sites: {error}")
  for limit in job.budgets if space else ():
    try:
      check_reachable(space, limit)
    except cost.UnreachableBudget as error:
      faults.append(f"config.budgets has {limit:g}: {error}")
  if faults:
    raise settings.ConfigError(faults)
  return space


def check_search(job: settings.SearchJob) -> None:
  """Refuses what does not fit the model, before anything is built."""
  _, cfg = _model()
  _make_space(cfg, job)
  _read_weights(cfg, job.weights_path)


def run_search(job: settings.SearchJob, folder: pathlib.Path) -> None:
  """Searches plans, compares them with hand-made operators, writes both."""
  started = time.time()
  words, cfg = _model()
  params = _read_weights(cfg, job.weights_path)
  fingerprint = models.weights.fingerprint(params)
  problem = search.Problem(cfg, params, _make_space(cfg, job), job)
  print(_describe(cfg, params, job), flush=True)
  validation = _sources("validation", job.data)
  checks = loader.evaluation_set(
    validation, words, count=job.check_questions, seed=job.seed
  )
  found, facts = search_loop.run(
    problem, validation, checks, words, fingerprint, folder
  )
  searched = time.time()
  judge = _evaluator(cfg, params, words, job.data, job.evaluation)
  with contextlib.closing(
    _ledger(folder, fingerprint, job.data, job.evaluation)
  ) as book:
    plans = [("eos", item.limit, item.plan) for item in found]
    results = _compare(judge, plans, job.evaluation.presets, book)
  text = report.table(results)
  metrics.write_text(folder / "table.txt", text + "\n")
  run_facts = workdir.read(folder)
  facts |= {
    "config": run_facts["config"],
    "versions": run_facts["versions"],
    "weights": fingerprint,
    "generator": generator.generator_hash(),
    "questions": len(judge.questions),
    "gaps": {f"{f.limit:g}": f.soft - f.hard for f in found},
    "seconds": {
      "data and search": round(searched - started, 1),
      "evaluation": round(time.time() - searched, 1),
    },
  }
  report.write_json(folder / "results.json", results, facts)
  report.plot(folder / "accuracy_cost.png", results)
  print(text, flush=True)
  print(_summary(results, found, facts, folder), flush=True)


def _compare(judge, plans, presets, book):
  """Results of dense, of (name, limit, plan), and of presets beside each."""
  todo: list[Any] = [("dense", None, None)]
  for name, limit, plan in plans:
    todo.append((name, limit, plan))
    todo += [(preset, limit, ops.PRESETS[preset]) for preset in presets]
  results = []
  for name, limit, plan in tqdm.tqdm(
    todo, desc="evaluation", dynamic_ncols=True
  ):
    if isinstance(plan, ops.OperatorSpec):
      try:
        plan = judge.preset_plan(plan, limit)
      except cost.UnreachableBudget as error:
        results.append(evaluator.Result(name, limit, None, reason=str(error)))
        continue
    result = book.find(name, limit, plan)
    if result is None:
      result = judge.evaluate(name, limit, plan)
      book.add(result)
    results.append(result)
  return results


def _ledger(folder, fingerprint, data, chosen, split="test"):
  """The evaluations of a run; presets are no circumstance of any one plan."""
  circumstances = {
    "weights": fingerprint,
    "generator": generator.generator_hash(),
    "suite": data.suite,
    "split": split,
    **dataclasses.asdict(dataclasses.replace(chosen, presets=())),
  }
  return ledger.Ledger(folder / "evaluation.jsonl", circumstances)


def _read_plan(cfg, path):
  """The plan in a file; refuses one that this model cannot run."""
  try:
    text = pathlib.Path(path).read_text(encoding="utf-8")
  except OSError as error:
    raise settings.ConfigError(
      [f"config.plan: {path} cannot be read ({error.strerror})"]
    ) from error
  try:
    plan = ops.ReductionPlan.from_json(text)
  except ValueError as error:
    raise settings.ConfigError([f"config.plan: {path}: {error}"]) from error
  faults = [
    f"config.plan: {path} is of another model: {field} is {theirs!r} there"
    f" and {ours!r} here; use a plan that was searched for {cfg.name!r}"
    for field, theirs, ours in (
      ("model", plan.model, cfg.name),
      ("tokens", plan.tokens, cfg.vision.tokens),
      ("layers", plan.layers, cfg.decoder.layers),
    )
    if theirs != ours
  ]
  faults += [
    f"config.plan: {path} has the site {site.site!r};"
    f" {settings.nearest(site.site, cfg.sites)}"
    for site in plan.sites
    if site.site not in cfg.sites
  ]
  if faults:
    raise settings.ConfigError(faults)
  return plan


def check_evaluate(job: settings.EvaluateJob) -> None:
  """Refuses a plan or weights that do not fit the model."""
  _, cfg = _model()
  _read_plan(cfg, job.plan)
  _read_weights(cfg, job.weights_path)


def run_evaluate(job: settings.EvaluateJob, folder: pathlib.Path) -> None:
  """Judges one plan on test questions, beside the dense model."""
  words, cfg = _model()
  plan = _read_plan(cfg, job.plan)
  params = _read_weights(cfg, job.weights_path)
  fingerprint = models.weights.fingerprint(params)
  judge = _evaluator(cfg, params, words, job.data, job.evaluation)
  limit = float(cost.layer_average(cost.layer_counts(plan)))
  with contextlib.closing(
    _ledger(folder, fingerprint, job.data, job.evaluation)
  ) as book:
    results = _compare(
      judge, [(plan.name, limit, plan)], job.evaluation.presets, book
    )
  text = report.table(results)
  run_facts = workdir.read(folder)
  facts = {
    "config": run_facts["config"],
    "versions": run_facts["versions"],
    "weights": fingerprint,
    "generator": generator.generator_hash(),
    "questions": len(judge.questions),
  }
  metrics.write_text(folder / "table.txt", text + "\n")
  report.write_json(folder / "results.json", results, facts)
  print(text, flush=True)
  print(
    f"\n{len(judge.questions)} test questions; +- is one standard error. Look"
    f" at {folder}/table.txt and results.json",
    flush=True,
  )


def _describe(cfg, params, chosen):
  count = {
    part: sum(leaf.size for leaf in jax.tree.leaves(tree))
    for part, tree in params.items()
  }
  parts = ", ".join(f"{part} {n / 1e6:.2f} M" for part, n in count.items())
  return (
    f"model {cfg.name}: {parts} parameters, {cfg.vision.tokens} visual tokens,"
    f" {cfg.decoder.layers} decoder layers\nsearch: budgets"
    f" {', '.join(f'{b:g}' for b in chosen.budgets)}, {chosen.steps} steps of"
    f" {chosen.batch} questions each, start from {chosen.start!r}, mode"
    f" {chosen.mode!r}"
  )


def _summary(results, found, facts, folder):
  dense = next(r for r in results if r.limit is None)
  lines = ["", f"dense {dense.mean:.3f}. At each budget, mean accuracy:"]
  for item in found:
    rows = [r for r in results if r.limit == item.limit and r.accuracy]
    mine = next(r for r in rows if r.name == "eos")
    best = max((r for r in rows if r.name != "eos"), key=lambda r: r.mean)
    kept = ", ".join(f"{s.site} {s.keep}" for s in item.plan.sites)
    lines.append(
      f"  {item.limit:g}: EOS {mine.mean:.3f} +- {mine.error:.3f}, best"
      f" hand-made {best.name} {best.mean:.3f}; gap soft - hard"
      f" {100 * (item.soft - item.hard):+.1f} points; keeps {kept}"
    )
  seconds = facts["seconds"]
  lines.append(
    f"search step compiled {facts['compilations']} time(s); data and search"
    f" {seconds['data and search']:.0f} s, evaluation"
    f" {seconds['evaluation']:.0f} s"
  )
  lines.append(
    f"look at {folder}/accuracy_cost.png, table.txt, results.json and plans/"
  )
  return "\n".join(lines)


def run_pretrain(job: settings.PretrainSettings, folder: pathlib.Path) -> None:
  """Pretrains the `tiny` model, tests it, and writes weights and their card."""
  words, cfg = _model()
  train = _sources("train", job.data, keep=True)
  stages = [folder / "vision", folder / "answers"]
  for stage in stages:
    stage.mkdir(exist_ok=True)
  encoder = pretrain.train_vision(cfg, job, train, stages[0])
  params = pretrain.train_answers(cfg, job, encoder, train, words, stages[1])
  path = folder / job.output
  models.weights.save(path, params, {"generator": generator.generator_hash()})
  # What is judged is the file as it is shipped: float16.
  params = models.weights.load(path, params)
  card = weights_card(cfg, params, words, job, path)
  metrics.write_json(path.with_suffix(".json"), card)
  print(json.dumps(card, indent=2), flush=True)


def weights_card(cfg, params, words, chosen, path) -> dict[str, Any]:
  """Facts about trained weights: data, steps, seed, command, and accuracy.

  The accuracy stands beside that of a guess from the question alone.
  """
  whole = settings.EvaluationSettings(
    questions=chosen.test_questions, batch=128, seed=0, presets=()
  )
  judge = _evaluator(cfg, params, words, chosen.data, whole)
  result = judge.evaluate("dense", None, None)
  suite = [a for task, a in result.accuracy.items() if task != "easy_vqa"]
  guesses: dict[str, float] = {}
  for name in sources.NAMES:
    guesses |= language_only.measure(
      name,
      data_dir=chosen.data.directory or None,
      config=chosen.data.suite if name == "mini_suite" else "default",
    )
  return {
    "model": cfg.name,
    "parameters": sum(leaf.size for leaf in jax.tree.leaves(params)),
    "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
    "bytes": path.stat().st_size,
    "data": {"mini_suite": chosen.data.suite, "easy_vqa": "1.0"},
    "generator_sha256": generator.generator_hash(),
    "steps": {"vision": chosen.vision.steps, "answers": chosen.answers.steps},
    "seed": chosen.seed,
    "test_questions": len(judge.questions),
    "accuracy": {k: round(v, 4) for k, v in result.accuracy.items()},
    "language_only": {k: round(guesses[k], 4) for k in result.accuracy},
    "suite_mean": round(float(np.mean(suite)), 4),
    "command": "python -m eos_jax.main --config=configs/pretrain.py",
  }


@dataclasses.dataclass(frozen=True)
class Task:
  """Something that the command line can do.

  Attributes:
    settings: dataclass of its config.
    run: does it, in an opened working directory.
    check: refuses a config that cannot work, before the directory is taken.
  """

  settings: type
  run: Callable[[Any, pathlib.Path], None]
  check: Callable[[Any], None] = lambda job: None


TASKS = {
  "evaluate": Task(settings.EvaluateJob, run_evaluate, check_evaluate),
  "pretrain": Task(settings.PretrainSettings, run_pretrain),
  "search": Task(settings.SearchJob, run_search, check_search),
}


def run(name: str, config: Mapping[str, Any], path: pathlib.Path) -> None:
  """Runs or resumes a task in a directory.

  Args:
    name: one of `TASKS`.
    config: its settings, as plain values.
    path: the directory of the run.

  Raises:
    settings.ConfigError: the config has faults; all are listed.
    workdir.WorkdirError: the directory cannot be this run's.
  """
  task = TASKS[name]
  job = settings.build(task.settings, config)
  task.check(job)
  with workdir.opened(
    path, name, config, harmless=settings.harmless(task.settings)
  ):
    task.run(job, path)
