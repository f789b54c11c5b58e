"""Stage 3: where the information of each token goes.

A kernel maps a `Site` and a `Selection` to shares [V, K]: row j says how the
information that leaves input row j divides over the output rows. Where sources
choose (`softmax`, `nearest`) a row sums to 1, or to 0 where nothing may move;
where receivers choose (`gather`) one source may serve several, or none.
`KERNELS` lists them by name.
"""

import jax
import jax.numpy as jnp

from eos_jax.array_typing import Array, Bool, Float
from eos_jax.ops import score, topk, types
from eos_jax.ops import site as site_lib

# Receivers whose log-mass is below this pass no gradient back to their own
# selection: it would be multiplied by up to 1 / mass there and by the share
# of a warm assignment, which does not vanish with the mass, here.
_LOG_RECEIVER_MIN = -15.0


def proximity(
  position: jax.Array,
  index: jax.Array,
  *,
  grid: tuple[int, int],
  extent: jax.Array | None = None,
) -> Float[Array, "V K"]:
  """1 minus the distance of two places over the diagonal of the image, [V, K].

  Args:
    position: [V] raster index of each token.
    index: [K] input rows to compare with.
    grid: (rows, columns) of the raster.
    extent: [2] rows and columns of the image; None = those of the raster.
  """
  row, column = position // grid[1], position % grid[1]
  vertical = row[:, None] - row[index][None, :]
  across = column[:, None] - column[index][None, :]
  squared = (vertical * vertical + across * across).astype(jnp.float32)
  if extent is None:
    diagonal = max((grid[0] - 1) ** 2 + (grid[1] - 1) ** 2, 1) ** 0.5
  else:
    sides = jnp.asarray(extent) - 1
    diagonal = jnp.sqrt(jnp.maximum(jnp.sum(sides * sides), 1) * 1.0)
  return 1 - jnp.sqrt(squared) / diagonal


def eligible(
  site: site_lib.Site, selection: site_lib.Selection
) -> Bool[Array, "V K"]:
  """True where input row j may give to output row k.

  Never to itself, to an absent token, between images, to or from a protected
  token, to a row without a token of its own, or, where the spec says so, to a
  row of the first share.
  """
  index, image = selection.index, site.tokens.image
  rows = jnp.arange(image.shape[0], dtype=jnp.int32)
  fixed = site_lib.protected(site)
  giver = types.present(site.tokens.log_mass) & ~fixed
  taker = types.present(selection.log_mass) & ~fixed[index]
  if selection.centred is not None:
    taker &= selection.centred
  if site.spec.receivers == "second" and selection.second is not None:
    taker &= selection.second
  return (
    giver[:, None]
    & taker[None, :]
    & (rows[:, None] != index[None, :])
    & (image[:, None] == image[index][None, :])
  )


def affinity(
  site: site_lib.Site, selection: site_lib.Selection
) -> Float[Array, "V K"]:
  """`omega[0]` times feature cosine plus `omega[1]` times proximity, [V, K].

  Proximity counts where the grid is known.
  """
  omega = site.params.omega
  value = omega[0] * selection.take(site.cosine, axis=1)
  if site.signals.grid is not None:
    near = proximity(
      site.tokens.position,
      selection.index,
      grid=site.signals.grid,
      extent=site.signals.extent,
    )
    value += omega[1] * near.astype(value.dtype)
  return value


def _logits(site, selection):
  """Affinity plus log-mass of the receiver, and the best of each source."""
  receiver = selection.log_mass
  receiver = jnp.where(
    receiver > _LOG_RECEIVER_MIN, receiver, jax.lax.stop_gradient(receiver)
  )
  may = eligible(site, selection)
  logits = affinity(site, selection) + receiver[None, :]
  logits = jnp.where(may, logits, types.LOG_ZERO)
  return logits, score.row_max(logits)


def _gate(site, best, temperature):
  """1 where the best receiver reaches theta (soft form: a sigmoid), [V]."""
  theta = site.params.theta
  if temperature is None:
    gate = best >= theta
  else:
    gate = jax.nn.sigmoid((best - theta) / temperature)
  return jnp.where(types.present(best), gate.astype(best.dtype), 0)


def softmax(
  site: site_lib.Site,
  selection: site_lib.Selection,
  temperature: Float[Array, ""] | None,
) -> Float[Array, "V K"]:
  """Softmax over receivers of (affinity + log-mass) / tau.

  The log-mass sits inside the temperature: a removed token must not receive.
  Nothing moves from a token whose best receiver lies under `theta`.
  """
  logits, best = _logits(site, selection)
  tau = jnp.maximum(site.params.tau, types.TAU_FLOOR)
  # The greatest is taken away before the division: afterwards its rounding,
  # on rows of -1e9, is large enough to overflow the exponential.
  logits -= jax.lax.stop_gradient(best)[:, None]
  shares = jax.nn.softmax(logits / tau, axis=1)
  return shares * _gate(site, best, temperature)[:, None]


