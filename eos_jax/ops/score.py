"""Stage 1: a score for each token, from a mixture of score functions.

Each function maps a `TokenSet` and `Signals` to raw values [V]. The mixture
standardises each over the present tokens, adds them with weights `pi` and
standardises the sum again, so that one temperature suits every mixture.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from eos_jax.array_typing import Array, Float, Int
from eos_jax.ops import spread, topk, types

# Smallest standard deviation that a score is divided by. Attention shares of
# thousands of keys vary by about 1e-5, so this only catches constants.
_EPS = 1e-6


def standardise(
  values: Float[Array, "V"], log_mass: Float[Array, "V"]
) -> Float[Array, "V"]:
  """Values minus their mean, divided by their standard deviation.

  Mean and deviation are weighted by mass, so absent tokens do not count; they
  get the value 0. A constant maps to 0, with a finite gradient.

  Args:
    values: [V] raw scores.
    log_mass: [V] log-mass of the tokens.

  Returns:
    [V] standardised scores.

  >>> import jax.numpy as jnp
  >>> standardise(jnp.array([1.0, 3.0]), jnp.zeros(2)).tolist()
  [-1.0, 1.0]
  """
  valid = types.present(log_mass)
  values = jnp.where(valid, types.working(values), 0)
  weight = jax.nn.softmax(log_mass)
  centred = values - jnp.sum(weight * values)
  variance = jnp.sum(weight * centred**2)
  return jnp.where(valid, centred / jnp.sqrt(variance + _EPS**2), 0)


def unit(x: Float[Array, "*B D"]) -> Float[Array, "*B D"]:
  """Rows divided by their length; a zero row stays zero with zero gradient."""
  x = types.working(x)
  return x * jax.lax.rsqrt(jnp.sum(x * x, -1, keepdims=True) + 1e-12)


def cosine_matrix(x: Float[Array, "V D"]) -> Float[Array, "V V"]:
  """Cosine of every pair of rows, [V, V]."""
  rows = unit(x)
  return types.product(rows, rows.T)


def distances(
  x: Float[Array, "R D"], y: Float[Array, "K D"]
) -> Float[Array, "R K"]:
  """Returns the Euclidean distance of each row to each of `y`, over sqrt(D).

  Computed row by row from differences: exactly symmetric, and without the
  cancellation of the usual product form, which would break ties among near
  neighbours.
  """
  x, y = types.working(x), types.working(y)
  squared = jax.lax.map(lambda row: jnp.sum((row[None] - y) ** 2, -1), x)
  return jnp.sqrt(squared) / x.shape[-1] ** 0.5


@jax.custom_jvp
def row_max(values: Float[Array, "V K"]) -> Float[Array, "V"]:
  """Greatest entry of each row, [V].

  The derivative is that of every entry equal to the greatest, summed; `jnp.max`
  divides by their number, for which it goes over the matrix twice more.
  """
  return jnp.max(values, 1)


@row_max.defjvp
def _row_max_jvp(primals, tangents):
  (values,), (d_values,) = primals, tangents
  best = jnp.max(values, 1)
  at_best = values == best[:, None]
  return best, jnp.sum(jnp.where(at_best, d_values, 0), 1)


def norm(tokens: types.TokenSet, signals: types.Signals) -> Float[Array, "V"]:
  """Euclidean norm of the features, [V]."""
  del signals
  x = types.working(tokens.x)
  return jnp.sqrt(jnp.sum(x * x, -1) + 1e-12)


def key_norm(
  tokens: types.TokenSet, signals: types.Signals
) -> Float[Array, "V"]:
  """L1 norm of the keys, [V] (DART)."""
  del tokens
  return jnp.sum(jnp.abs(types.working(signals.keys)), -1)


def class_guided(
  tokens: types.TokenSet, signals: types.Signals
) -> Float[Array, "V"]:
  """Class score plus the thumbnail's, each over its norm in its image, [V].

  GlobalCom2 (`xuyang-liu16/GlobalCom2`, llava_arch.py). Where the guide is 0,
  as on the thumbnail itself, the token's own score decides alone.
  """
  same = tokens.image[:, None] == tokens.image[None, :]
  same &= types.present(tokens.log_mass)[None, :]

  def over_norm(values):
    values = types.working(values)
    squared = jnp.sum(jnp.where(same, values[None, :] ** 2, 0), 1)
    return values * jax.lax.rsqrt(jnp.maximum(squared, 1e-24))

  return over_norm(signals.class_row) + over_norm(signals.guide)


def relevance(
  tokens: types.TokenSet, signals: types.Signals
) -> Float[Array, "V"]:
  """Cosine of each token with the mean of the text embeddings, [V]."""
  text = types.working(signals.text)
  if signals.text_mask is not None:
    text = jnp.where(signals.text_mask[:, None], text, 0)
  return types.product(unit(tokens.x), unit(jnp.sum(text, 0)))


def relevance_max(
  tokens: types.TokenSet, signals: types.Signals
) -> Float[Array, "V"]:
  """Greatest cosine of each token with a text embedding, [V]."""
  text = types.working(signals.text)
  if signals.text_mask is not None:
    text = jnp.where(signals.text_mask[:, None], text, 0)
  cosine = types.product(unit(tokens.x), unit(text).T)
  if signals.text_mask is not None:
    cosine = jnp.where(signals.text_mask[None, :], cosine, -1)
  return jnp.max(cosine, 1)


def grid(tokens: types.TokenSet, signals: types.Signals) -> Float[Array, "V"]:
  """A spatial order whose k best spread evenly over the image for any k, [V].

  No gradient. Uses `position`, the static `signals.grid` and `signals.extent`.
  """
  rows, columns = signals.grid
  if signals.extent is None:
    rank = jnp.asarray(spread.rank(rows, columns))
  else:
    rank = spread.rank_within(signals.extent, signals.grid)
  place = jnp.clip(tokens.position, 0, rows * columns - 1)
  return -rank[place].astype(tokens.log_mass.dtype)


def uniqueness(
  cosine: Float[Array, "V V"],
  order: Float[Array, "V"] | None,
  log_mass: Float[Array, "V"],
  image: Int[Array, "V"] | None = None,
) -> Float[Array, "V"]:
  """Minus the greatest cosine to a better-scored present token, in parallel.

  A token is compared with those that `order` puts before it (greater value;
  ties to the lowest index). Mass counts linearly between the cosine (mass 1)
  and -1 (mass 0), so an absent token has no influence, and a token that
  nothing precedes gets the top value 1.

  Args:
    cosine: [V, V] cosine of every pair.
    order: [V] score that says which token is better; no gradient flows to it.
      None: the index decides.
    log_mass: [V] log-mass of the tokens.
    image: [V] image of each token: only tokens of one image are compared.

  Returns:
    [V] uniqueness in [-1, 1]. The gradient flows to the cosine of the nearest
    better token and to its mass.
  """
  if order is None:
    rank = jnp.arange(cosine.shape[0], dtype=jnp.int32)
  else:
    rank = topk.descending_rank(order)
  better = rank[None, :] < rank[:, None]
  better &= types.present(log_mass)[None, :]
  if image is not None:
    better &= image[:, None] == image[None, :]
  # -1 + m (1 + cos) is m cos - (1 - m).
  closeness = jnp.exp(log_mass)[None, :] * (1 + cosine)
  return 1 - row_max(jnp.where(better, closeness, 0))


def _signal(name: str) -> Callable[..., Float[Array, "V"]]:
  """A score function that hands a signal through."""

  def read(tokens, signals):
    del tokens
    return getattr(signals, name)

  read.__doc__ = f"`Signals.{name}` as a score, [V]."
  return read


# Functions of (tokens, signals), and those that compare tokens
# (`cosine=True`), which are functions of (cosine, order, log_mass, image).
SCORES: dict[str, types.Kernel] = {
  "last_row": types.Kernel(_signal("last_row"), ("last_row",)),
  "last_row_previous": types.Kernel(
    _signal("last_row_previous"), ("last_row_previous",)
  ),
  "text_rows": types.Kernel(_signal("text_rows"), ("text_rows",)),
  "class_row": types.Kernel(_signal("class_row"), ("class_row",)),
  "rater_rows": types.Kernel(_signal("rater_rows"), ("rater_rows",)),
  "learned": types.Kernel(_signal("learned"), ("learned",)),
  "key_norm": types.Kernel(key_norm, ("keys",)),
  "class_guided": types.Kernel(class_guided, ("class_row", "guide")),
  "received": types.Kernel(_signal("received"), ("received",)),
  "norm": types.Kernel(norm),
  "relevance": types.Kernel(relevance, ("text",)),
  "relevance_max": types.Kernel(relevance_max, ("text",)),
  "grid": types.Kernel(grid, ("grid",)),
  "random": types.Kernel(_signal("noise"), ("noise",)),
  "uniqueness": types.Kernel(uniqueness, cosine=True),
}


def mixture(
  tokens: types.TokenSet,
  signals: types.Signals,
  pi: Float[Array, "F"],
  cosine: Float[Array, "V V"] | None,
  *,
  spec: types.OperatorSpec,
) -> tuple[Float[Array, "V"], Float[Array, "V"]]:
  """The score of each token under the mixture of a spec, and the raw mixture.

  Functions that compare tokens follow the order of the mixture of the others;
  without others all are equal, and the index decides. Values that are no
  numbers count as the lowest: such a token goes first, and no other notices.

  Args:
    tokens: V tokens.
    signals: what the score functions read.
    pi: [F] weights of `spec.scores`.
    cosine: [V, V] cosine of every pair, where a function compares tokens.
    spec: names the score functions.

  Returns:
    [V] scores of mean 0 and deviation 1 over the present tokens, 0 on absent
    ones, and [V] the weighted sum of the values as they come; both all 0
    without score functions.
  """
  log_mass = tokens.log_mass
  kernels = [SCORES[name] for name in spec.scores]
  alone = [i for i, kernel in enumerate(kernels) if not kernel.cosine]
  order = raw = jnp.zeros_like(log_mass)
  if alone:
    # Side by side: each reduction is a step of its own on small pictures.
    values = [kernels[i].run(tokens, signals) for i in alone]
    values = jnp.stack([types.working(value) for value in values])
    values = jax.vmap(_numbers, (0, None))(values, log_mass)
    standard = jax.vmap(standardise, (0, None))(values, log_mass)
    weights = pi[np.array(alone)][:, None]
    order = jnp.sum(weights * standard, axis=0)
    raw = jnp.sum(weights * values, axis=0)
  total = order
  for weight, kernel in zip(pi, kernels, strict=True):
    if kernel.cosine:
      by = order if alone else None
      values = kernel.run(cosine, by, log_mass, tokens.image)
      total += weight * standardise(values, log_mass)
      raw += weight * values
  return standardise(total, log_mass), raw


def _numbers(values, log_mass):
  """Raw values with the lowest present number in place of NaN and infinity."""
  values = types.working(values)
  good = jnp.isfinite(values) & types.present(log_mass)
  lowest = jnp.min(jnp.where(good, values, jnp.inf))
  lowest = jnp.where(jnp.any(good), lowest, 0)
  return jnp.where(good, values, jax.lax.stop_gradient(lowest))
