"""Trains projector and decoder under a plan, and judges what that gains."""

import pathlib

from eos_jax import cost, models
from eos_jax.data import loader
from eos_jax.evaluation import evaluator
from eos_jax.tasks import common, messages, results
from eos_jax.training import finetune, partition, settings, speed

TRAINED = "finetuned"


def check(job: settings.FinetuneJob) -> None:
  """Refuses a plan, weights or batches that do not fit."""
  _, cfg = common.model()
  common.fitting_plan(cfg, job.plan, "config.plan")
  common.read_weights(cfg, job.weights_path)
  faults = common.split_faults(job.data, "train", "finetuning")
  faults += common.batch_faults(
    partition.make_mesh(),
    {
      "batch": job.batch,
      "micro_batch": job.micro_batch,
      "check_batch": job.check_batch,
      "evaluation.batch": job.evaluation.batch,
    },
  )
  faults += common.shipped_data_faults(
    job.data,
    {
      "check_questions": (job.check_questions, "validation"),
      "evaluation.questions": (job.evaluation.questions, "test"),
    },
    job.weights,
  )
  if faults:
    raise settings.ConfigError(faults)


def run(job: settings.FinetuneJob, folder: pathlib.Path) -> None:
  """Trains under a plan, writes weights, judges the plan before and after."""
  words, cfg = common.model()
  plan = common.fitting_plan(cfg, job.plan, "config.plan")
  before = common.read_weights(cfg, job.weights_path)
  fingerprint = models.weights.fingerprint(before)
  train = common.open_sources("train", job.data)
  batches = loader.question_batches(
    train, words, batch=job.batch, seed=job.seed, weights=job.weights
  )
  checks = loader.evaluation_set(
    common.open_sources("validation", job.data),
    words,
    count=job.check_questions,
    seed=job.seed,
  )
  print(
    f"plan {plan.name!r}:"
    f" {', '.join(f'{s.keep} from {s.site} on' for s in plan.sites)}",
    f"parameters: {messages.count_parameters(before)} (projector, decoder"
    " trained)",
    messages.data_line(train) + f"; {len(checks)} questions for the checks",
    f"{job.steps} steps of {job.batch} questions",
    sep="\n",
    flush=True,
  )
  after = finetune.run(
    cfg,
    before,
    plan,
    job,
    batches,
    checks,
    fingerprint,
    folder,
    _work(cfg, plan, job, checks.text_length),
  )
  path = folder / job.output
  models.weights.save(path, after, cfg)
  # What is judged is the file as it is kept: float16.
  after = models.weights.load(path, after, cfg)
  judge = common.make_evaluator(cfg, before, words, job.data, job.evaluation)
  data = common.data_facts(job.data)
  limit = float(cost.layer_average(cost.layer_counts(plan)))
  found = []
  for label, model, weights in (
    ("", judge, before),
    (f"_{TRAINED}", judge.with_params(common.placed(after)), after),
  ):
    todo = [(f"dense{label}", None, None), (f"plan{label}", limit, plan)]
    known = results.depends(
      models.weights.fingerprint(weights), data, job.evaluation
    )
    found += results.judged(model, todo, known, folder)
  text = results.write(folder, found, judge, known)
  means = {result.name: result.accuracy.value for result in found}
  print(text, flush=True)
  print(
    f"\nThe plan: {means['plan']:.3f} before and"
    f" {means[f'plan_{TRAINED}']:.3f} after, on {len(judge.questions)} test"
    f" questions; dense {means['dense']:.3f} and"
    f" {means[f'dense_{TRAINED}']:.3f}. Weights: {path}",
    flush=True,
  )


def _work(cfg, plan, job, text):
  """What a step is: one pass of the encoder, three of what is trained."""
  shape, text = evaluator.model_shape(cfg), text + len(cfg.prefix)
  trained = cost.decoder_flops(
    shape, cost.layer_counts(plan), text, head_positions=text
  )
  return speed.Work(
    tokens=job.batch * (cfg.tokens + text),
    flops=float(job.batch * (cost.vision_flops(shape) + 3 * trained)),
  )
