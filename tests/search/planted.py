"""Searches whose best plan is known, since all plans can be tried.

A model of six layers without weights reads synthetic tokens. What it needs is
planted: in which layers, how many tokens, and whether it reads single tokens
(evidence is local) or their mean (evidence is spread). Three sites in front of
layers 0, 2 and 4 reduce 16 tokens with `ops`.
"""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax

from eos_jax import ops, search

TOKENS, WIDTH, LAYERS, SAMPLES = 16, 16, 6, 24
SPEC = ops.presets.MERGE.replace(scores=("class_row",), pi=(1.0,))
SPACE = search.SearchSpace(
  sites=("decoder.0", "decoder.2", "decoder.4"),
  tokens=TOKENS,
  layers=LAYERS,
  spec=SPEC,
  free=("where", "how_many", "transfer"),
)
STEPS = 300


@dataclasses.dataclass(frozen=True)
class Problem:
  """What a search should find.

  Attributes:
    local: worth of reading single tokens, for each layer.
    spread: worth of reading their mean, for each layer.
    matter: how many tokens carry evidence; their shares fall by `fall`.
    limit: layer average of tokens.
  """

  local: tuple[float, ...]
  spread: tuple[float, ...] = (0.0,) * LAYERS
  matter: int = TOKENS
  fall: float = 0.8
  limit: float = 6.0

  @property
  def scale(self) -> float:
    """Loss of a model that has lost everything."""
    return sum(self.local) + sum(self.spread)


PROBLEMS = {
  "needed late": Problem((0, 0, 0, 0, 0, 1)),
  "needed once, early": Problem((1, 1, 0, 0, 0, 0)),
  "needed throughout": Problem((1,) * LAYERS),
  "needed early and a little late": Problem((1, 1, 0.3, 0.3, 0.1, 0.1)),
  "five tokens matter, slack": Problem(
    (1,) * LAYERS, matter=5, fall=1.0, limit=9.0
  ),
  "evidence is spread": Problem((0,) * LAYERS, spread=(1,) * LAYERS, limit=4.0),
}


def samples(problem, seed):
  """Features `[N, V, D]` and shares of the evidence `[N, V]`."""
  draw = np.random.default_rng(seed)
  x = draw.normal(size=(SAMPLES, TOKENS, WIDTH)) + 0.5
  shares = problem.fall ** np.arange(TOKENS) * (
    np.arange(TOKENS) < problem.matter
  )
  # Tokens without evidence differ in their score too.
  shares = shares / shares.sum() + 1e-4 * draw.random(TOKENS)
  order = np.stack([draw.permutation(TOKENS) for _ in range(SAMPLES)])
  return jnp.asarray(x, jnp.float32), jnp.asarray(shares[order], jnp.float32)


def _read(problem, params, given, reduce):
  """Loss of one sample; `reduce(tokens, signals, params, site)` reduces it."""
  x, shares = given
  tokens = ops.token_set(x)
  signals, loss = ops.Signals(class_row=shares), 0.0
  share = shares / jnp.sum(shares)
  for layer in range(LAYERS):
    if layer in SPACE.first_layer:
      site = SPACE.first_layer.index(layer)
      numbers = jax.tree.map(lambda leaf, site=site: leaf[site], params)
      tokens = reduce(tokens, signals, numbers, site)
    mass = jnp.exp(tokens.log_mass)
    changed = jnp.sum((tokens.x - x) ** 2, -1) / jnp.sum(x**2, -1)
    lost = jnp.minimum(mass * changed, 1.0) + (1.0 - mass)
    loss += problem.local[layer] * jnp.sum(share * lost)
    weight = mass * tokens.size
    mean = weight @ tokens.x / jnp.sum(weight)
    error = jnp.sum((mean - jnp.mean(x, 0)) ** 2)
    loss += problem.spread[layer] * error / jnp.sum(jnp.mean(x, 0) ** 2)
  return loss


def soft_loss(problem, params, data, temperature):
  """Mean loss under relaxed operators."""

  def reduce(tokens, signals, numbers, site):
    del site
    total = jnp.sum(jnp.exp(tokens.log_mass))
    keep = ops.keep_count(total, numbers.activation, numbers.retention)
    return ops.reduce_soft(
      tokens, signals, numbers, spec=SPEC, keep=keep, temperature=temperature
    ).tokens

  one = lambda given: _read(problem, params, given, reduce)
  return jnp.mean(jax.vmap(one)(data))