def nearest(
  site: site_lib.Site,
  selection: site_lib.Selection,
  temperature: Float[Array, ""] | None,
) -> Float[Array, "V K"]:
  """All to the one best receiver: the limit tau = 0 of `softmax`.

  Ties go to the first output row; the choice itself has no gradient.
  """
  logits, best = _logits(site, selection)
  choice = jnp.argmax(jax.lax.stop_gradient(logits), axis=1)
  shares = jax.nn.one_hot(choice, logits.shape[1], dtype=logits.dtype)
  return shares * _gate(site, best, temperature)[:, None]


def gather(
  site: site_lib.Site,
  selection: site_lib.Selection,
  temperature: Float[Array, ""] | None,
) -> Float[Array, "V K"]:
  """Each receiver takes the whole of its `spec.neighbours` nearest sources.

  A source may serve several receivers or none (`42Shawn/LLaVA-PruMerge`,
  clip_encoder.py). Ties go to the lowest index; no gradient of the choice.
  """
  may = eligible(site, selection)
  near = jax.lax.stop_gradient(affinity(site, selection))
  near = jnp.where(may, near, -jnp.inf)
  rank = jax.vmap(topk.descending_rank, in_axes=1, out_axes=1)(near)
  shares = (may & (rank < site.spec.neighbours)).astype(near.dtype)
  best = jnp.max(jnp.where(may, near, types.LOG_ZERO), axis=1)
  return shares * _gate(site, best, temperature)[:, None]


def clusters(
  site: site_lib.Site,
  selection: site_lib.Selection,
  temperature: Float[Array, ""] | None,
) -> Float[Array, "V K"]:
  """Each recycled token to the nearest centre by Euclidean distance.

  Centres are the rows of the second share, and give to themselves. Ties go to
  the centre of the better second score.
  """
  del temperature
  index, x = selection.index, jax.lax.stop_gradient(site.tokens.x)
  centre = selection.second & types.present(selection.log_mass)
  gives = site_lib.recycled(site, types.present(selection.log_rest))
  rows, _ = site_lib.recycled_rows(site, gives)
  distance = score.distances(
    jnp.take(x, rows, axis=0, mode="clip"), selection.take(x)
  )
  distance = jnp.where(centre[None, :], distance, 1e9)
  own = centre[None, :] & (rows[:, None] == index[None, :])
  choice = jnp.argmin(jnp.where(own, -1, distance), 1)
  shares = jax.nn.one_hot(choice, index.shape[0], dtype=site.scores.dtype)
  shares = jnp.where(jnp.any(centre), shares, 0)
  none = jnp.zeros((x.shape[0], index.shape[0]), shares.dtype)
  return none.at[rows].set(shares, mode="drop")


def none(
  site: site_lib.Site,
  selection: site_lib.Selection,
  temperature: Float[Array, ""] | None,
) -> Float[Array, "V K"]:
  """Nothing moves: removed tokens are dropped."""
  del temperature
  shape = (site.scores.shape[0], selection.index.shape[0])
  return jnp.zeros(shape, site.scores.dtype)


def selected(
  site: site_lib.Site,
  selection: site_lib.Selection,
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
  "nearest": types.Kernel(nearest, cosine=True),
  "gather": types.Kernel(gather, cosine=True),
  "clusters": types.Kernel(clusters, discrete=True, one_image=True),
  "selected": types.Kernel(selected),
}


def shares(
  site: site_lib.Site,
  selection: site_lib.Selection,
  temperature: Float[Array, ""] | None,
) -> Float[Array, "V K"]:
  """What the kernel of the spec says, for the tokens that pass something on.

  Of removed tokens only the recycled ones do (`spec.recycle`), and the fused
  row, where there is one, takes all of what is removed.
  """
  spec = site.spec
  value = KERNELS[spec.assign].run(site, selection, temperature)
  if spec.recycle < 1:
    gone = types.present(selection.log_rest)
    gives = ~gone | site_lib.recycled(site, gone)
    value = jnp.where(gives[:, None], value, 0)
  if selection.fused is not None:
    present = types.present(site.tokens.log_mass)
    gone = jnp.exp(selection.log_rest - site.tokens.log_mass)
    gone = jnp.where(present, gone, 0)
    value = jnp.where(selection.fused[None, :], gone[:, None], value)
  return value
