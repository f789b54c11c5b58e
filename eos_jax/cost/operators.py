"""Matmul FLOPs of the operators themselves.

What a reduction costs at its site, on top of the model: projections that are
computed again for a signal, rows of attention towards them, comparisons of
tokens, and the product that moves information. The conventions are those of
`eos_jax.cost.flops`. Two figures are upper bounds: text rows are counted for
all tokens that are not visual, the prefix included; and shares that are mostly
0 count in full, as the dense product that runs. What several signals share, the
keys of the coming layer, is counted once.

Free are signals that a model has anyway: in a vision block the keys and the
class token's row of its attention, the caches of the layer before a decoder
site, the states after a norm. Sorting, softmax and everything else that works
element by element is not counted; the one exception are the Euclidean distances
of clusters, V^2 D differences, squares and sums, which stand in for a product.
A trained scorer (`Signals.learned`) costs what its owner knows.
"""

from collections.abc import Sequence
from typing import Any

import jax

from eos_jax.array_typing import Array, Float, Scalar
from eos_jax.cost import flops
from eos_jax.ops import needs, types
from eos_jax.ops import plan as plan_lib

# Tokens that DART compares all others with: the defaults of
# `ops.signals.dart_pivots`, 4 of the picture and 4 of the text.
_PIVOTS = 8

# Signals that read the keys of the coming decoder layer on all of its rows.
_ROWS_AHEAD = frozenset({"last_row", "text_rows", "received"})

_DISTANCES = frozenset({"density", "clusters"})


def operator_flops(
  shape: flops.ModelShape,
  spec: types.OperatorSpec,
  before: Scalar,
  keep: Scalar,
  text_tokens: Scalar,
  *,
  site: str,
  input_tokens: Scalar | None = None,
) -> int | Float[Array, ""]:
  """FLOPs of one operator at one site, one picture.

  Driven by what the operator reads (`ops.required_signals`) and what its
  stages compute:

  - decoder signals: `last_row`, `text_rows` and `received` project the keys of
    all rows once more with the weights of the coming layer, queries of 1, T or
    all rows, and take their products; `last_row_previous` and `rater_rows` find
    the keys in the cache of the layer before and pay for queries and products;
    `keys` projects the visual rows; raters also compare picture and text.
  - scores of relevance: products with the text.
  - every pair of tokens: V^2 cosines of the width that `spec.affinity` has.
  - transfer: V x K shares times features, source weights and sizes.

  Args:
    shape: sizes of the model.
    spec: the operator.
    before: [] visual tokens that reach the site, class tokens not counted.
    keep: [] visual tokens that leave it, likewise.
    text_tokens: [] all other tokens of the sequence.
    site: "vision.i" or "decoder.l".
    input_tokens: [] visual tokens at the decoder input, which text raters are
      found by; None is `before`.

  Returns:
    [] FLOPs: an int for integer counts, else float32 and differentiable.

  >>> from eos_jax.ops import presets
  >>> shape = flops.ModelShape(0, 1, 1, 1, 0, 1, 0, layers=2, width=8, heads=2,
  ...                          kv_heads=1, head_dim=4, mlp=3, vocab=5)
  >>> operator_flops(shape, presets.FASTV, 10, 5, 6, site="decoder.1")
  384
  >>> operator_flops(shape, presets.MERGE, 10, 5, 6, site="decoder.0")
  2600
  """
  kind, _ = plan_lib.site_index(site)
  if input_tokens is None:
    input_tokens = before
  numbers = [before, keep, text_tokens, input_tokens]
  if any(isinstance(number, jax.Array) for number in numbers):
    # An int next to an array may exceed int32; floats are safe.
    numbers = [
      types.working(number) if isinstance(number, jax.Array) else float(number)
      for number in numbers
    ]
  before, keep, text, input_tokens = numbers
  wanted = frozenset(needs.required_signals(spec))
  width, total = shape.width, 0
  if kind == "vision":
    before, keep = before + shape.class_tokens, keep + shape.class_tokens
    width = shape.vision_width
  else:
    total += _signals(shape, wanted, before, text, input_tokens)
  if "relevance" in spec.scores:
    total += 2 * width * before
  if "relevance_max" in spec.scores:
    total += 2 * width * before * text
  if needs.uses_cosine(spec):
    total += 2 * _affinity_width(shape, kind, spec) * before * before
  if spec.diversity == "pivots":
    total += 2 * width * _PIVOTS * before
  if _DISTANCES & {spec.diversity, spec.assign}:
    total += 3 * width * before * before
  if spec.assign != "none" or spec.fused:
    # Features, the weights that arrive, and sizes where they grow.
    columns = width + 1 + (spec.sizes != "keep")
    total += 2 * columns * before * keep
  return total


