"""Pretrains the tiny model, tests it and writes weights with their card."""

import hashlib
import json
import pathlib
from typing import Any

import jax
import numpy as np

from eos_jax import files, models
from eos_jax.data import (
  generator,
  language_only,
  packing,
  sources,
  suite,
  tokenizer,
)
from eos_jax.models import fits, partition
from eos_jax.tasks import opening
from eos_jax.training import (
  pretrain,
  pretrain_settings,
  settings,
  shared_settings,
)


def check(job: pretrain_settings.PretrainSettings) -> None:
  """Refuses data or batches that do not fit."""
  faults = opening.question_faults(
    _opened(job),
    batches={
      f"{name}.batch": getattr(job, name).batch for name in pretrain.STAGES
    },
    asked={"test_questions": (job.test_questions, "test")},
    streams={"train": "pretraining"},
  )
  if job.data.kind != "suite":
    faults.append(
      f"config.data.source is {job.data.kind!r}; pretraining reads labels that"
      " only the rendered suite has, use 'suite'"
    )
  if faults:
    raise settings.ConfigError(faults)


def _opened(job):
  files, mesh = models.open_files(models.TINY), partition.make_mesh()
  chosen = job.data
  rows = files.rows(packing.DEFAULT_TEXT_LENGTH)
  questions = suite.Suite(
    rows,
    suite=chosen.suite,
    directory=chosen.directory,
    mixture=chosen.mixture,
  )
  return opening.Opened(files, mesh, questions, opening.SUITE_ANSWER)


def run(job: pretrain_settings.PretrainSettings, folder: pathlib.Path) -> None:
  """Pretrains the `tiny` model, tests it, and writes weights and their card."""
  found = _opened(job)
  cfg, words = found.cfg, tokenizer.load()
  train = found.questions.open("train", keep=True)
  print(
    fits.report(
      fits.measure(found.files, found.files.dtype, found.mesh), fits.room()
    ),
    found.questions.summary(["train"]),
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
  path = folder / f"{job.output}.safetensors"
  models.weights.save(path, params, cfg)
  # What is judged is the file as it is shipped: float16.
  model = models.load(str(path), mesh=found.mesh)
  card = weights_card(found, model, job, path)
  files.write_json(path.with_suffix(".json"), card)
  print(json.dumps(card, indent=2), flush=True)


def weights_card(found, model, chosen, path) -> dict[str, Any]:
  """Returns facts about trained weights: data, steps, seed, accuracy.

  The accuracy stands next to that of a guess from the question alone.
  """
  (tests,) = found.questions.choose("test", count=chosen.test_questions, seed=0)
  whole = shared_settings.EvaluationSettings(batch=128)
  judge = opening.evaluator_of(found, model, tests, whole)
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
    "model": model.name,
    "parameters": sum(leaf.size for leaf in jax.tree.leaves(model.params)),
    "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
    "bytes": path.stat().st_size,
    "data": {"mini_suite": chosen.data.suite, "easy_vqa": "1.0"},
    "generator_sha256": generator.generator_hash(),
    "steps": {name: getattr(chosen, name).steps for name in pretrain.STAGES},
    "seed": chosen.seed,
    "test_questions": len(tests),
    "accuracy": {k: round(v, 4) for k, v in accuracy.items()},
    "language_only": {k: round(guesses[k], 4) for k in accuracy},
    "suite_mean": round(float(np.mean(suite)), 4),
    "command": "python -m eos_jax.main --config=configs/pretrain.py",
  }
