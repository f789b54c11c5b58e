"""Latency by a measured table of layer times.

FLOPs are a poor guide to time where a device is not bound by arithmetic; a
table of times measured on the device itself replaces the model of it. Between
measured token counts time is linear, so that a search can follow its slope.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from eos_jax.array_typing import Array, Float, Scalar
from eos_jax.cost import flops
from eos_jax.ops import types

FORMAT = "eos_jax.LatencyTable/1"

# Lists are welcome; a table holds arrays.
Numbers = np.ndarray | Sequence[Any]

_TEXTS = ("model", "device", "dtype", "jax_version")
# Axes of each array; a name that is itself an array's gives its length.
_AXES = {
  "tokens": ("tokens",),
  "batches": ("batches",),
  "seconds": ("batches", "tokens"),
  "overhead": ("batches",),
  "vision_rows": ("vision_rows",),
  "vision_seconds": ("batches", "vision_rows"),
}
_COUNTS = {"tokens": 2, "batches": 1, "vision_rows": 0}  # and least lengths


@dataclasses.dataclass(frozen=True, eq=False)
class LatencyTable:
  """Measured times of one model on one device.

  Compared by identity, so that a table can be a static argument of `jit`.

  Attributes:
    model, device, dtype, jax_version: what was measured, on what, with what.
    tokens: [n] rows of the sequence, visual and text, rising.
    batches: [m] sequences at once, rising.
    seconds: [m, n] time of one decoder layer in a prefill.
    overhead: [m] time of everything in a prefill that does not depend on the
      tokens kept: preprocessing, projector, embedding, head, and the encoder
      where it has no times of its own.
    vision_rows: [e] rows of an encoder block, rising, the last as many as an
      unreduced encoder has; empty where the encoder is part of the overhead, as
      in models that do not reduce in it.
    vision_seconds: [m, e] time of one encoder block.
  """

  model: str
  device: str
  dtype: str
  jax_version: str
  tokens: Numbers
  batches: Numbers
  seconds: Numbers
  overhead: Numbers
  vision_rows: Numbers
  vision_seconds: Numbers

  def __post_init__(self):
    faults, arrays = _check({n: getattr(self, n) for n in (*_TEXTS, *_AXES)})
    if faults:
      raise ValueError(_message(faults))
    for name, array in arrays.items():
      array.setflags(write=False)
      object.__setattr__(self, name, array)

  def row(self, batch: int) -> int:
    """Index of a batch size; ValueError for one that was not measured."""
    found = np.flatnonzero(self.batches == batch)
    if not found.size:
      raise ValueError(
        f"batch is {batch}, but the latency table of {self.model!r} on"
        f" {self.device!r} has {self.batches.tolist()}: use one of these, or"
        " measure it too"
      )
    return int(found[0])

  def to_json(self) -> str:
    """The table as JSON."""
    values = {n: getattr(self, n) for n in _TEXTS}
    values |= {n: getattr(self, n).tolist() for n in _AXES}
    return json.dumps({"format": FORMAT, **values}, indent=2) + "\n"

  @classmethod
  def from_json(cls, text: str) -> "LatencyTable":
    """Reads what `to_json` wrote.

    Raises:
      ValueError: anything else; every fault is listed.
    """
    try:
      data = json.loads(text)
    except json.JSONDecodeError as error:
      raise ValueError(_message([f"the text is no JSON ({error})"])) from error
    if not isinstance(data, dict):
      fault = f"the file holds a {type(data).__name__}, expected an object"
      raise ValueError(_message([fault]))
    faults = []
    if data.get("format") != FORMAT:
      faults.append(f"format is {data.get('format')!r}, expected {FORMAT!r}")
    fields = (*_TEXTS, *_AXES)
    faults += [f"{n} is missing" for n in fields if n not in data]
    faults += [
      f"{name} is no field, expected only {['format', *fields]}"
      for name in data
      if name not in ("format", *fields)
    ]
    faults += _check({n: data[n] for n in fields if n in data})[0]
    if faults:
      raise ValueError(_message(faults))
    return cls(**{name: data[name] for name in fields})


def _message(faults):
  return (
    "LatencyTable is not valid:\n  "
    + "\n  ".join(faults)
    + f"\nWrite tables with LatencyTable.to_json (format {FORMAT!r}), or"
    " measure again."
  )


def _check(
  values: Mapping[str, Any],
) -> tuple[list[str], dict[str, np.ndarray]]:
  """What is wrong with the fields that are there, and the good arrays."""
  faults, arrays = [], {}
  for name in _TEXTS:
    if name in values and not (isinstance(values[name], str) and values[name]):
      faults.append(f"{name} is {values[name]!r}, expected a text")
  for name in _AXES:
    if name not in values:
      continue
    fault, array = _array(name, values[name])
    if fault:
      faults.append(fault)
    else:
      arrays[name] = array
  for name, axes in _AXES.items():
    if name in arrays and all(axis in arrays for axis in axes):
      expected = tuple(arrays[axis].size for axis in axes)
      if arrays[name].shape != expected:
        faults.append(
          f"{name} has shape {arrays[name].shape}, expected {expected} for"
          f" axes {axes}"
        )
  return faults, arrays


def _array(name, value):
  """A fault in the values of a field, or "", and the field as an array."""
  rank = len(_AXES[name])
  try:
    array = np.array(value)
  except ValueError:  # ragged
    return f"{name} has rows of unequal length, expected a rectangle", None
  if not array.size:
    array = array.astype(np.float64)
  if array.ndim != rank or array.dtype.kind not in "iuf":
    return f"{name} is {_short(value)}, expected numbers in {rank} axes", None
  if not np.isfinite(array).all():
    place = np.argwhere(~np.isfinite(array))[0].tolist()
    return f"{name}{place} is {array[tuple(place)]}, expected a number", None
  if name not in _COUNTS:
    if (array < 0).any():
      place = np.argwhere(array < 0)[0].tolist()
      return (
        f"{name}{place} is {array[tuple(place)]}, expected seconds >= 0",
        None,
      )
    return "", array.astype(np.float64)
  if (array != np.floor(array)).any() or (array < 1).any():
    return f"{name} is {_short(value)}, expected integers >= 1", None
  if array.size < _COUNTS[name]:
    return f"{name} has {array.size} counts, expected >= {_COUNTS[name]}", None
  if name == "vision_rows" and array.size == 1:
    return f"{name} has 1 count, expected none or at least 2", None
  if (np.diff(array) <= 0).any():
    return f"{name} is {_short(value)}, expected rising counts", None
  return "", array.astype(np.int64)


def _short(value):
  text = repr(value.tolist() if isinstance(value, np.ndarray) else value)
  return text if len(text) < 60 else text[:57] + "..."


def layer_seconds(
  table: LatencyTable, counts: flops.Counts, *, batch: int
) -> list[float] | Float[Array, "L"]:
  """Time of a decoder layer at given sequence lengths, seconds.

  Linear between measured counts. An array may leave the measured range, where
  the line through the last two counts goes on, so that a search outside of it
  still feels its way back; integers may not.

  Args:
    table: the measured times.
    counts: [L] rows of the sequence in each layer, visual and text.
    batch: sequences at once, one that was measured.

  Returns:
    [L] seconds: floats for integers; float32 and differentiable in the counts
    for arrays, with the slope to the right at a measured count.

  Raises:
    ValueError: an integer outside of the measured counts, or another batch.

  >>> table = LatencyTable("tiny", "cpu", "float32", "0.10", tokens=[64, 128],
  ...   batches=[1], seconds=[[1e-3, 2e-3]], overhead=[5e-3], vision_rows=[],
  ...   vision_seconds=[[]])
  >>> layer_seconds(table, [64, 96], batch=1)
  [0.001, 0.0015]
  """
  row = table.row(batch)
  return _interpolated(table, "tokens", counts, table.seconds[row])


def _interpolated(table, name, counts, seconds):
  measured = getattr(table, name)
  if isinstance(counts, jax.Array):
    return jnp.interp(
      types.working(counts),
      jnp.asarray(measured, jnp.float32),
      jnp.asarray(seconds, jnp.float32),
      left="extrapolate",
      right="extrapolate",
    )
  outside = [n for n in counts if not measured[0] <= n <= measured[-1]]
  if outside:
    raise ValueError(
      f"{outside[0]} {name} lie outside of the latency table of"
      f" {table.model!r} on {table.device!r}, which was measured from"
      f" {measured[0]} to {measured[-1]}: measure more {name}, or ask for fewer"
    )
  return np.interp(np.asarray(counts, float), measured, seconds).tolist()


def latency(
  table: LatencyTable,
  visual_counts: flops.Counts,
  text_tokens: Scalar,
  vision_counts: flops.VisionCounts | None = None,
  *,
  batch: int,
) -> float | Float[Array, ""]:
  """Time of a prefill: overhead, decoder layers and encoder blocks, seconds.

  A reducing encoder block is between the times of the rows that enter and
  leave it; the mean of the two is taken.

  Args:
    table: the measured times.
    visual_counts: [L] visual tokens entering each decoder layer.
    text_tokens: [] all other tokens of the sequence.
    vision_counts: [E] rows leaving each encoder block, where the table has
      times of its blocks.
    batch: sequences at once, one that was measured.

  Returns:
    [] seconds: a float for integer counts; float32 and differentiable for
    arrays.

  >>> table = LatencyTable("tiny", "cpu", "float32", "0.10", tokens=[64, 128],
  ...   batches=[1], seconds=[[1e-3, 2e-3]], overhead=[5e-3], vision_rows=[],
  ...   vision_seconds=[[]])
  >>> latency(table, [80, 48], 16, batch=1)
  0.0075
  """
  row = table.row(batch)
  lengths = flops.with_text(visual_counts, text_tokens)
  total = _sum(layer_seconds(table, lengths, batch=batch))
  total += float(table.overhead[row])
  if bool(table.vision_rows.size) != (vision_counts is not None):
    has = "has" if table.vision_rows.size else "has no"
    raise ValueError(
      f"the latency table of {table.model!r} {has} times of encoder blocks:"
      " give vision_counts where it has them, and only there"
    )
  if vision_counts is not None:
    times = table.vision_seconds[row]
    after = _interpolated(table, "vision_rows", vision_counts, times)
    # What leaves a block enters the next one: only the ends count half.
    total += _sum(after) + 0.5 * (float(times[-1]) - after[-1])
  return total


def _sum(values):
  return jnp.sum(values) if isinstance(values, jax.Array) else sum(values)
