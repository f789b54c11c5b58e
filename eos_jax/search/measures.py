"""Costs as measures of a search: what constraints can limit other than tokens.

Each function makes an `objective.Measure`: a function of the visual tokens
after each site, to be given as `measures={"flops": ...}` together with a
`Constraint("flops", limit)` in the measure's unit. It is differentiable for an
array and exact for whole numbers.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from eos_jax import cost, ops
from eos_jax.array_typing import Array, Float
from eos_jax.search import expected, objective
from eos_jax.search import space as space_lib


def flops_measure(
  shape: cost.ModelShape,
  space: space_lib.SearchSpace,
  text_tokens: int,
  *,
  operators: bool = True,
  head_positions: int = 1,
) -> objective.Measure:
  """FLOPs of a prefill, and of the operators at all sites of the space.

  Args:
    shape: sizes of the model.
    space: the search space.
    text_tokens: all other tokens of the sequence.
    operators: whether to add what the operators cost themselves.
    head_positions: positions whose logits are computed.

  Returns:
    A measure in FLOPs (2 for a multiply-add).

  >>> shape = cost.ModelShape(0, 1, 1, 1, 0, 17, 0, layers=4, width=8, heads=2,
  ...                         kv_heads=1, head_dim=4, mlp=3, vocab=5)
  >>> space = space_lib.SearchSpace(("decoder.2",), tokens=16, layers=4,
  ...                               spec=ops.presets.FASTV, counts=(4,),
  ...                               frozen_sites=("decoder.2",), free=())
  >>> measure = flops_measure(shape, space, 6, operators=False)
  >>> measure((4,)), float(measure(jnp.array([4.0])))
  (71504, 71504.0)
  """
  _check(shape, space)

  def measure(counts: expected.Counts) -> Any:
    total = cost.prefill_flops(
      shape,
      expected.layer_counts(counts, space),
      text_tokens,
      vision_rows(counts, space, shape),
      head_positions=head_positions,
    )
    if not operators:
      return total
    return total + cost.operators_flops(
      shape,
      space.sites,
      [space.spec] * len(space.sites),
      counts,
      text_tokens,
      tokens=space.tokens,
    )

  return measure


def kv_measure(
  shape: cost.ModelShape,
  space: space_lib.SearchSpace,
  text_tokens: int,
  *,
  dtype: str = "bfloat16",
) -> objective.Measure:
  """Bytes of the key-value cache after a prefill, of one sequence.

  Args:
    shape: sizes of the model.
    space: the search space.
    text_tokens: all other tokens of the sequence.
    dtype: of the cache.

  Returns:
    A measure in bytes.
  """
  _check(shape, space)

  def measure(counts: expected.Counts) -> Any:
    layers = expected.layer_counts(counts, space)
    return cost.kv_cache_bytes(shape, layers, text_tokens, dtype=dtype)

  return measure


def latency_measure(
  table: cost.LatencyTable,
  space: space_lib.SearchSpace,
  text_tokens: int,
  *,
  batch: int,
  shape: cost.ModelShape | None = None,
) -> objective.Measure:
  """Time of a prefill by a measured table.

  Args:
    table: the measured times.
    space: the search space.
    text_tokens: all other tokens of the sequence.
    batch: sequences at once, one that was measured.
    shape: sizes of the model, where the table has times of encoder blocks.

  Returns:
    A measure in seconds. Outside of the measured counts it goes on along a
    line, so that its gradient does not vanish.
  """
  table.row(batch)  # refuses a batch that was not measured, now
  if table.vision_rows.size:
    if shape is None:
      raise ValueError(
        "shape is None, but the latency table has times of encoder blocks: give"
        " the ModelShape, which says how many there are"
      )
    _check(shape, space)

  def measure(counts: expected.Counts) -> Any:
    rows = None
    if table.vision_rows.size:
      rows = vision_rows(counts, space, shape)
    layers = expected.layer_counts(counts, space)
    return cost.latency(table, layers, text_tokens, rows, batch=batch)

  return measure


def roofline_measure(
  device: cost.Device,
  shape: cost.ModelShape,
  space: space_lib.SearchSpace,
  text_tokens: int,
  *,
  batch: int = 1,
  dtype: str = "bfloat16",
) -> objective.Measure:
  """Least time of a prefill on a device, operators at the peak rate included.

  Layers that are bound by their weights pass hardly any gradient: where a batch
  is too small to be bound by arithmetic, fewer tokens save next to no time.

  Args:
    device: the chip.
    shape: sizes of the model.
    space: the search space.
    text_tokens: all other tokens of the sequence.
    batch: sequences at once.
    dtype: of weights and activations.

  Returns:
    A measure in seconds.
  """
  _check(shape, space)
  device.peak(dtype)  # refuses an unknown dtype, now

  def measure(counts: expected.Counts) -> Any:
    operators = cost.operators_flops(
      shape,
      space.sites,
      [space.spec] * len(space.sites),
      counts,
      text_tokens,
      tokens=space.tokens,
    )
    return cost.prefill_seconds(
      device,
      shape,
      expected.layer_counts(counts, space),
      text_tokens,
      vision_rows(counts, space, shape),
      batch=batch,
      dtype=dtype,
      operator_flops=operators,
    )

  return measure


def vision_rows(
  counts: expected.Counts,
  space: space_lib.SearchSpace,
  shape: cost.ModelShape,
) -> list[int] | Float[Array, "E"]:
  """Rows that leave each encoder block, class tokens included."""
  blocks = [ops.site_index(site) for site in space.sites]
  blocks = [index for kind, index in blocks if kind == "vision"]
  reached = np.searchsorted(blocks, np.arange(shape.vision_layers), "right")
  if isinstance(counts, jax.Array):
    full = jnp.full(1, space.tokens, counts.dtype)
    return jnp.concatenate([full, counts])[reached] + shape.class_tokens
  edges = (space.tokens, *counts)
  return [edges[index] + shape.class_tokens for index in reached]


def _check(shape, space):
  """Refuses a shape that is not that of the model that is searched."""
  faults = []
  for name, ours, theirs in (
    ("layers", space.layers, shape.layers),
    ("tokens", space.tokens, shape.visual_tokens),
  ):
    if ours != theirs:
      faults.append(f"{name} is {ours} in the space and {theirs} in the shape")
  if faults:
    raise ValueError(
      "the search space and the ModelShape are of different models: "
      + "; ".join(faults)
    )
