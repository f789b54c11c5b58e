"""Stage 3: where the information of each token goes.

A kernel maps a `Site` and a `Selection` to shares [V, K]: row j says how the
information that leaves input row j divides over the output rows, summing to 1,
or to 0 where nothing may move. `KERNELS` lists them by name.
"""

import jax
import jax.numpy as jnp

from eos_jax.array_typing import Array, Bool, Float
from eos_jax.ops import score, select, types

# Receivers whose log-mass is below this pass no gradient back to their own
# selection: it would be multiplied by up to 1 / mass there and by the share
# of a warm assignment, which does not vanish with the mass, here.
_LOG_RECEIVER_MIN = -15.0


def proximity(
  position: jax.Array, index: jax.Array, *, grid: tuple[int, int]
) -> Float[Array, "V K"]:
  """1 minus the distance of two places over the diagonal of the grid, [V, K].

  Args:
    position: [V] raster index of each token.
    index: [K] input rows to compare with.
    grid: (rows, columns) of the raster.
  """
  row, column = position // grid[1], position % grid[1]
  vertical = row[:, None] - row[index][None, :]
  across = column[:, None] - column[index][None, :]
  squared = (vertical * vertical + across * across).astype(jnp.float32)
  diagonal = max((grid[0] - 1) ** 2 + (grid[1] - 1) ** 2, 1) ** 0.5
  return 1 - jnp.sqrt(squared) / diagonal


def eligible(
  site: select.Site, selection: select.Selection
) -> Bool[Array, "V K"]:
  """True where input row j may give to output row k.

  Never to itself, to an absent token, between images, or to or from a
  protected token.
  """
  index, image = selection.index, site.tokens.image
  rows = jnp.arange(image.shape[0], dtype=jnp.int32)
  fixed = select.protected(site)
  giver = types.present(site.tokens.log_mass) & ~fixed
  taker = types.present(selection.log_mass) & ~fixed[index]
  return (
    giver[:, None]
    & taker[None, :]
    & (rows[:, None] != index[None, :])
    & (image[:, None] == image[index][None, :])
  )


def softmax(
  site: select.Site,
  selection: select.Selection,
  temperature: Float[Array, ""] | None,
) -> Float[Array, "V K"]:
  """Softmax over receivers of (affinity + log-mass) / tau.

  Affinity is `omega[0]` times the feature cosine plus `omega[1]` times the
  spatial proximity (where the grid is known). The log-mass sits inside the
  temperature: a removed token must not receive. Nothing moves from a token
  whose best receiver lies under `theta` (soft form: a sigmoid gate).
  """
  params, index = site.params, selection.index
  affinity = params.omega[0] * selection.take(site.cosine, axis=1)
  if site.signals.grid is not None:
    near = proximity(site.tokens.position, index, grid=site.signals.grid)
    affinity += params.omega[1] * near.astype(affinity.dtype)
  receiver = selection.log_mass
  receiver = jnp.where(
    receiver > _LOG_RECEIVER_MIN, receiver, jax.lax.stop_gradient(receiver)
  )
  may = eligible(site, selection)
  logits = jnp.where(may, affinity + receiver[None, :], types.LOG_ZERO)
  best = score.row_max(logits)
  tau = jnp.maximum(params.tau, types.TAU_FLOOR)
  if temperature is None:
    gate = best >= params.theta
  else:
    gate = jax.nn.sigmoid((best - params.theta) / temperature)
  gate = jnp.where(types.present(best), gate.astype(best.dtype), 0)
  # The greatest is taken away before the division: afterwards its rounding,
  # on rows of -1e9, is large enough to overflow the exponential.
  logits -= jax.lax.stop_gradient(best)[:, None]
  return jax.nn.softmax(logits / tau, axis=1) * gate[:, None]


def none(
  site: select.Site,
  selection: select.Selection,
  temperature: Float[Array, ""] | None,
) -> Float[Array, "V K"]:
  """Nothing moves: removed tokens are dropped."""
  del temperature
  shape = (site.scores.shape[0], selection.index.shape[0])
  return jnp.zeros(shape, site.scores.dtype)


def selected(
  site: select.Site,
  selection: select.Selection,
  temperature: Float[Array, ""] | None,
) -> Float[Array, "V K"]:
  """The shares that the selection kernel itself decided (edges, cells)."""
  del temperature
  if selection.transport is None:
    raise ValueError(
      f"operator {site.spec.name!r} assigns by 'selected', but its selection "
      f"{site.spec.select!r} decides no shares: use 'softmax' or 'none'"
    )
  return selection.transport


# Functions of a `Site`, a `Selection` and the temperature of the soft form
# (None for a hard decision).
KERNELS: dict[str, types.Kernel] = {
  "none": types.Kernel(none),
  "softmax": types.Kernel(softmax, cosine=True),
  "selected": types.Kernel(selected),
}
