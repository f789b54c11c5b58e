"""The search task: a policy is trained through the VLM, budget after budget.

Budgets are searched from the largest to the smallest in one run; each starts
from the operators that the one before found, with its counts scaled down. Step,
limit and temperature are traced, so that one compilation serves all of them.
"""

import dataclasses
import functools
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from eos_jax import models, ops, search
from eos_jax.data import loader
from eos_jax.training import checkpoint, loop, metrics, partition, pretrain
from eos_jax.training import settings as settings_lib


@dataclasses.dataclass(frozen=True)
class Found:
  """What a search returns for one budget.

  Attributes:
    limit: layer average of visual tokens that was allowed.
    plan: the plan.
    soft: accuracy of the relaxed operators on the check questions.
    hard: accuracy of the rounded ones on the same questions.
  """

  limit: float
  plan: ops.ReductionPlan
  soft: float
  hard: float


@dataclasses.dataclass(frozen=True)
class Problem:
  """A model, its search space, and how the search is set.

  Attributes:
    cfg: shape of the model.
    params: its parameters.
    space: what may change.
    settings: of the search.
  """

  cfg: models.VLMConfig
  params: Any
  space: search.SearchSpace
  settings: settings_lib.SearchSettings

  @property
  def steps(self) -> int:
    """Steps of the whole run."""
    return self.settings.steps * len(self.settings.budgets)


def make_space(
  cfg: models.VLMConfig, settings: settings_lib.SearchSettings
) -> search.SearchSpace:
  """The search space that the settings describe."""
  sites = settings.sites or tuple(
    name for name in cfg.sites if name.startswith("decoder.")
  )
  if settings.start not in ops.PRESETS:
    raise ValueError(
      f"config.start is {settings.start!r}; use one of {sorted(ops.PRESETS)}"
    )
  return search.SearchSpace(
    sites=sites,
    tokens=cfg.vision.tokens,
    layers=cfg.decoder.layers,
    spec=ops.PRESETS[settings.start],
    free=settings.free,
  )


def task_loss(
  cfg: models.VLMConfig,
  params: Any,
  batch: dict[str, jax.Array],
  reduction: models.Reduction,
  *,
  align: bool,
) -> tuple[jax.Array, dict[str, jax.Array]]:
  """Cross-entropy of the answers under a reduction.

  Args:
    cfg: shape of the model.
    params: its parameters.
    batch: questions, one a row (see `data.loader.question_batches`).
    reduction: acts in the model.
    align: also run the unreduced model, and measure how far hidden states at
      the text positions are from its own, relative to their size.

  Returns:
    The loss, and "exact" `[B]` (all answer tokens right) and "alignment".
  """
  text = models.Text(
    tokens=batch["tokens"],
    mask=batch["mask"],
    prompt_length=batch["prompt_length"],
  )
  image = pretrain.normalize(batch["image"])
  reduces_vision = any(s.startswith("vision.") for s in reduction.sites)
  seen = models.see(cfg, params, image, reduction)
  out = models.read(cfg, params, seen, text, reduction)
  target, weight = batch["tokens"][:, 1:], batch["loss_mask"][:, 1:]
  logits = out.logits[:, :-1]
  cross = optax.softmax_cross_entropy_with_integer_labels(logits, target)
  loss = jnp.sum(cross * weight) / jnp.maximum(jnp.sum(weight), 1)
  wrong = weight & (jnp.argmax(logits, -1) != target)
  aux = {"exact": 1.0 - jnp.any(wrong, axis=1).astype(jnp.float32)}
  if align:
    if reduces_vision:
      seen = models.see(cfg, params, image)
    whole = models.read(cfg, params, seen, text)
    aux["alignment"] = alignment(out.hidden, whole.hidden, batch["mask"])
  return loss, aux


def alignment(
  hidden: jax.Array, target: jax.Array, mask: jax.Array
) -> jax.Array:
  """Mean squared distance to `target`, relative to the latter's mean square.

  No gradient flows into `target`.
  """
  target = jax.lax.stop_gradient(target).astype(jnp.float32)
  weight = mask[..., None].astype(jnp.float32)
  distance = jnp.sum(jnp.square(hidden - target) * weight)
  return distance / jnp.maximum(jnp.sum(jnp.square(target) * weight), 1e-6)


def make_optimizer(
  settings: settings_lib.SearchSettings,
) -> optax.GradientTransformation:
  """Adam for the policy, ascent for the multipliers, Adam for a joint model."""
  policy = optax.chain(
    optax.clip_by_global_norm(1.0),
    optax.adam(settings.learning_rate, b1=0.9, b2=0.95),
  )
  model = None
  if settings.mode == "joint":
    model = optax.adamw(settings.model_learning_rate, weight_decay=0.01)
  return search.make_optimizer(
    policy, model_tx=model, multiplier_lr=settings.multiplier_learning_rate
  )


