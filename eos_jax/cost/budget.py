"""Visual tokens per layer, and plans that meet a budget.

The budget of a plan is its layer average: the mean over decoder layers of the
visual tokens that enter a layer, layers counted as executed (a reduction
before layer l shortens layers l .. L-1).
"""

import math

import jax
import jax.numpy as jnp

from eos_jax.array_typing import Array, Float
from eos_jax.cost import flops
from eos_jax.ops import count, needs, pairs, presets, types
from eos_jax.ops import plan as plan_lib


class UnreachableBudget(ValueError):
  """No plan of an operator meets a budget.

  Attributes:
    smallest: smallest layer average (or other measure) that can be reached.
    why: what stands in the way, in words.
  """

  def __init__(
    self, smallest: float, why: str, *, measure: str = "layer average"
  ):
    super().__init__(f"smallest reachable {measure} is {smallest:g}: {why}")
    self.smallest = smallest
    self.why = why


def layer_counts(plan: plan_lib.ReductionPlan) -> tuple[int, ...]:
  """Visual tokens entering each decoder layer under a plan, [L] integers.

  >>> from eos_jax.ops import presets
  >>> site = plan_lib.PlannedSite("decoder.1", 16, presets.PRUNE)
  >>> layer_counts(plan_lib.ReductionPlan("p", "tiny", 144, 3, (site,)))
  (144, 16, 16)
  """
  counts, kept = [], plan.tokens
  for planned in plan.sites:
    kind, layer = plan_lib.site_index(planned.site)
    if kind == "decoder":
      counts += [kept] * (layer - len(counts))
    kept = planned.keep
  return tuple(counts + [kept] * (plan.layers - len(counts)))


def vision_row_counts(
  plan: plan_lib.ReductionPlan, shape: flops.ModelShape
) -> tuple[int, ...]:
  """Rows leaving each encoder block under a plan, class tokens included."""
  rows = [shape.vision_tokens] * shape.vision_layers
  for planned in plan.sites:
    kind, layer = plan_lib.site_index(planned.site)
    if kind == "vision":
      kept = planned.keep + shape.class_tokens
      rows[layer:] = [kept] * (len(rows) - layer)
  return tuple(rows)


def layer_average(counts: flops.Counts) -> float | Float[Array, ""]:
  """Mean of the visual tokens that enter each decoder layer, [L].

  Exact for integers; differentiable for arrays.

  >>> layer_average((144, 16, 16, 16))
  48.0
  """
  if isinstance(counts, jax.Array):
    return jnp.mean(counts)
  return sum(counts) / len(counts)


def plan_average(plan: plan_lib.ReductionPlan) -> float:
  """The layer average of a plan, a number for messages and tables."""
  return float(layer_average(layer_counts(plan)))


def final_count(counts: flops.Counts) -> int | Float[Array, ""]:
  """Visual tokens entering the last decoder layer, of counts [L].

  >>> final_count((144, 16, 16, 16))
  16
  """
  return counts[-1]


def budget_plan(
  spec: types.OperatorSpec,
  *,
  limit: float,
  tokens: int,
  layers: int,
  vision_layers: int,
  model: str,
  placement: presets.Placement | None = None,
) -> plan_lib.ReductionPlan:
  """Returns the plan by which an operator meets a layer average.

  The operator acts at the relative depth of its placement, with as many tokens
  as the limit allows. Where even one token would be too much there, it moves to
  the latest decoder layer at which the limit can be met, and the note says
  "moved". A vision operator spreads its reduction evenly over the blocks of its
  placement, merging at most half of the tokens in each where it matches pairs;
  the decoder then sees the final count in every layer.

  Args:
    spec: the operator.
    limit: greatest layer average, in visual tokens.
    tokens: visual tokens of an unreduced image.
    layers: decoder layers.
    vision_layers: encoder blocks that have a site; where there are none, a
      vision operator moves to the decoder and acts once.
    model: name of the model, copied into the plan.
    placement: where the operator acts; None = where the preset of its name
      does, and at the decoder input where there is no such preset.

  Returns:
    A plan whose layer average is at most `limit`, as near to it as the
    operator's integers allow.

  Raises:
    UnreachableBudget: the operator cannot meet the limit at any site.

  >>> from eos_jax.ops import presets
  >>> plan = budget_plan(presets.PRUNE, limit=16, tokens=144, layers=6,
  ...                    vision_layers=4, model="tiny")
  >>> [(site.site, site.keep) for site in plan.sites]
  [('decoder.0', 16)]
  """
  if not 0 < limit < math.inf:
    raise ValueError(f"limit is {limit}, use a finite number of tokens > 0")
  place, note = placement or presets.placement_of(spec), ""
  if spec.select in _FIXED:
    spec, keep = _with_stride(spec, limit, tokens)
    where = place.site if vision_layers else "decoder"
    kept, note = [(f"{where}.0", keep)], "" if where == place.site else "moved"
  elif place.site == "vision" and vision_layers:
    kept = _vision_sites(spec, place, limit, tokens, vision_layers)
  elif place.site == "vision":
    first = presets.Placement()
    kept, note = _decoder_sites(spec, first, limit, tokens, layers)[0], "moved"
  elif len(place.layers) > 1:
    kept, note = _scheduled_sites(spec, place, limit, tokens, layers)
  else:
    kept, note = _decoder_sites(spec, place, limit, tokens, layers)
  sites, before = [], tokens
  for site, keep in kept:
    sites.append(plan_lib.PlannedSite(site, keep, _at(spec, keep, before)))
    before = keep
  sites = tuple(sites)
  return plan_lib.ReductionPlan(
    name=f"{spec.name}@{limit:g}",
    model=model,
    tokens=tokens,
    layers=layers,
    sites=sites,
    note=note,
  )


