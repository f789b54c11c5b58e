"""Trains projector and decoder under a plan, and judges what that gains."""

import pathlib

import jax

from eos_jax import cost
from eos_jax.data import question_sets
from eos_jax.evaluation import evaluator
from eos_jax.tasks import common, messages, opening, results
from eos_jax.training import finetune, finetune_settings, speed

TRAINED = "finetuned"


def check(job: finetune_settings.FinetuneJob) -> None:
  """Refuses a plan, a model or questions that do not fit."""
  opening.forget()
  found = opening.opened(job)
  job = job.for_model(found.cfg)
  attempt = opening.Attempts()
  attempt(
    "plan", lambda: common.fitting_plan(found.cfg, job.plan, "config.plan")
  )
  attempt.faults += opening.question_faults(
    found,
    batches=job.batch_sizes,
    asked={
      "check_questions": (job.check_questions, "validation"),
      "evaluation.questions": (job.evaluation.questions, "test"),
    },
    streams={"train": "fine-tuning"},
  )
  attempt.check()
  opening.check_rows(found, opening.fixed_sets, job)


def run(job: finetune_settings.FinetuneJob, folder: pathlib.Path) -> None:
  """Trains under a plan, writes weights, judges the plan before and after."""
  found = opening.opened(job)
  job = job.for_model(found.cfg)
  plan = common.fitting_plan(found.cfg, job.plan, "config.plan")
  with jax.set_mesh(found.mesh):  # for `models.target.spread`
    _run(job, folder, found, plan)


def _run(job, folder, found, plan):
  model = found.load(finetune.memory(found.files, found.mesh))
  checks, tests = opening.fixed_sets(found, job)
  print(
    f"plan {plan.name!r}: {messages.kept(plan)}; projector and decoder trained",
    f"{found.questions.summary(['train'])}; {len(checks)} questions for the"
    " checks",
    f"{job.steps} steps of {job.batch} questions",
    sep="\n",
    flush=True,
  )
  after = finetune.run(
    model,
    plan,
    job,
    question_sets.batches(
      found.questions.dataset("train", job.seed), batch=job.batch
    ),
    checks,
    folder,
    _work(found.cfg, plan, job, checks),
    searched_on=opening.depends(found, ["train"], checks),
  )
  path = model.save(folder / job.output, after)
  # What is judged is read again: a file may hold rounded numbers.
  trained = model.files.renamed(str(path)).load(found.mesh)
  judge = opening.evaluator_of(found, model, tests, job.evaluation)
  known = {**found.questions.identity, "tests": tests.digest()}
  limit = cost.plan_average(plan)
  made = []
  for label, one in (("", model), (f"_{TRAINED}", trained)):
    todo = [(f"dense{label}", None, None), (f"plan{label}", limit, plan)]
    depends = results.depends(one.fingerprint, known, job.evaluation)
    made += results.judged(judge.with_params(one.params), todo, depends, folder)
  print(results.write(folder, made, judge, depends), flush=True)
  means = {result.name: result.accuracy.value for result in made}
  print(
    f"\nThe plan: {means['plan']:.3f} before and"
    f" {means[f'plan_{TRAINED}']:.3f} after, on {len(tests)} test questions;"
    f" dense {means['dense']:.3f} and {means[f'dense_{TRAINED}']:.3f}. Use the"
    f" trained model with --config.model={path}",
    flush=True,
  )


def _work(cfg, plan, job, checks):
  """What a step is: one pass of the encoder, three of what is trained."""
  images = checks.rows.max_images
  shape = evaluator.model_shape(cfg)
  text = checks.text_length + len(cfg.prefix)
  counts = [images * count for count in cost.layer_counts(plan)]
  trained = cost.decoder_flops(shape, counts, text, head_positions=text)
  encoder = images * cost.vision_flops(shape)
  return speed.Work(
    tokens=job.batch * (images * cfg.tokens + text),
    flops=float(job.batch * (encoder + 3 * trained)),
  )
