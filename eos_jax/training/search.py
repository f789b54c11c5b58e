"""The search as pure functions of the VLM: loss, step, passage between budgets.

Limit and temperature are traced, so that one compiled step serves all budgets.
`training.search_loop` runs it.
"""

from collections.abc import Mapping
import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from eos_jax import cost, files, models, ops, search
from eos_jax.training import limits, losses, search_settings, trained

# Fields of a policy that counts follow from.
COUNT_FIELDS = ("activation", "retention")


@dataclasses.dataclass(frozen=True)
class Problem:
  """A model, its search space, and how the search is set.

  Attributes:
    cfg: shape of the model.
    params: its parameters.
    space: what may change.
    settings: of the search.
    measures: of the limits in addition to the budget, see `limits.measures`.
  """

  cfg: models.VLMConfig
  params: Any
  space: search.SearchSpace
  settings: search_settings.SearchSettings
  measures: Mapping[str, Any] = dataclasses.field(default_factory=dict)

  @functools.cached_property
  def knots(self) -> search.Knots | None:
    """Where a search for all budgets has variables of its own, if it is one."""
    budgets = self.settings.budgets
    if not self.settings.knots:
      return None
    return search.Knots.spread(min(budgets), max(budgets), self.settings.knots)

  @property
  def steps(self) -> int:
    """Steps of the whole run."""
    searches = 1 if self.knots else len(self.settings.budgets)
    return self.settings.budget_steps * searches

  def constraints(self, limit: Any) -> tuple[search.Constraint, ...]:
    """The constraints of a budget, which may be traced."""
    return limits.constraints(limit, self.settings.limits)

  def member(self, variables: Any, limit: Any) -> Any:
    """The variables of a budget, where one policy serves all."""
    if not self.knots:
      return variables
    return variables | {
      name: search.family_at(variables[name], self.knots, limit)
      for name in ("policy", "multiplier")
    }

  def multipliers(
    self, state: search.SearchState, limit: float, wanted: bool = False
  ) -> dict[str, float]:
    """Multipliers of a budget's constraints, for rounding.

    Args:
      state: of the search.
      limit: the budget.
      wanted: more than this budget is known to be wanted, since a larger one
        was used up; what the search's own multipliers say is noisy.
    """
    found = state.variables["multiplier"]
    if self.knots:
      return search.family_binding(
        state.variables["policy"], self.space, self.knots, limit, found
      )
    return search.wanted(found) if wanted else found

  def whole_counts(
    self, state: search.SearchState, limit: float, wanted: bool = False
  ) -> list[int]:
    """Tokens after each site once a budget's policy is rounded.

    Arguments are those of `multipliers`.

    Raises:
      files.NotFinite: the search has diverged.
    """
    variables = self.member(state.variables, limit)
    params = search.decode(variables["policy"], self.space)
    counts = np.asarray(search.site_counts(params, self.space), np.float64)
    if not np.all(np.isfinite(counts)):
      raise files.NotFinite(f"the policy's counts are {counts.tolist()}")
    return search.whole_counts(
      counts,
      self.space,
      constraints=self.constraints(limit),
      measures=self.measures,
      multipliers=self.multipliers(state, limit, wanted),
    )


def make_space(
  cfg: models.VLMConfig, settings: search_settings.SearchSettings
) -> search.SearchSpace:
  """Returns the search space that the settings describe.

  Args:
    cfg: shape of the model.
    settings: with what follows from the model filled in.

  Raises:
    ValueError: a search cannot start so.
  """
  spec = ops.PRESETS[settings.start]
  if "noise" in ops.required_signals(spec):
    raise ValueError(
      f"start is {settings.start!r}, whose choice of tokens depends on random"
      " numbers, which a search does not draw; start from another preset, such"
      " as 'merge'"
    )
  if "diversity" not in settings.free and spec.kappa == 1.0:
    # The second top-k would get no budget; without it a step compiles faster.
    spec = spec.replace(diversity="none")
  return search.SearchSpace(
    sites=settings.sites,
    tokens=cfg.tokens,
    layers=cfg.decoder.layers,
    spec=spec,
    free=settings.free,
    ranges=settings.ranges.pairs(),
  )


def make_optimizer(
  settings: search_settings.SearchSettings,
) -> optax.GradientTransformation:
  """Adam for the policy, ascent for the multipliers, Adam for the model.

  The policy's rate falls by a cosine within each budget, so that its counts
  come to rest before they are rounded.
  """
  rate = optax.cosine_decay_schedule(
    settings.learning_rate, settings.steps, alpha=0.1
  )
  policy = optax.chain(
    optax.clip_by_global_norm(1.0), optax.adam(rate, b1=0.9, b2=0.95)
  )
  model = None
  if settings.trains_model:
    model = optax.adamw(settings.model_learning_rate, weight_decay=0.01)
  return search.make_optimizer(
    policy, model_tx=model, multiplier_lr=settings.multiplier_learning_rate
  )