def _least(spec: types.OperatorSpec, tokens: int) -> int:
  """Fewest tokens that one step of an operator leaves."""
  if spec.select in ("bipartite", "bipartite_distilled"):
    return pairs.bipartite_minimum(tokens)
  return 1


# Kernels whose stride fixes the count; `blocks` on a square grid.
_FIXED = {
  "kth": lambda tokens, stride: tokens // stride,
  "blocks": lambda tokens, stride: (math.isqrt(tokens) // stride) ** 2,
}


def _with_stride(spec, limit, tokens):
  """The operator with the smallest stride that meets the limit, and its count.

  It acts once, at its first place.
  """
  rule = _FIXED[spec.select]
  for stride in range(2, tokens + 1):
    keep = rule(tokens, stride)
    if 1 <= keep <= limit:
      return spec.replace(stride=stride), keep
  raise UnreachableBudget(1, f"{spec.name!r} leaves at least one token")


def _at(spec, keep, before):
  """The operator at a site; clusters share its count with what is kept."""
  if spec.diversity != "density":
    return spec
  alone = count.kept_beside_clusters(keep, tokens=before, recycle=spec.recycle)
  return spec.replace(kappa=alone / keep)


def _scheduled_sites(spec, place, limit, tokens, layers):
  """Sites of an operator at several layers, and the note of the plan.

  Its published shares are scaled together until the limit is met; where even
  one token is too much, all sites move to earlier layers together.
  """
  if not place.schedule:
    raise ValueError(
      f"operator {spec.name!r} acts at decoder layers {place.layers}: a budget"
      " alone does not say how they share it, give the placement a schedule or"
      " write the ReductionPlan"
    )
  first = int(needs.reads_previous(spec))
  places = [round(at / place.depth * layers) for at in place.layers]

  def counts(scale, shift):
    """Count by layer; of sites that fall together the last one stays."""
    kept, now = {}, tokens
    for layer, share in zip(places, place.schedule, strict=True):
      layer = min(max(layer - shift, first), layers - 1)
      now = min(max(math.floor(scale * share * tokens + 1e-9), 1), now)
      kept[layer] = now
    return kept

  def average(kept):
    rows = [tokens] * layers
    for layer, number in kept.items():
      rows[layer:] = [number] * (layers - layer)
    return sum(rows) / layers

  for shift in range(max(places[0] - first, 0) + 1):
    if average(counts(0.0, shift)) > limit + 1e-9:
      continue
    low, high = 0.0, 1 / min(place.schedule)
    for _ in range(60):  # bisection; the average never falls with the scale
      middle = (low + high) / 2
      over = average(counts(middle, shift)) > limit + 1e-9
      low, high = (low, middle) if over else (middle, high)
    kept = [(f"decoder.{n}", k) for n, k in sorted(counts(low, shift).items())]
    return kept, "moved" if shift else ""
  raise UnreachableBudget(
    average(counts(0.0, max(places[0] - first, 0))),
    f"{spec.name!r} acts at decoder layer {first} at the earliest",
  )


def _decoder_sites(spec, place, limit, tokens, layers):
  """The one site of a decoder operator, and the note of the plan."""
  first = int(needs.reads_previous(spec))
  least = _least(spec, tokens)
  published = round(place.layers[0] / place.depth * layers)
  published = min(max(published, first), layers - 1)
  if first >= layers:
    raise UnreachableBudget(tokens, f"{spec.name!r} needs a second layer")
  for layer in [published, *reversed(range(first, layers))]:
    # The margin only absorbs the rounding of a fractional limit.
    room = (limit * layers - layer * tokens) / (layers - layer) + 1e-9
    keep = min(math.floor(room), tokens)
    if keep >= least:
      note = "" if layer == published else "moved"
      return [(f"decoder.{layer}", keep)], note
  smallest = (first * tokens + (layers - first) * least) / layers
  why = f"{spec.name!r} acts at decoder layer {first} at the earliest"
  if least > 1:
    why += f" and leaves at least {least} of {tokens} tokens there"
  raise UnreachableBudget(smallest, why)


def _vision_sites(spec, place, limit, tokens, vision_layers):
  """Sites of a vision operator: equal steps down to the limit."""
  target = min(math.floor(limit + 1e-9), tokens)
  blocks = sorted(
    {
      min(round(layer / place.depth * vision_layers), vision_layers - 1)
      for layer in place.layers
    }
  )
  smallest = tokens
  for _ in blocks:
    smallest = _least(spec, smallest)
  if target < smallest:
    raise UnreachableBudget(
      smallest,
      f"{len(blocks)} vision blocks of {spec.name!r} leave at least {smallest} "
      f"of {tokens} tokens",
    )

  def counts(step: int) -> list[int]:
    kept, now = [], tokens
    for _ in blocks:
      now = max(now - step, _least(spec, now), target)
      kept.append(now)
    return kept

  # The smallest equal step that arrives; the last blocks take what is left.
  step = next(r for r in range(tokens + 1) if counts(r)[-1] == target)
  return [(f"vision.{b}", k) for b, k in zip(blocks, counts(step), strict=True)]
