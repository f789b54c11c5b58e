"""Runs a model under reduction plans, tokens really dropped."""

from collections.abc import Iterator, Sequence
import copy
import dataclasses
from typing import Any, Protocol

import jax
import numpy as np

from eos_jax import cost, files, models, ops, processes
from eos_jax.evaluation import fate, metrics

# Name of the plans that a search found, beside those of operators.
SEARCHED = "eos"
# Where a search trained the model too: what its two halves are worth alone.
PLAN_ALONE, WEIGHTS_ALONE = "eos_plan_alone", "eos_weights_alone"
OURS = (SEARCHED, PLAN_ALONE, WEIGHTS_ALONE)


@dataclasses.dataclass(frozen=True)
class Result:
  """One line of a comparison.

  Attributes:
    name: operator, "dense" or `SEARCHED`.
    limit: budget (layer average) that the line belongs to; None for dense.
    plan: what was run; None for dense and for unreachable budgets.
    reason: why the budget cannot be reached, else "".
    accuracy: by task.
    mean: over the tasks.
    error: standard error of the mean.
    layer_average: visual tokens, mean over decoder layers as executed.
    final: visual tokens after the last site.
    flops: of a prefill, pixels to first answer token, operators included.
    kv_bytes: key-value cache behind the prefill, two bytes a number.
  """

  name: str
  limit: float | None
  plan: ops.ReductionPlan | None
  reason: str = ""
  accuracy: dict[str, float] = dataclasses.field(default_factory=dict)
  mean: float = float("nan")
  error: float = float("nan")
  layer_average: float = float("nan")
  final: int = 0
  flops: int = 0
  kv_bytes: int = 0

  @property
  def kept(self) -> str:
    """Visual tokens after each site, such as "48>16"."""
    return ">".join(str(s.keep) for s in self.plan.sites) if self.plan else ""

  def to_dict(self) -> dict[str, Any]:
    """Plain values for JSON; numbers that were not measured are null.

    "plan" is the plan's digest.
    """
    values = dataclasses.asdict(dataclasses.replace(self, plan=None))
    values["plan"] = self.plan.digest if self.plan else None
    values = {
      name: None if isinstance(v, float) and np.isnan(v) else v
      for name, v in values.items()
    }
    values["sites"] = {
      site.site: site.keep for site in (self.plan.sites if self.plan else ())
    }
    values["note"] = self.plan.note if self.plan else ""
    return values


@dataclasses.dataclass(frozen=True)
class Answers:
  """Answers to all questions under a plan, and what it did to the pictures.

  Attributes:
    texts: the answers, in the order of the questions.
    owner: `[N, V]`, see `fate.follow`; None where pictures are not drawn.
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
    lengths: tokens of the prompts behind the picture.
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


class Questions(Protocol):
  """A fixed list of questions with pictures.

  Attributes:
    questions: each with its question, its answer and its task.
    answers: the right answers.
    pictures: int32 `[N]`, number of what each question shows; those that show
      the same are neighbours.
    stop: ids that end an answer.
    drawn: whether one picture a question, whose tokens fill a square raster,
      can be drawn with what a plan does to them.
  """

  questions: Sequence[Any]
  answers: Sequence[str]
  pictures: np.ndarray
  stop: tuple[int, ...]
  drawn: bool

  def batches(self, batch: int, start: int = 0) -> Iterator[dict[str, Any]]:
    """All in order from the `start`-th batch on, as `models.inputs` wants them.

    Beside that index int32 `[B]`, and valid bool `[B]`, False where a row only
    fills the last batch up.
    """
    raise NotImplementedError

  def decode(self, ids: Sequence[int]) -> str:
    """The text of an answer."""
    raise NotImplementedError


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
    questions: Questions,
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
    self._kept: list[Any] | None = None
    self._lengths: dict[int, int] = {}

  def _batches(self, start):
    """Batches from the `start`-th on, with their pictures as encoded.

    Read and encoded once, where all of it may stay on the devices.
    """
    if self._kept is not None:
      yield from self._kept[start:]
      return
    questions, batch = self._questions, self._batch
    slots = _slots(questions.pictures, batch, self._placement)
    count = -(-len(questions.pictures) // batch)
    kept: list[Any] | None = []
    for number, raw in enumerate(questions.batches(batch, start), start):
      valid, index = np.asarray(raw.pop("valid")), raw.pop("index")
      lengths = raw["prompt_length"].tolist()
      self._lengths |= dict(zip(index.tolist(), lengths, strict=True))
      shown = questions.pictures[index]
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
      if kept is not None:
        kept.append(whole)
        if not models.inputs.worth_keeping((asked, pictures, seen), count):
          kept = None
      yield whole
    self._kept = None if start else kept

  def with_questions(self, questions: Questions) -> "Evaluator":
    """Other questions to the same model; shares programs of the same shapes."""
    other = copy.copy(self)
    other._questions, other._kept, other._lengths = questions, None, {}
    return other

  def with_params(self, params: Any) -> "Evaluator":
    """The same questions to a model with other parameters; shares programs."""
    other = copy.copy(self)
    other._params, other._kept = params, None
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
      return fate.follow(trace, self._cfg.tokens)

    return out.ids, jax.vmap(fates)(out.ids, out.trace)

  @property
  def questions(self) -> Questions:
    """The questions that are asked."""
    return self._questions

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

  def evaluate(
    self, name: str, limit: float | None, plan: ops.ReductionPlan | None
  ) -> Result:
    """Accuracy and cost of a plan (None: the dense model)."""
    return self.judge(name, limit, plan, self.predict(plan))

  def judge(
    self,
    name: str,
    limit: float | None,
    plan: ops.ReductionPlan | None,
    answers: Answers,
  ) -> Result:
    """Accuracy and cost of the answers that a plan gave."""
    tasks = [question.task for question in self._questions.questions]
    right = metrics.exact_match(answers.texts, self._questions.answers)
    accuracy = metrics.accuracy_by_task(right, tasks)
    budget = cost.budget_of(
      plan,
      model_shape(self._cfg),
      text_tokens=len(self._cfg.prefix) + self._mean_prompt(),
    )
    return Result(
      name=name,
      limit=limit,
      plan=plan,
      accuracy=accuracy,
      mean=float(np.mean(list(accuracy.values()))),
      error=metrics.standard_error(right, tasks),
      layer_average=float(budget.layer_average),
      final=budget.final,
      flops=budget.total_flops,
      kv_bytes=budget.kv_bytes,
    )

  def _mean_prompt(self) -> int:
    """Mean prompt tokens behind the picture, rounded."""
    return round(float(np.mean(list(self._lengths.values()))))

  def preset_plan(
    self, spec: ops.OperatorSpec, limit: float
  ) -> ops.ReductionPlan:
    """Returns `preset_plan` of this model."""
    return preset_plan(self._cfg, spec, limit)


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
  """What is left of a plan behind encoder and decoder input, unnamed."""
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