def make_step(problem: Problem) -> Any:
  """`step(state, batch, params, key, limit, temperature, progress, keep)`.

  It returns the next state and metrics. Where the model is trained, projector
  and decoder are read from the state, and `params` gives the vision encoder and
  the unreduced model to align with. `batch` is a pair in a bilevel search: the
  policy's and the model's. `progress` rises from 0 to 1 within a budget; `keep`
  is that of `forced_counts`.
  """
  space, settings = problem.space, problem.settings
  priors = settings.priors.weights()

  def step(state, batch, params, key, limit, temperature, progress, keep):
    def loss_fn(policy, batch, key, model=None):
      numbers = search.decode(policy, space)
      reduction = models.SoftReduction(
        params=numbers,
        temperature=temperature,
        keep=whole_or_real(problem, numbers, keep),
        sites=space.sites,
        spec=space.spec,
        relaxation=settings.relaxation,
        key=key,
      )
      task = _loss
      if settings.relaxation == "straight_through":
        task = straight_through_loss
      loss, aux = task(problem, params, model, batch, reduction)
      loss += search.prior(numbers, space, priors)
      if settings.binarize:
        loss += settings.binarize * progress * aux["indecision"]
      return loss, aux

    return _search_step(problem, state, batch, key, limit, loss_fn)

  return step


def whole_or_real(
  problem: Problem, numbers: ops.OperatorParams, keep: jax.Array
) -> jax.Array:
  """Tokens after each site `[S]`: `keep` where it is above 0, else real ones.

  Real counts show a little of one token more than any plan can, and may lie
  above the limit. The last steps have to do without, or rounding takes it away
  unprepared. Gradients are those of the real counts.
  """
  counts = search.site_counts(numbers, problem.space)
  rounding = jax.lax.stop_gradient(keep - counts)
  return counts + jnp.where(keep > 0, rounding, 0.0)


def forced_counts(
  problem: Problem,
  state: search.SearchState,
  limit: float,
  step: int,
  wanted: bool = False,
) -> np.ndarray:
  """What `whole_or_real` is given at a step of a budget: float32 `[S]`.

  The counts of the plan that the policy is rounded to now, or 0 before the
  share `whole_from` of the steps. Waits for the state. `wanted` is that of
  `Problem.multipliers`.
  """
  if step < problem.settings.whole_from * problem.settings.steps:
    return np.zeros(len(problem.space.sites), np.float32)
  return np.asarray(problem.whole_counts(state, limit, wanted), np.float32)


def make_calibration_step(problem: Problem) -> Any:
  """`step(state, batch, params, key, limit, keep)`: the plan's last touch.

  Decisions are hard, under the rounded counts `keep` `[S]`; the counts of the
  policy stay, everything else moves.
  """
  space = problem.space

  def step(state, batch, params, key, limit, keep):
    def loss_fn(policy, batch, key, model=None):
      del key
      reduction = models.SoftReduction(
        params=search.decode(policy, space),
        temperature=1.0,
        keep=keep,
        sites=space.sites,
        spec=space.spec,
        hard=True,
      )
      return _loss(problem, params, model, batch, reduction)

    after, metrics = _search_step(problem, state, batch, key, limit, loss_fn)
    before, policy = state.variables["policy"], after.variables["policy"]
    counts = {n: before[n] for n in COUNT_FIELDS if n in before}
    variables = after.variables | {"policy": policy | counts}
    return dataclasses.replace(after, variables=variables), metrics

  return step


def _loss(problem, params, model, batch, reduction):
  """The task's loss as the settings want it; a trained model has a teacher."""
  settings = problem.settings
  return losses.task_loss(
    problem.cfg,
    trained.merged(params, model),
    batch,
    reduction,
    align=settings.align > 0,
    labels=settings.labels,
    teacher=None if model is None else params,
    remat=settings.remat,
  )


def straight_through_loss(
  problem: Problem,
  params: Any,
  model: Any,
  batch: Any,
  reduction: models.SoftReduction,
) -> tuple[jax.Array, dict[str, jax.Array]]:
  """The loss of hard decisions, whose counts learn from soft ones.

  Nothing comes back from tokens that are gone. A count that had its gradient
  from hard decisions would not learn what more tokens are worth, and fall.

  Args:
    problem: the search.
    params: the model's parameters.
    model: those that are trained, or None.
    batch: questions.
    reduction: straight-through, with its counts.

  Returns:
    Loss and auxiliary values as of `losses.task_loss`. Gradients by
    `reduction.keep` are those of the annealed relaxation, all others those of
    the straight-through one.
  """
  stop = jax.lax.stop_gradient
  decided = dataclasses.replace(reduction, keep=stop(reduction.keep))
  loss, aux = _loss(problem, params, model, batch, decided)
  relaxed = dataclasses.replace(
    reduction, params=stop(reduction.params), relaxation="annealed"
  )
  soft, others = _loss(problem, params, stop(model), batch, relaxed)
  if "alignment" in aux:
    change = others["alignment"] - stop(others["alignment"])
    aux = {**aux, "alignment": aux["alignment"] + change}
  return loss + (soft - stop(soft)), aux


