"""Stage 3: where the information of each token goes.

A kernel maps a `Site` and a `Selection` to shares [V, K]: row j says how the
information that leaves input row j divides over the output rows, summing to 1,
or to 0 where nothing may move. `KERNELS` lists them by name.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from eos_jax.array_typing import Array, Bool, Float
from eos_jax.ops import select
from eos_jax.ops import types

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
  rows = jnp.arange(image.shape[0])
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
  affinity = params.omega[0] * site.cosine[:, index]
  if site.signals.grid is not None:
    near = proximity(site.tokens.position, index, grid=site.signals.grid)
    affinity += params.omega[1] * near.astype(affinity.dtype)
  receiver = selection.log_mass
  receiver = jnp.where(
    receiver > _LOG_RECEIVER_MIN, receiver, jax.lax.stop_gradient(receiver)
  )
  may = eligible(site, selection)
  logits = jnp.where(may, affinity + receiver[None, :], types.LOG_ZERO)
  best = jnp.max(logits, 1)
  tau = jnp.maximum(params.tau, types.TAU_FLOOR)
  peak = jax.lax.stop_gradient(best)
  weight = jnp.where(may, jnp.exp((logits - peak[:, None]) / tau), 0)
  total = jnp.sum(weight, 1)
  if temperature is None:
    gate = (best >= params.theta).astype(weight.dtype)
  else:
    gate = jax.nn.sigmoid((best - params.theta) / temperature)
  # The greatest weight is 1, so the total is 0 only without a receiver.
  return weight * (gate / jnp.maximum(total, 1))[:, None]


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


KERNELS: dict[str, Callable[..., Float[Array, "V K"]]] = {
  "none": none,
  "softmax": softmax,
  "selected": selected,
}


def assign(
  site: select.Site,
  selection: select.Selection,
  temperature: Float[Array, ""] | None,
) -> Float[Array, "V K"]:
  """Runs the assignment kernel that the operator names.

  Args:
    site: tokens, signals and numbers.
    selection: K output rows.
    temperature: [] T of the soft form, None for a hard decision.

  Returns:
    [V, K] float32 shares `W^`, before they are weighted by the receiver's
    mass.
  """
  name = site.spec.assign
  if name not in KERNELS:
    raise ValueError(
      f"operator {site.spec.name!r} names the assignment {name!r}, use one of "
      f"{sorted(KERNELS)}"
    )
  return KERNELS[name](site, selection, temperature)
