"""Judges a model on questions: dense, under plans and under presets."""

import contextlib
import dataclasses
import functools
import pathlib

import jax
import tqdm

from eos_jax import cost, files, models, naming
from eos_jax.data import benchmarks
from eos_jax.evaluation import evaluator, store, submissions
from eos_jax.evaluation import results as results_lib
from eos_jax.tasks import common, opening, report, results
from eos_jax.timing import stopwatch
from eos_jax.training import evaluate_settings


def check(job: evaluate_settings.EvaluateJob) -> None:
  """Refuses what does not fit, before the model is read."""
  opening.forget()
  found = opening.opened(job)
  job = job.for_model(found.cfg)
  attempt = opening.Attempts()
  attempt.faults += opening.question_faults(
    found,
    batches=job.batch_sizes,
    asked={"questions": (job.questions, "test")},
    streams={},
  )
  attempt("plans", lambda: common.candidates(found.cfg, job))
  attempt.check()
  if found.questions.name != "benchmarks":  # which have checked all rows
    opening.check_rows(found, _sets, job)


def run(job: evaluate_settings.EvaluateJob, folder: pathlib.Path) -> None:
  """Asks everything that was not asked yet, and writes the tables."""
  found = opening.opened(job)
  job = job.for_model(found.cfg)
  with jax.set_mesh(found.mesh):  # for `models.target.spread`
    _run(job, folder, found)


def _sets(found, job):
  """The questions, a set for each benchmark."""
  return found.questions.choose("test", count=job.questions, seed=job.seed)


def _run(job, folder, found):
  model = found.load({})
  print(found.questions.summary(("test",)), flush=True)
  sets, plans = _sets(found, job), common.candidates(found.cfg, job)
  batch = job.batch

  @functools.cache  # programs are those of a length of answers
  def judge(steps):
    return evaluator.Evaluator(
      found.cfg,
      model.params,
      sets[0],
      batch=batch,
      seed=job.seed,
      steps=steps,
      placement=models.partition.batch_sharding(found.mesh),
    )

  watch, made = stopwatch.Waiting(), []
  facts = _facts(job, found, model, sets, batch)
  total = sum(-(-len(asked) // batch) for asked in sets)
  total *= sum(not candidate.reason for candidate in plans)
  with tqdm.tqdm(total=total, desc="batches", dynamic_ncols=True) as bar:
    for candidate in plans:
      name, limit, plan = candidate.name, candidate.limit, candidate.plan
      if candidate.reason:
        made.append(results_lib.Result(name, limit, reason=candidate.reason))
        continue
      answers = {}
      for asked in sets:
        bar.set_postfix_str(f"{name}, {asked.name}")
        steps = _steps(found, job, asked)
        depends = {
          **facts["protocol"],
          "weights": model.fingerprint,
          "model": dataclasses.asdict(found.cfg),
          "plan": plan and plan.digest,
          "batch": batch,
          "steps": steps,
          "stop": asked.stop,
        }
        path = _of_plan(folder, "predictions", name) / f"{asked.name}.jsonl"
        with contextlib.closing(store.Store(path)) as entries:
          known = store.Answers(entries, depends, _keys(asked, batch))
          bar.update(known.done)
          if not known.finished:
            timed = dataclasses.replace(asked, watch=watch.add)
            one = judge(steps).with_questions(timed)
            with watch:
              for told in one.told(plan, start=known.done):
                known.add(told.texts, told.lengths)
                bar.update()
        answers[asked.name] = known
      scores = _scores(job, folder, name, sets, answers)
      costs = _costs(found.cfg, plan, list(answers.values()))
      result = results_lib.measured(name, limit, plan, scores, costs)
      made.append(dataclasses.replace(result, weights=model.fingerprint))
  print(
    report.write_results(folder, made, facts),
    f"Look at {folder}/: report.html, table.md, table.csv, results.json,"
    " predictions/",
    watch.line(),
    sep="\n",
    flush=True,
  )


def _keys(asked, batch):
  """Names and digests of the questions, by batch."""
  names = [item.name for item in asked.items]
  keys = list(zip(names, asked.digests, strict=True))
  return [keys[i : i + batch] for i in range(0, len(keys), batch)]


def _steps(found, job, asked):
  """Most tokens of an answer."""
  if found.answer_length:
    return found.answer_length
  return benchmarks.prompts.answer_length(asked.name, job.data.protocol)


def _scores(job, folder, name, sets, answers):
  """Scores by benchmark, or the accuracy; writes what is to be handed in."""
  if not isinstance(sets[0].items[0], benchmarks.Sample):
    texts = answers[sets[0].name].texts
    return {results_lib.ACCURACY: evaluator.accuracy(sets[0], texts)}
  handed_in = _of_plan(folder, "submissions", name)
  for asked in sets:
    pairs = list(zip(asked.items, answers[asked.name].texts, strict=True))
    submissions.write(handed_in, asked.name, pairs)
  return results.scored(job.data.protocol, sets, answers, handed_in)


def _costs(cfg, plan, answers):
  """Costs of a plan (None: dense), with a prompt of mean length."""
  prompts = [known.prompt_tokens for known in answers]
  return cost.budget_of(
    plan,
    evaluator.model_shape(cfg),
    text_tokens=len(cfg.prefix) + round(sum(prompts) / len(prompts)),
  )


def _facts(job, found, model, sets, batch):
  """What is said of the questions, and what the scores are comparable with."""
  rows = found.questions.rows
  protocol = {
    "protocol": job.data.protocol,
    "rows": {n: files.digest(v) for n, v in rows.facts().items()},
    "seed": job.seed,
  }
  read = getattr(found.questions, "read", {})
  questions = {}
  for asked in sets:
    name = asked.name if read else results_lib.ACCURACY
    facts = results.question_facts(asked, read and job.data.protocol or "")
    if of_files := read.get(asked.name):
      facts |= {
        "files": list(of_files.notes),
        "left out": dict(of_files.left_out),
        "skipped": [str(fault) for fault in of_files.faults],
        "whole": not (job.data.count or of_files.faults),
      }
    questions[name] = facts
  decoder, processor = found.cfg.decoder, model.processor
  options = getattr(processor, "settings", None)  # "tiny" has no processor
  return {
    "model": found.cfg.name,
    "weights": model.fingerprint,
    "protocol": protocol,
    "questions": questions,
    "published": {
      "layers": decoder.layers,
      "width": decoder.width,
      "tokens": found.cfg.tokens,
      "protocol": job.data.protocol,
      "style": getattr(processor, "style", ""),
      "aspect": getattr(options, "aspect", ""),
    },
  }


def _of_plan(folder, kind, name):
  """The folder of a plan's files."""
  if fault := naming.name_fault(name):
    raise ValueError(
      f"a plan's name is {naming.quoted(name)}; expected {fault}"
    )
  return folder / kind / name