def _search_step(problem, state, batch, key, limit, loss_fn):
  """`search.search_step` of the problem; a bilevel batch is a pair."""
  settings, model_batch = problem.settings, None
  if settings.mode == "bilevel":
    batch, model_batch = batch
  return search.search_step(
    state,
    batch,
    key,
    space=problem.space,
    loss_fn=loss_fn,
    optimizer=make_optimizer(settings),
    constraints=problem.constraints(limit),
    measures=problem.measures,
    penalty=settings.penalty,
    align=settings.align,
    view=lambda variables: problem.member(variables, limit),
    model_batch=model_batch,
    micro_batch=settings.micro_batch,
  )


def initial_state(
  problem: Problem, limit: float, policy: search.Policy, model: Any = None
) -> search.SearchState:
  """State before the first step of a budget: fresh optimiser, multiplier 0."""
  if problem.settings.trains_model and model is None:
    model = trained.copies(problem.params)
  return search.init_state(
    policy,
    constraints=problem.constraints(limit),
    optimizer=make_optimizer(problem.settings),
    model=model,
    knots=len(problem.knots.budgets) if problem.knots else None,
  )


def first_state(problem: Problem) -> search.SearchState:
  """State before the first step of a run."""
  settings, space = problem.settings, problem.space
  limit = max(settings.budgets)
  if problem.knots:
    policy = search.init_family(
      space,
      problem.knots,
      multiple=settings.start_multiple,
      decay=settings.start_decay,
    )
  else:
    policy = search.init_policy(
      space,
      constraints=problem.constraints(limit),
      measures=problem.measures,
      multiple=settings.start_multiple,
      decay=settings.start_decay,
    )
  return initial_state(problem, limit, policy)


def next_state(
  problem: Problem, state: search.SearchState, before: float, limit: float
) -> search.SearchState:
  """State for the next budget: found operators, counts scaled to its limit."""
  space, policy = problem.space, state.variables["policy"]
  counts = search.site_counts(search.decode(policy, space), space)
  scaled = np.asarray(counts, np.float64) * limit / before
  scaled = np.clip(scaled * problem.settings.start_multiple, 1.0, None)
  scaled = np.minimum.accumulate(np.minimum(scaled, space.tokens))
  fresh = search.init_policy(space, counts=scaled)
  moved = {n: fresh[n] for n in COUNT_FIELDS if n in fresh}
  policy = {**policy, **{n: v for n, v in moved.items() if n in policy}}
  return initial_state(
    problem, limit, policy, model=state.variables.get("model")
  )


def step_flops(
  problem: Problem, shape: cost.ModelShape, text: int, *, pictures: int = 1
) -> float:
  """FLOPs of one step by the cost model, without the optimizer's.

  Forward passes of the encoder and (with alignment) of the unreduced decoder;
  of the reduced decoder, whose shapes are those of all tokens, forward and
  backward passes, the latter twice as dear where weights have gradients too.

  Args:
    problem: the search.
    shape: sizes of the model.
    text: tokens of a sequence that are not visual, prefix included.
    pictures: that a sequence has room for.
  """
  settings, space = problem.settings, problem.space
  whole = (space.tokens,) * len(space.sites)
  decoder = cost.decoder_flops(
    shape, [pictures * space.tokens] * space.layers, text, head_positions=text
  )
  operators = pictures * cost.operators_flops(
    shape,
    space.sites,
    [space.spec] * len(space.sites),
    whole,
    text,
    tokens=space.tokens,
  )
  encoder = pictures * cost.vision_flops(shape)
  searched = encoder + 2 * (decoder + operators)
  if losses.reduces_vision(space.sites):
    searched += encoder
  if settings.relaxation == "straight_through":  # soft and hard
    searched += 2 * (decoder + operators) + operators
    if losses.reduces_vision(space.sites):
      searched += encoder
  if settings.align:
    searched += decoder
    if settings.trains_model or losses.reduces_vision(space.sites):
      searched += encoder
  if settings.mode == "joint":
    searched += decoder
  if settings.mode == "bilevel":  # its model's own batch
    searched += encoder + 3 * (decoder + operators)
    if settings.align:
      searched += encoder + decoder
  return float(settings.batch * searched)


def temperature_at(settings: search_settings.SearchSettings, step: int) -> Any:
  """Temperature of the soft top-k at a step of a budget."""
  return search.geometric(
    step,
    start=settings.temperature_start,
    end=settings.temperature_end,
    steps=max(1, round(settings.steps * settings.anneal_share)),
  )
