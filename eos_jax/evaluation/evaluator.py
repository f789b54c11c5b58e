"""Runs a model under reduction plans, tokens really dropped."""

from collections.abc import Callable
import copy
import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from eos_jax import cost, models, ops
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
    """Plain values for JSON; numbers that were not measured are null."""
    values = dataclasses.asdict(dataclasses.replace(self, plan=None))
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
    owner: `[N, V]`, see `fate.follow`.
    left_at: `[N, V]`, likewise.
  """

  texts: list[str]
  owner: np.ndarray
  left_at: np.ndarray


class Evaluator:
  """Answers a fixed set of questions under one plan after the other.

  A picture is encoded once for all questions about it in a batch, and for all
  plans but those that reduce inside the vision encoder.
  """

  def __init__(
    self,
    cfg: models.VLMConfig,
    params: Any,
    questions: Any,
    *,
    batch: int,
    seed: int,
    normalize: Callable[[jax.Array], jax.Array],
    steps: int,
    placement: Any,
  ):
    """Encodes all pictures.

    Args:
      cfg: shape of the model.
      params: its parameters.
      questions: a `data.loader.EvaluationSet`.
      batch: questions a batch.
      seed: draws the noise of the score "random".
      normalize: uint8 pictures -> what the model reads.
      steps: most tokens of an answer.
      placement: sharding of a batch.
    """
    self._cfg, self._questions = cfg, questions
    self._steps, self._normalize = steps, normalize
    self._batch, self._placement = batch, placement
    # One compiled function each: plans that leave equally many tokens at the
    # decoder input share the decoder.
    self._see = jax.jit(self._see_fn, static_argnames="plan")
    self._spread = jax.jit(
      lambda seen, rows: jax.tree.map(lambda x: x[rows], seen)
    )
    self._reduce = jax.jit(self._reduce_fn, static_argnames="plan")
    self._answer = jax.jit(self._answer_fn, static_argnames="plan")
    self._key = jax.random.key(seed)
    self._use(params)

  def _use(self, params):
    """Encodes all pictures by some parameters, which then answer."""
    questions, batch = self._questions, self._batch
    placement, self._params, self._batches = self._placement, params, []
    slots = _slots(questions.pictures, batch, placement)
    for number, raw in enumerate(questions.batches(batch)):
      shown = questions.pictures[raw["index"]]
      _, first, rows = np.unique(shown, return_index=True, return_inverse=True)
      first = np.pad(first, (0, slots - len(first)), mode="edge")
      placed = {n: raw[n] for n in ("tokens", "prompt_length")}
      placed |= {"image": raw["image"][first], "rows": rows.astype(np.int32)}
      placed = jax.device_put(placed, placement)
      noise = jax.random.fold_in(self._key, number)
      seen = self._see(params, placed["image"], noise, plan=None)
      self._batches.append((placed, np.asarray(raw["valid"]), noise, seen))

  def with_params(self, params: Any) -> "Evaluator":
    """The same questions to a model with other parameters; shares programs."""
    other = copy.copy(self)
    other._use(params)
    return other

  def _see_fn(self, params, image, key, plan):
    image = self._normalize(image)
    return models.see(self._cfg, params, image, plan, key=key)

  def _reduce_fn(self, params, seen, batch, plan):
    return models.reduce_input(self._cfg, params, seen, _prompt(batch), plan)

  def _answer_fn(self, params, seen, batch, plan):
    out = models.answer(
      self._cfg,
      params,
      seen,
      _prompt(batch),
      plan,
      steps=self._steps,
      stop=(self._questions.tokenizer.eos_id,),
    )

    def fates(ids, trace):
      del ids  # without sites it alone says how large the batch is
      return fate.follow(trace, self._cfg.tokens)

    return out.ids, jax.vmap(fates)(out.ids, out.trace)

  @property
  def questions(self) -> Any:
    """The questions that are asked."""
    return self._questions

  def predict(self, plan: ops.ReductionPlan | None) -> Answers:
    """Greedy answers to all questions (None: by the dense model)."""
    names = [site.site for site in plan.sites] if plan else []
    in_encoder = any(name.startswith("vision.") for name in names)
    later = _later_sites(plan)
    predictions, fates = [], []
    for batch, valid, noise, seen in self._batches:
      if in_encoder:
        seen = self._see(self._params, batch["image"], noise, plan=plan)
      seen = self._spread(seen, batch["rows"])
      if "decoder.0" in names:
        seen = self._reduce(self._params, seen, batch, plan=plan)
      ids, found = self._answer(self._params, seen, batch, plan=later)
      predictions += [
        self._questions.tokenizer.decode(row.tolist())
        for row in np.asarray(ids)[valid]
      ]
      fates.append([np.asarray(x)[valid] for x in found])
    return Answers(predictions, *map(np.concatenate, zip(*fates, strict=True)))

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
    lengths = [
      np.asarray(batch["prompt_length"])[valid]
      for batch, valid, _, _ in self._batches
    ]
    return round(float(np.mean(np.concatenate(lengths))))

  def preset_plan(
    self, spec: ops.OperatorSpec, limit: float
  ) -> ops.ReductionPlan:
    """A hand-made operator at a budget, at its place or moved.

    Raises:
      cost.UnreachableBudget: it cannot meet the budget.
    """
    return cost.budget_plan(
      spec,
      limit=limit,
      tokens=self._cfg.tokens,
      layers=self._cfg.decoder.layers,
      vision_layers=self._cfg.vision_sites,
      model=self._cfg.name,
    )


def _slots(pictures, batch, placement):
  """Pictures that every batch has room for: one static number serves all."""
  starts = range(0, len(pictures), batch)
  most = max(len(np.unique(pictures[i : i + batch])) for i in starts)
  devices = placement.mesh.size if placement is not None else 1
  return -(-most // devices) * devices


def _prompt(batch):
  slots = jnp.arange(batch["tokens"].shape[1])[None]
  return models.Text(
    tokens=batch["tokens"],
    mask=slots < batch["prompt_length"][:, None],
    prompt_length=batch["prompt_length"],
  )


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
  return dataclasses.replace(plan, name="", note="", sites=sites)


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