def make_step(problem: Problem) -> Any:
  """`step(state, batch, params, key, limit, temperature) -> state, metrics`.

  In joint mode projector and decoder are read from the state, and `params`
  only gives the vision encoder.
  """
  cfg, space, settings = problem.cfg, problem.space, problem.settings
  optimizer = make_optimizer(settings)

  def step(state, batch, params, key, limit, temperature):
    def loss_fn(policy, batch, key, model=None):
      del key  # The relaxation is deterministic.
      reduction = models.SoftReduction(
        params=search.decode(policy, space),
        temperature=temperature,
        keep=None,
        sites=space.sites,
        spec=space.spec,
      )
      used = params if model is None else {**params, **model}
      return task_loss(cfg, used, batch, reduction, align=settings.align > 0)

    return search.search_step(
      state,
      batch,
      key,
      space=space,
      loss_fn=loss_fn,
      optimizer=optimizer,
      constraints=(search.Constraint("layer_average", limit),),
      penalty=settings.penalty,
      align=settings.align,
    )

  return step


def initial_state(
  problem: Problem, limit: float, policy: search.Policy
) -> search.SearchState:
  """State before the first step of a budget: fresh optimiser, multiplier 0."""
  model = None
  if problem.settings.mode == "joint":
    model = {name: problem.params[name] for name in ("projector", "decoder")}
  return search.init_state(
    policy,
    constraints=(search.Constraint("layer_average", limit),),
    optimizer=make_optimizer(problem.settings),
    model=model,
  )


def next_policy(
  problem: Problem, policy: search.Policy, before: float, limit: float
) -> search.Policy:
  """Operators of a finished budget, with counts scaled to the next one."""
  space = problem.space
  counts = search.site_counts(search.decode(policy, space), space)
  scaled = np.asarray(counts, np.float64) * limit / before
  scaled = np.clip(scaled * problem.settings.start_multiple, 1.0, None)
  scaled = np.minimum.accumulate(np.minimum(scaled, space.tokens))
  fresh = search.init_policy(space, limit=limit, counts=scaled)
  moved = {name: fresh[name] for name in ("activation", "retention")}
  return {**policy, **{n: v for n, v in moved.items() if n in policy}}


class Checker:
  """Accuracy of relaxed and of rounded operators on fixed questions."""

  def __init__(self, problem: Problem, questions: Any, batch: int, mesh: Any):
    self._problem = problem
    self._cut = partition.batch_sharding(mesh)
    self._batches = list(questions.batches(batch))
    cfg, space = problem.cfg, problem.space

    def run(params, batch, policy, temperature, keep, hard):
      reduction = models.SoftReduction(
        params=search.decode(policy, space),
        temperature=temperature,
        keep=keep,
        sites=space.sites,
        spec=space.spec,
        hard=hard,
      )
      return task_loss(cfg, params, batch, reduction, align=False)[1]["exact"]

    self._soft = jax.jit(functools.partial(run, keep=None, hard=False))
    self._hard = jax.jit(functools.partial(run, temperature=1.0, hard=True))

  def __call__(
    self, state: search.SearchState, params: Any, limit: float, temperature: Any
  ) -> tuple[float, float]:
    """Returns (soft, hard) accuracy at a limit, shares of the questions."""
    problem, policy = self._problem, state.variables["policy"]
    params = {**params, **state.variables.get("model", {})}
    relaxed = search.site_counts(
      search.decode(policy, problem.space), problem.space
    )
    keep = search.whole_counts(
      np.asarray(relaxed, np.float64), problem.space, limit=limit
    )
    keep = jnp.asarray(keep, jnp.float32)
    right, total = np.zeros(2), 0.0
    for batch in self._batches:
      valid = batch["valid"]
      placed = jax.device_put(
        {n: batch[n] for n in batch if n not in ("valid", "index")}, self._cut
      )
      soft = self._soft(params, placed, policy, temperature)
      hard = self._hard(params, placed, policy, keep=keep)
      right += [np.sum(np.asarray(x)[valid]) for x in (soft, hard)]
      total += valid.sum()
    return float(right[0] / total), float(right[1] / total)


def temperature_at(settings: settings_lib.SearchSettings, step: int) -> Any:
  """Temperature of the soft top-k at a step of a budget."""
  return search.geometric(
    step,
    start=settings.temperature_start,
    end=settings.temperature_end,
    steps=max(1, round(settings.steps * settings.anneal_share)),
  )