def _signals(shape, wanted, visual, text, input_tokens):
  """What a decoder site computes to be read."""
  inner, kv = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
  rows, total = visual + text, 0
  if wanted & _ROWS_AHEAD:
    total += 2 * shape.width * kv * rows
  elif "keys" in wanted:
    total += 2 * shape.width * kv * visual
  queries = {
    "last_row": 1,
    "last_row_previous": 1,
    "text_rows": text,
    "rater_rows": text,
    "received": rows,
  }
  for name, number in queries.items():
    if name in wanted:
      total += 2 * shape.width * inner * number + 2 * inner * number * rows
  # Means over rows are products with the mask of the prompt.
  for name in ("text_rows", "received"):
    if name in wanted:
      total += 2 * queries[name] * visual
  if "rater_rows" in wanted:
    total += 2 * shape.width * input_tokens * text
  return total


def _affinity_width(shape, kind, spec):
  """Features of the rows whose cosines are taken."""
  vision_head = shape.vision_width // shape.vision_heads
  head = vision_head if kind == "vision" else shape.head_dim
  width = shape.vision_width if kind == "vision" else shape.width
  return {"keys": head, "vision_keys": vision_head}.get(spec.affinity, width)


def operators_flops(
  shape: flops.ModelShape,
  sites: Sequence[str],
  specs: Sequence[types.OperatorSpec],
  counts: Any,
  text_tokens: Scalar,
  *,
  tokens: int,
) -> int | Float[Array, ""]:
  """Sum of `operator_flops` over sites, in the order in which they run.

  Args:
    shape: sizes of the model.
    sites: S names.
    specs: S operators.
    counts: [S] visual tokens that leave each site; integers, or an array.
    text_tokens: [] all other tokens of the sequence.
    tokens: visual tokens of an unreduced picture.

  Returns:
    [] FLOPs: an int for integer counts, else float32 and differentiable.
  """
  total, before, input_tokens = 0, tokens, tokens
  for index, (site, spec) in enumerate(zip(sites, specs, strict=True)):
    keep = counts[index]
    total = flops.add(
      total,
      operator_flops(
        shape,
        spec,
        before,
        keep,
        text_tokens,
        site=site,
        input_tokens=input_tokens,
      ),
    )
    before = keep
    if plan_lib.site_index(site)[0] == "vision":
      input_tokens = keep
  return total


def plan_operator_flops(
  shape: flops.ModelShape, plan: plan_lib.ReductionPlan, text_tokens: Scalar
) -> int | Float[Array, ""]:
  """FLOPs of all operators of a plan, one picture; exact for integers.

  Args:
    shape: sizes of the model.
    plan: sites, operators and counts.
    text_tokens: [] all other tokens of the sequence.

  >>> from eos_jax.ops import presets
  >>> shape = flops.ModelShape(0, 1, 1, 1, 0, 1, 0, layers=2, width=8, heads=2,
  ...                          kv_heads=1, head_dim=4, mlp=3, vocab=5)
  >>> site = plan_lib.PlannedSite("decoder.1", 5, presets.FASTV)
  >>> plan = plan_lib.ReductionPlan("p", "tiny", 10, 2, (site,))
  >>> plan_operator_flops(shape, plan, 6)
  384
  """
  return operators_flops(
    shape,
    [planned.site for planned in plan.sites],
    [planned.spec for planned in plan.sites],
    [planned.keep for planned in plan.sites],
    text_tokens,
    tokens=plan.tokens,
  )
