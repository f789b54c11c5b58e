"""What the command line can do: each task is a function of config and workdir.

This is where training and evaluation meet; neither imports the other.
"""

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
from eos_jax import models, ops
from eos_jax.data import (
  generator,
  language_only,
  loader,
  prompts,
  sources,
  tokenizer,
)
from eos_jax.evaluation import evaluator, report
from eos_jax.training import (
  metrics,
  partition,
  pretrain,
  search,
  search_loop,
  settings,
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


def run_search(config: Any, workdir: pathlib.Path) -> None:
  """Searches plans, compares them with hand-made operators, writes both."""
  started = time.time()
  values = config.to_dict()
  values.pop("task")
  weights_path = values.pop("weights_path")
  chosen_eval = settings.build(
    settings.EvaluationSettings, values.pop("evaluation"), "config.evaluation"
  )
  chosen = settings.build(settings.SearchSettings, values)
  for name in chosen_eval.presets:
    if name not in ops.PRESETS:
      raise ValueError(
        f"config.evaluation.presets has {name!r}; known are"
        f" {sorted(ops.PRESETS)}"
      )
  words, cfg = _model()
  path = pathlib.Path(weights_path) if weights_path else shipped_weights()
  like = jax.eval_shape(functools.partial(models.init, cfg), jax.random.key(0))
  params = models.weights.load(path, like)
  fingerprint = models.weights.fingerprint(params)
  print(_describe(cfg, params, chosen), flush=True)
  problem = search.Problem(cfg, params, search.make_space(cfg, chosen), chosen)
  validation = _sources("validation", chosen.data)
  checks = loader.evaluation_set(
    validation, words, count=chosen.check_questions, seed=chosen.seed
  )
  found, facts = search_loop.run(
    problem, validation, checks, words, fingerprint, workdir
  )
  searched = time.time()
  judge = _evaluator(cfg, params, words, chosen.data, chosen_eval)
  results = _compare(judge, found, chosen_eval.presets)
  text = report.table(results)
  (workdir / "table.txt").write_text(text + "\n", encoding="utf-8")
  facts |= {
    "versions": {"eos_jax": eos_jax.__version__, "jax": jax.__version__},
    "config": config.to_dict(),
    "weights": fingerprint,
    "generator": generator.generator_hash(),
    "questions": len(judge.questions),
    "gaps": {f"{f.limit:g}": f.soft - f.hard for f in found},
    "seconds": {
      "data and search": round(searched - started, 1),
      "evaluation": round(time.time() - searched, 1),
    },
  }
  report.write_json(workdir / "results.json", results, facts)
  report.plot(workdir / "accuracy_cost.png", results)
  print(text, flush=True)
  print(_summary(results, found, facts, workdir), flush=True)


def _compare(judge, found, presets):
  todo: list[Any] = [("dense", None, None)]
  for item in found:
    todo.append(("eos", item.limit, item.plan))
    todo += [(name, item.limit, ops.PRESETS[name]) for name in presets]
  results = []
  for name, limit, what in tqdm.tqdm(
    todo, desc="evaluation", dynamic_ncols=True
  ):
    if isinstance(what, ops.OperatorSpec):
      results.append(judge.evaluate_preset(what, limit))
    else:
      results.append(judge.evaluate(name, limit, what))
  return results


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


def _summary(results, found, facts, workdir):
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
    f"look at {workdir}/accuracy_cost.png, table.txt, results.json and plans/"
  )
  return "\n".join(lines)


def run_pretrain(config: Any, workdir: pathlib.Path) -> None:
  """Pretrains the `tiny` model, tests it, and writes weights and their card."""
  values = config.to_dict()
  values.pop("task")
  chosen = settings.build(settings.PretrainSettings, values)
  words, cfg = _model()
  train = _sources("train", chosen.data, keep=True)
  stages = [workdir / "vision", workdir / "answers"]
  for stage in stages:
    stage.mkdir(exist_ok=True)
  encoder = pretrain.train_vision(cfg, chosen, train, stages[0])
  params = pretrain.train_answers(cfg, chosen, encoder, train, words, stages[1])
  path = workdir / chosen.output
  models.weights.save(path, params, {"generator": generator.generator_hash()})
  # What is judged is the file as it is shipped: float16.
  params = models.weights.load(path, params)
  card = weights_card(cfg, params, words, chosen, path)
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


TASKS = {"pretrain": run_pretrain, "search": run_search}
