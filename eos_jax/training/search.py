"""The search as pure functions of the VLM: loss, step, passage between budgets.

Limit and temperature are traced, so that one compiled step serves all budgets.
`training.search_loop` runs it.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from eos_jax import models, ops, search
from eos_jax.training import pretrain
from eos_jax.training import settings as settings_lib


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
  spec = ops.PRESETS[settings.start]
  if "diversity" not in settings.free and spec.kappa == 1.0:
    # The second top-k would get no budget; without it a step compiles faster.
    spec = spec.replace(diversity="none")
  return search.SearchSpace(
    sites=sites,
    tokens=cfg.vision.tokens,
    layers=cfg.decoder.layers,
    spec=spec,
    free=settings.free,
  )


def task_loss(
  cfg: models.VLMConfig,
  params: Any,
  batch: dict[str, jax.Array],
  reduction: models.Reduction,
  *,
  align: bool,
  seen: models.Seen | None = None,
) -> tuple[jax.Array, dict[str, jax.Array]]:
  """Cross-entropy of the answers under a reduction.

  Args:
    cfg: shape of the model.
    params: its parameters.
    batch: questions, one a row (see `data.loader.question_batches`).
    reduction: acts in the model.
    align: also run the unreduced model, and measure how far hidden states at
      the text positions are from its own, relative to their size.
    seen: the pictures as `models.see` leaves them under this reduction; None
      = encode those of the batch.

  Returns:
    The loss, and "exact" `[B]` (all answer tokens right) and "alignment".
  """
  text = models.Text(
    tokens=batch["tokens"],
    mask=batch["mask"],
    prompt_length=batch["prompt_length"],
  )
  if seen is None:
    image = pretrain.normalize(batch["image"])
    seen = models.see(cfg, params, image, reduction)
  out = models.read(cfg, params, seen, text, reduction)
  target, weight = batch["tokens"][:, 1:], batch["loss_mask"][:, 1:]
  logits = out.logits[:, :-1]
  cross = optax.softmax_cross_entropy_with_integer_labels(logits, target)
  loss = jnp.sum(cross * weight) / jnp.maximum(jnp.sum(weight), 1)
  wrong = weight & (jnp.argmax(logits, -1) != target)
  aux = {"exact": 1.0 - jnp.any(wrong, axis=1).astype(jnp.float32)}
  if align:
    if reduces_vision(reduction.sites):
      image = pretrain.normalize(batch["image"])
      seen = models.see(cfg, params, image)
    whole = models.read(cfg, params, seen, text)
    aux["alignment"] = alignment(out.hidden, whole.hidden, batch["mask"])
  return loss, aux


def reduces_vision(sites: tuple[str, ...]) -> bool:
  """Whether some of the sites lie inside the vision encoder."""
  return any(site.startswith("vision.") for site in sites)


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


def constraints(limit: Any) -> tuple[search.Constraint, ...]:
  """The constraints of a budget, which may be traced."""
  return search.limits(layer_average=limit)


def make_optimizer(
  settings: settings_lib.SearchSettings,
) -> optax.GradientTransformation:
  """Adam for the policy, ascent for the multipliers, Adam for a joint model.

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
      constraints=constraints(limit),
      penalty=settings.penalty,
      align=settings.align,
    )

  return step


def initial_state(
  problem: Problem, limit: float, policy: search.Policy, model: Any = None
) -> search.SearchState:
  """State before the first step of a budget: fresh optimiser, multiplier 0."""
  if problem.settings.mode == "joint" and model is None:
    model = {name: problem.params[name] for name in ("projector", "decoder")}
  return search.init_state(
    policy,
    constraints=constraints(limit),
    optimizer=make_optimizer(problem.settings),
    model=model,
  )


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
  moved = {n: fresh[n] for n in ("activation", "retention") if n in fresh}
  policy = {**policy, **{n: v for n, v in moved.items() if n in policy}}
  return initial_state(
    problem, limit, policy, model=state.variables.get("model")
  )


def temperature_at(settings: settings_lib.SearchSettings, step: int) -> Any:
  """Temperature of the soft top-k at a step of a budget."""
  return search.geometric(
    step,
    start=settings.temperature_start,
    end=settings.temperature_end,
    steps=max(1, round(settings.steps * settings.anneal_share)),
  )
