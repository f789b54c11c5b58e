"""Pretrains the shipped model, tests it and writes weights with their card."""

import functools
import hashlib
import json
import math
import pathlib
from typing import Any

import jax
import numpy as np

from eos_jax import files, models
from eos_jax.data import generator, language_only, sources
from eos_jax.models import partition
from eos_jax.tasks import common, messages
from eos_jax.training import (
  pretrain,
  pretrain_settings,
  settings,
  shared_settings,
)


def check(job: pretrain_settings.PretrainSettings) -> None:
  """Refuses data or batches that do not fit."""
  faults = common.split_faults(job.data, "train", "pretraining")
  faults += common.batch_faults(
    partition.make_mesh(),
    {f"{name}.batch": getattr(job, name).batch for name in pretrain.STAGES},
  )
  faults += common.shipped_data_faults(
    job.data, {"test_questions": (job.test_questions, "test")}, job.weights
  )
  if faults:
    raise settings.ConfigError(faults)


def run(job: pretrain_settings.PretrainSettings, folder: pathlib.Path) -> None:
  """Pretrains the `tiny` model, tests it, and writes weights and their card."""
  words, cfg = common.model()
  train = common.open_sources("train", job.data, keep=True)
  shapes = jax.eval_shape(
    functools.partial(models.init, cfg), jax.random.key(0)
  )
  mesh = partition.make_mesh()
  batch_bytes = job.vision.batch * 3 * math.prod(cfg.vision.size)
  print(
    f"parameters: {messages.count_parameters(shapes)} (trained)",
    messages.mesh_line(mesh, shapes, batch_bytes),
    messages.data_line(train),
    ", ".join(f"{name} {getattr(job, name).steps}" for name in pretrain.STAGES)
    + " steps",
    sep="\n",
    flush=True,
  )
  folders = [folder / name for name in pretrain.STAGES]
  for stage in folders:
    stage.mkdir(exist_ok=True)
  encoder = pretrain.train_vision(cfg, job, train, folders[0])
  params = None
  for stage in folders[1:]:
    params = pretrain.train_answers(
      cfg, job, encoder, train, words, stage, params
    )
  path = folder / job.output
  models.weights.save(path, params, cfg)
  # What is judged is the file as it is shipped: float16.
  params = models.weights.load(path, params, cfg)
  card = weights_card(cfg, params, words, job, path)
  files.write_json(path.with_suffix(".json"), card)
  print(json.dumps(card, indent=2), flush=True)


def weights_card(cfg, params, words, chosen, path) -> dict[str, Any]:
  """Facts about trained weights: data, steps, seed, command, and accuracy.

  The accuracy stands beside that of a guess from the question alone.
  """
  whole = shared_settings.EvaluationSettings(questions=chosen.test_questions)
  judge = common.make_evaluator(cfg, params, words, chosen.data, whole)
  result = judge.judge("dense", None, None, judge.predict(None))
  accuracy = result.accuracy.parts
  suite = [share for task, share in accuracy.items() if task != "easy_vqa"]
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
    "steps": {name: getattr(chosen, name).steps for name in pretrain.STAGES},
    "seed": chosen.seed,
    "test_questions": len(judge.questions),
    "accuracy": {k: round(v, 4) for k, v in accuracy.items()},
    "language_only": {k: round(guesses[k], 4) for k in accuracy},
    "suite_mean": round(float(np.mean(suite)), 4),
    "command": "python -m eos_jax.main --config=configs/pretrain.py",
  }
