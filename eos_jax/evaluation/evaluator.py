"""Runs a model under reduction plans, tokens really dropped."""

from collections.abc import Iterator, Sequence
import copy
import dataclasses
from typing import Any

import jax
import numpy as np

from eos_jax import cost, data, files, models, ops, processes
from eos_jax.evaluation import metrics, results, token_flow


@dataclasses.dataclass(frozen=True)
class Answers:
  """Answers to all questions under a plan, and what it did to the pictures.

  Attributes:
    texts: the answers, in the order of the questions.
    owner: `[N, V]`, see `token_flow.follow`; None where pictures are not drawn.
    left_at: `[N, V]`, likewise.
  """

  texts: list[str]
  owner: np.ndarray | None = None
  left_at: np.ndarray | None = None


@dataclasses.dataclass(frozen=True)
class Told:
  """Answers to the questions of a batch.

  Attributes:
    places: numbers of the questions.
    texts: the answers.
    lengths: tokens of the prompts after the picture.
    fates: arrays of `Answers`, or None where pictures are not drawn.
  """

  places: tuple[int, ...]
  texts: tuple[str, ...]
  lengths: tuple[int, ...]
  fates: list[np.ndarray] | None


@dataclasses.dataclass(frozen=True)
class _Batch:
  """Questions on the devices.

  Attributes:
    asked: the texts, and which picture each has.
    pictures: each once.
    places: numbers of the questions.
    valid: which rows are real.
    noise: random key.
    seen: pictures as encoded without a plan.
  """

  asked: dict[str, Any]
  pictures: dict[str, Any]
  places: np.ndarray
  valid: np.ndarray
  noise: jax.Array
  seen: models.Seen