@functools.partial(jax.jit, static_argnums=0)
def hard_losses(problem, counts, gammas, data):
  """Mean loss of each plan: counts and gamma `[P, S]`."""

  def of_plan(plan):
    keep, gamma = plan
    params = jax.tree.map(
      lambda leaf: jnp.broadcast_to(leaf, (3, *leaf.shape)), SPEC.params()
    )
    params = dataclasses.replace(params, gamma=gamma)

    def reduce(tokens, signals, numbers, site):
      return ops.reduce_masked(
        tokens, signals, numbers, spec=SPEC, keep=keep[site]
      ).tokens

    one = lambda given: _read(problem, params, given, reduce)
    return jnp.mean(jax.vmap(one)(data))

  return jax.lax.map(of_plan, (counts, gammas), batch_size=64)


def feasible(problem):
  """All whole counts `[P, S]` that meet the limit."""
  every = itertools.combinations_with_replacement(range(TOKENS, 0, -1), 3)
  limits = search.limits(layer_average=problem.limit)
  return [c for c in every if not search.exceeded(c, SPACE, limits)]


def best(problem, data):
  """Counts, gamma and loss of the best plan with gamma 0 or 1 at each site."""
  corners = list(itertools.product((0.0, 1.0), repeat=3))
  plans = list(itertools.product(feasible(problem), corners))
  counts = jnp.array([c for c, _ in plans], jnp.float32)
  gammas = jnp.array([g for _, g in plans], jnp.float32)
  losses = np.asarray(hard_losses(problem, counts, gammas, data))
  place = int(np.argmin(losses))
  return *plans[place], float(losses[place])


def guess(problem, data, seed, evaluations):
  """The least loss of as many plans at random."""
  draw = np.random.default_rng(seed)
  counts = np.array(feasible(problem), np.float32)
  counts = counts[draw.integers(0, len(counts), evaluations)]
  gammas = draw.random((evaluations, 3)).astype(np.float32)
  return float(np.min(hard_losses(problem, counts, gammas, data)))


@functools.cache
def _step(problem, two_sided=False, price=0.0):
  optimizer = search.make_optimizer(
    optax.adam(optax.cosine_decay_schedule(0.1, STEPS, 0.05)),
    multiplier_lr=0.1,
  )
  limits = () if two_sided else search.limits(layer_average=problem.limit)

  def step(state, data):
    temperature = search.geometric(
      state.step, start=0.5, end=0.005, steps=int(0.9 * STEPS)
    )

    def loss_fn(policy, batch, key):
      del key
      params = search.decode(policy, SPACE)
      loss = soft_loss(problem, params, batch, temperature) / problem.scale
      counts = search.site_counts(params, SPACE)
      average = search.layer_average(counts, SPACE)
      loss += price * average / TOKENS
      if two_sided:
        loss += 4.0 * (average / problem.limit - 1.0) ** 2
      return loss, {}

    return search.search_step(
      state,
      data,
      jax.random.key(0),
      space=SPACE,
      loss_fn=loss_fn,
      optimizer=optimizer,
      constraints=limits,
      penalty=2.0,
    )

  return jax.jit(step), optimizer, limits


def searched(problem, data, *, start=None, two_sided=False, price=0.0):
  """The policy that a search finds; `price` is that of all tokens."""
  step, optimizer, limits = _step(problem, two_sided, price)
  average = start or min(1.3 * problem.limit, 0.9 * TOKENS)
  state = search.init_state(
    search.init_policy(
      dataclasses.replace(SPACE, spec=SPEC.replace(gamma=0.5)),
      constraints=search.limits(layer_average=average),
    ),
    constraints=limits,
    optimizer=optimizer,
  )
  for _ in range(STEPS):
    state, _ = step(state, data)
  return state.variables["policy"]


def rounded(problem, policy):
  """Whole counts and gamma of a policy."""
  params = search.decode(policy, SPACE)
  counts = search.whole_counts(
    np.asarray(search.site_counts(params, SPACE), np.float64),
    SPACE,
    constraints=search.limits(layer_average=problem.limit),
  )
  return tuple(counts), np.asarray(params.gamma)


def value(problem, counts, gamma, data):
  """Loss of one plan."""
  counts = jnp.array([counts], jnp.float32)
  return float(hard_losses(problem, counts, jnp.asarray(gamma)[None], data)[0])