def run(
  problem: Problem,
  source: Any,
  check_questions: Any,
  tokenizer: Any,
  fingerprint: str,
  workdir: pathlib.Path,
) -> tuple[list[Found], dict[str, Any]]:
  """Runs or resumes the search; returns a plan for each budget, and facts.

  Args:
    problem: what to search over.
    source: pictures and questions to search on (a list of data sources).
    check_questions: fixed validation questions for the hard checks.
    tokenizer: encodes questions.
    fingerprint: of the model's weights; a checkpoint of others is refused.
    workdir: gets checkpoints, metrics and plans.
  """
  settings = problem.settings
  mesh = partition.make_mesh()
  partition.check_batch(mesh, settings.batch)
  everywhere, cut = partition.replicated(mesh), partition.batch_sharding(mesh)
  placed = partition.param_shardings(mesh, problem.params)
  params = jax.device_put(problem.params, placed)
  step_fn = loop.compile_step(
    make_step(problem),
    everywhere,
    cut,
    everywhere,
    constants=(placed, everywhere, everywhere, everywhere),
  )
  iterator = loader.question_batches(
    source,
    tokenizer,
    batch=settings.batch,
    seed=settings.seed,
    weights=settings.weights,
  )
  saver = checkpoint.Checkpointer(workdir / "checkpoints")
  checker = Checker(problem, check_questions, settings.check_batch, mesh)
  facts = {
    "weights": fingerprint,
    "settings": dataclasses.asdict(settings),
    "space": list(problem.space.sites),
  }
  limits = sorted(settings.budgets, reverse=True)
  policy = search.init_policy(
    problem.space,
    limit=limits[0],
    multiple=settings.start_multiple,
    decay=settings.start_decay,
  )
  state = initial_state(problem, limits[0], policy)
  state = jax.device_put(state, everywhere)
  start = saver.latest or 0
  if start:
    state, iterator = saver.restore(state, iterator, facts)
    print(f"resumed the search at step {start} of {problem.steps}", flush=True)
  key = jax.random.key(settings.seed)
  writer = metrics.JsonlWriter(workdir / "metrics.jsonl")
  plans = workdir / "plans"
  plans.mkdir(exist_ok=True)

  def where(step):
    return limits[step // settings.steps], step % settings.steps

  def advance(step, state, batch):
    limit, inner = where(step)
    if inner == 0 and step:
      before = where(step - 1)[0]
      policy = next_policy(
        problem, state.variables["policy"], before, limit
      )
      state = initial_state(problem, limit, policy)
      state = jax.device_put(state, everywhere)
    temperature = temperature_at(settings, inner)
    return step_fn(
      state, jax.device_put(batch, cut), params, key, limit, temperature
    )

  def check(done, state):
    limit, inner = where(done - 1)
    temperature = temperature_at(settings, inner)
    soft, hard = checker(state, params, limit, temperature)
    values = {"check/soft": soft, "check/hard": hard, "limit": limit}
    writer.write(done, values)
    if inner + 1 == settings.steps:
      plan = search.discretize(
        state.variables["policy"],
        problem.space,
        limit=limit,
        model=problem.cfg.name,
        name=f"eos@{limit:g}",
      )
      found = {"soft": soft, "hard": hard, "limit": limit}
      metrics.write_json(plans / f"{limit:g}.check.json", found)
      metrics.write_text(plans / f"{limit:g}.json", plan.to_json())

  def log(step, values):
    aux = values.pop("aux")
    flat = {n: np.asarray(v) for n, v in values.items()}
    flat["exact"] = np.mean(np.asarray(aux["exact"]))
    writer.write(step, flat)
    average = float(flat["value/layer_average"])
    return (
      f"loss {float(flat['task']):.3f} exact {float(flat['exact']):.2f}"
      f" tokens {average:.1f} (limit {where(step - 1)[0]:g})"
    )

  loop.run(
    advance,
    state,
    iterator,
    start=start,
    stop=problem.steps,
    label="search",
    log=log,
    log_every=settings.log_every,
    save=lambda done, state: saver.save(done, state, iterator, facts),
    save_every=settings.save_every,
    check=check,
    check_every=settings.check_every,
  )
  saver.close()
  writer.close()
  found = []
  for limit in limits:
    plan = ops.ReductionPlan.from_json((plans / f"{limit:g}.json").read_text())
    checked = metrics.read_json(plans / f"{limit:g}.check.json")
    found.append(Found(limit, plan, checked["soft"], checked["hard"]))
  return found, {"compilations": step_fn._cache_size()}