class Evaluator:
  """Answers a fixed set of questions under one plan after the other.

  A picture is encoded once for all questions about it in a batch. Where all
  that is encoded has room on the devices, it serves all plans but those that
  reduce inside the vision encoder.
  """

  def __init__(
    self,
    cfg: models.VLMConfig,
    params: Any,
    questions: data.QuestionSet,
    *,
    batch: int,
    seed: int,
    steps: int,
    placement: Any,
  ):
    """Encodes nothing yet.

    Args:
      cfg: shape of the model.
      params: its parameters.
      questions: what is asked.
      batch: questions a batch.
      seed: draws the noise of the score "random".
      steps: most tokens of an answer.
      placement: sharding of a batch.
    """
    self._cfg, self._params, self._questions = cfg, params, questions
    self._steps, self._batch, self._placement = steps, batch, placement
    # One compiled function each: plans that leave equally many tokens at the
    # decoder input share the decoder.
    self._see = jax.jit(self._see_fn, static_argnames="plan")
    self._spread = jax.jit(
      lambda seen, rows: jax.tree.map(lambda x: x[rows], seen)
    )
    self._reduce = jax.jit(self._reduce_fn, static_argnames="plan")
    self._answer = jax.jit(self._answer_fn, static_argnames="plan")
    self._key = jax.random.key(seed)
    self._kept = models.inputs.Kept()
    self._lengths: dict[int, int] = {}

  def _batches(self, start):
    """Batches from the `start`-th on, with their pictures as encoded."""
    count = -(-len(self._questions.image_ids) // self._batch)
    return self._kept.batches(self._made, count, start)

  def _made(self, start):
    questions, batch = self._questions, self._batch
    slots = _slots(questions.image_ids, batch, self._placement)
    for number, raw in enumerate(questions.batches(batch, start), start):
      valid, index = np.asarray(raw.pop("valid")), raw.pop("index")
      lengths = raw["prompt_length"].tolist()
      self._lengths |= dict(zip(index.tolist(), lengths, strict=True))
      shown = questions.image_ids[index]
      _, first, rows = np.unique(shown, return_index=True, return_inverse=True)
      first = np.pad(first, (0, slots - len(first)), mode="edge")
      asked = {n: raw[n] for n in raw if n not in models.inputs.SHOWN}
      pictures = {n: raw[n] for n in raw if n in models.inputs.SHOWN}
      pictures = jax.tree.map(lambda leaf, at=first: leaf[at], pictures)
      asked, pictures = processes.place(
        (asked | {"rows": rows.astype(np.int32)}, pictures), self._placement
      )
      noise = jax.random.fold_in(self._key, number)
      seen = self._see(self._params, pictures, noise, plan=None)
      whole = _Batch(asked, pictures, index[valid], valid, noise, seen)
      yield whole, (asked, pictures, seen)

  def with_questions(self, questions: data.QuestionSet) -> "Evaluator":
    """Other questions to the same model; shares programs of the same shapes."""
    other = copy.copy(self)
    other._questions, other._lengths = questions, {}
    other._kept = models.inputs.Kept()
    return other

  def with_params(self, params: Any) -> "Evaluator":
    """The same questions to a model with other parameters; shares programs."""
    other = copy.copy(self)
    other._params, other._kept = params, models.inputs.Kept()
    return other

  def _see_fn(self, params, pictures, key, plan):
    return models.inputs.see(self._cfg, params, pictures, plan, key=key)

  def _reduce_fn(self, params, seen, batch, plan):
    text = models.inputs.prompt(batch)
    return models.reduce_input(self._cfg, params, seen, text, plan)

  def _answer_fn(self, params, seen, batch, plan):
    out = models.answer(
      self._cfg,
      params,
      seen,
      models.inputs.prompt(batch),
      plan,
      steps=self._steps,
      stop=self._questions.stop,
    )
    if not self._questions.drawn:
      return out.ids, None

    def fates(ids, trace):
      del ids  # without sites it alone says how large the batch is
      return token_flow.follow(trace, self._cfg.tokens)

    return out.ids, jax.vmap(fates)(out.ids, out.trace)

  @property
  def questions(self) -> data.QuestionSet:
    """The questions that are asked."""
    return self._questions

  @property
  def cfg(self) -> models.VLMConfig:
    """Shape of the model."""
    return self._cfg

  def told(
    self, plan: ops.ReductionPlan | None, start: int = 0
  ) -> Iterator[Told]:
    """Greedy answers, batch after batch.

    Args:
      plan: None = the dense model.
      start: number of batches to pass over, whose answers are known.

    Raises:
      files.NotFinite: logits are NaN or infinite.
    """
    names = [site.site for site in plan.sites] if plan else []
    in_encoder = any(name.startswith("vision.") for name in names)
    later = _later_sites(plan)
    for batch in self._batches(start):
      processes.check_stop()
      seen = batch.seen
      if in_encoder:
        seen = self._see(self._params, batch.pictures, batch.noise, plan=plan)
      seen = self._spread(seen, batch.asked["rows"])
      if "decoder.0" in names:
        seen = self._reduce(self._params, seen, batch.asked, plan=plan)
      ids, fates = self._answer(self._params, seen, batch.asked, plan=later)
      ids = processes.fetch(ids)[batch.valid]
      _check_finite(ids, batch.places, plan)
      told = [self._questions.decode(row.tolist()) for row in ids]
      if fates is not None:
        fates = [x[batch.valid] for x in processes.fetch(list(fates))]
      yield Told(
        tuple(batch.places.tolist()),
        tuple(told),
        tuple(self._lengths[place] for place in batch.places.tolist()),
        fates,
      )

  def predict(self, plan: ops.ReductionPlan | None) -> Answers:
    """Greedy answers to all questions (None: by the dense model)."""
    told = list(self.told(plan))
    texts = [text for batch in told for text in batch.texts]
    if not self._questions.drawn:
      return Answers(texts)
    fates = zip(*(batch.fates for batch in told), strict=True)
    return Answers(texts, *map(np.concatenate, fates))

  def judge(
    self,
    name: str,
    limit: float | None,
    plan: ops.ReductionPlan | None,
    answers: Answers,
  ) -> results.Result:
    """Accuracy and cost of the answers that a plan gave (None: dense)."""
    budget = cost.budget_of(
      plan,
      model_shape(self._cfg),
      text_tokens=len(self._cfg.prefix) + self._mean_prompt(),
    )
    scores = {results.ACCURACY: accuracy(self._questions, answers.texts)}
    return results.measured(name, limit, plan, scores, budget)

  def _mean_prompt(self) -> int:
    """Mean prompt tokens after the picture, rounded."""
    return round(float(np.mean(list(self._lengths.values()))))


def accuracy(asked: data.QuestionSet, texts: Sequence[str]) -> results.Score:
  """Returns the mean accuracy over tasks of answers that must match exactly.

  Args:
    asked: the questions.
    texts: the answers, in their order.
  """
  right = metrics.exact_match(texts, asked.answers)
  by_task = metrics.accuracy_by_task(right, asked.tasks)
  return results.Score(
    float(np.mean(list(by_task.values()))),
    results.FRACTION,
    error=metrics.standard_error(right, asked.tasks),
    parts=by_task,
  )


def _check_finite(ids, places, plan):
  """Refuses answers that were chosen by NaN or infinity."""
  wrong = np.any(ids == models.NO_TOKEN, axis=1)
  if np.any(wrong):
    under = f"under the plan {plan.name!r}" if plan else "of the dense model"
    raise files.NotFinite(
      f"the logits {under} are not finite for {wrong.sum()} of {len(ids)}"
      f" questions, the first of them number {places[wrong][0]}; check the"
      " weights and the plan's numbers, or use a wider dtype"
    )


def _slots(pictures, batch, placement):
  """Pictures that every batch has room for: one static number serves all."""
  starts = range(0, len(pictures), batch)
  most = max(len(np.unique(pictures[i : i + batch])) for i in starts)
  devices = placement.mesh.size if placement is not None else 1
  return -(-most // devices) * devices


def _later_sites(plan):
  """What is left of a plan after encoder and decoder input, unnamed."""
  if plan is None:
    return None
  sites = tuple(
    site
    for site in plan.sites
    if site.site.startswith("decoder.") and site.site != "decoder.0"
  )
  if not sites:
    return None
  return dataclasses.replace(plan, name="later", note="", sites=sites)


def preset_plan(
  cfg: models.VLMConfig, spec: ops.OperatorSpec, limit: float
) -> ops.ReductionPlan:
  """Returns the plan of a model by which an operator meets a token budget.

  Raises:
    ValueError: the plan cannot be made; `cost.UnreachableBudget` where the
      budget is too small.
  """
  return cost.budget_plan(
    spec,
    limit=limit,
    tokens=cfg.tokens,
    layers=cfg.decoder.layers,
    vision_layers=cfg.vision_sites,
    model=cfg.name,
  )


def model_shape(cfg: models.VLMConfig) -> cost.ModelShape:
  """The sizes that the cost model needs."""
  vision, decoder = cfg.vision, cfg.decoder
  return cost.ModelShape(
    vision_layers=vision.layers,
    vision_width=vision.width,
    vision_mlp=vision.mlp,
    vision_heads=vision.heads,
    patch_dim=3 * vision.patch_size**2,
    vision_tokens=vision.tokens + vision.class_token,
    class_tokens=int(vision.class_token),
    merge=cfg.merge,
    crops=cfg.crops,
    newlines=cfg.newlines,
    projector_hidden=cfg.projector,
    layers=decoder.layers,
    width=decoder.width,
    heads=decoder.heads,
    kv_heads=decoder.kv_heads,
    head_dim=decoder.head_dim,
    mlp=decoder.mlp,
    vocab=decoder.vocab,
  )
