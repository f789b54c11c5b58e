"""What became of each visual token under a plan: kept, merged or dropped."""

from collections.abc import Mapping
import dataclasses

import jax
import jax.numpy as jnp

from eos_jax import ops
from eos_jax.array_typing import Array, Int


def _place(site):
  kind, layer = ops.site_index(site)
  return kind == "decoder", layer


def _behind_encoder(row, position):
  """Rows once the class token is off and the patches stand in raster order."""
  rank = jnp.argsort(jnp.argsort(position[1:]))
  return jnp.where(row >= 1, rank[jnp.maximum(row, 1) - 1], -1)


def follow(
  trace: Mapping[str, ops.Reduced], tokens: int
) -> tuple[Int[Array, "V"], Int[Array, "V"]]:
  """Follows every original token through the sites of a hard reduction.

  Args:
    trace: results of the sites for one example, by site name; at sites of the
      vision encoder row 0 is the class token.
    tokens: V, the visual tokens of an unreduced picture.

  Returns:
    `owner`: the original token that holds the information of each one in the
    end: itself where it stayed, its greatest receiver (at each site) where it
    was merged, -1 where it was dropped. Of tokens in a row that belongs to none
    of them, such as a pooled cell, it is the first. `left_at`: number of the
    site at which the token lost its row, the number of sites where it never
    did. No gradients.
  """
  position = row = itself = jnp.arange(tokens)
  left_at = jnp.full(tokens, len(trace))
  inside = False
  # The order of a dict does not survive jit and vmap.
  for number, site in enumerate(sorted(trace, key=_place)):
    reduced = trace[site]
    if site.startswith("vision."):
      row, inside = row if inside else row + 1, True
    elif inside:
      row, inside = _behind_encoder(row, position), False
    next_row = ops.source_map(reduced)
    holder = reduced.index[jnp.maximum(next_row, 0)]
    stays = (next_row >= 0) & (holder == jnp.arange(holder.shape[0]))
    at = jnp.maximum(row, 0)
    leaves = (row >= 0) & ~stays[at]
    left_at = jnp.where(leaves, jnp.minimum(left_at, number), left_at)
    row = jnp.where(row >= 0, next_row[at], -1)
    position = reduced.tokens.position
  if inside:  # nothing is followed into the class token
    row = jnp.where(row >= 1, row, -1)
  # Positions do not name tokens: layouts and operators number them anew.
  left = left_at < len(trace)
  first = jax.ops.segment_min(
    jnp.where(left, tokens, 0) + itself, row, num_segments=tokens + 2
  )
  owner = jnp.where(row >= 0, first[jnp.maximum(row, 0)] % tokens, -1)
  return jax.lax.stop_gradient((owner, left_at))


def by_image(
  trace: Mapping[str, ops.Reduced], images: int
) -> dict[str, ops.Reduced]:
  """Returns the trace of a sample with a leading axis of its images.

  Decoder sites have the rows of all images after one another, and count them
  through; sites of the vision encoder have the axis already.

  Args:
    trace: results of the sites for one example, by site name.
    images: I, images of the sample.

  Returns:
    Results with shapes `[I, ...]`, whose indices count the rows of an image.
  """
  found = {}
  for site, reduced in trace.items():
    if site.startswith("vision."):
      found[site] = reduced
      continue
    split = jax.tree.map(
      lambda leaf: leaf.reshape(images, -1, *leaf.shape[1:]), reduced
    )
    start = jnp.arange(images)[:, None] * split.assignment.shape[1]
    index = jnp.where(split.index >= 0, split.index - start, -1)
    found[site] = dataclasses.replace(split, index=index)
  return found
