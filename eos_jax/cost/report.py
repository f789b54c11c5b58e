"""A budget said in the four ways that comparisons need, always together."""

import dataclasses

from eos_jax.cost import budget, flops, kv_cache, operators
from eos_jax.ops import plan as plan_lib


@dataclasses.dataclass(frozen=True)
class Budget:
  """What a plan costs for one picture and prompt.

  Attributes:
    name: of the plan, "dense" without one.
    tokens: visual tokens of an unreduced picture.
    sites: pairs of a site's name and the tokens that it leaves.
    layer_average: visual tokens, mean over decoder layers as executed.
    model_flops: of a prefill, pixels to first answer token.
    operator_flops: of the operators on top of it.
    kv_bytes: key-value cache after the prefill.
    dtype: of the cache.
    text_tokens: all other tokens of the sequence.
  """

  name: str
  tokens: int
  sites: tuple[tuple[str, int], ...]
  layer_average: float
  model_flops: int
  operator_flops: int
  kv_bytes: int
  dtype: str
  text_tokens: int

  @property
  def final(self) -> int:
    """Visual tokens after the last site."""
    return self.sites[-1][1] if self.sites else self.tokens

  @property
  def total_flops(self) -> int:
    """Model and operators together."""
    return self.model_flops + self.operator_flops

  def __str__(self) -> str:
    """One line, numbers to three digits."""
    sites = ", ".join(f"{keep} after {site}" for site, keep in self.sites)
    share = self.operator_flops / self.model_flops
    return (
      f"{self.name}: {sites or 'all kept'} of {self.tokens} visual tokens;"
      f" layer average {self.layer_average:.4g};"
      f" {_scaled(self.model_flops, 1000, _SI)}FLOPs + operators"
      f" {_scaled(self.operator_flops, 1000, _SI)}FLOPs ({share:.2%});"
      f" KV cache {_scaled(self.kv_bytes, 1024, _BINARY)}B ({self.dtype});"
      f" {self.text_tokens} text tokens"
    )


_SI = ("", "k", "M", "G", "T", "P")
_BINARY = ("", "Ki", "Mi", "Gi", "Ti")


def _scaled(value, step, prefixes):
  """A number to three digits and the prefix of its unit."""
  index = 0
  while index < len(prefixes) - 1 and float(f"{value:.3g}") >= step:
    value, index = value / step, index + 1
  return f"{value:.3g} {prefixes[index]}"


def budget_of(
  plan: plan_lib.ReductionPlan | None,
  shape: flops.ModelShape,
  *,
  text_tokens: int,
  dtype: str = "bfloat16",
) -> Budget:
  """The budget of a plan, or of the dense model for None.

  Args:
    plan: made for a model of this shape.
    shape: sizes of the model.
    text_tokens: all other tokens of the sequence, prompt and prefix.
    dtype: of the key-value cache.

  Returns:
    Exact integers, except for the average. Not differentiable; for searches
    see `eos_jax.search.measures`.

  Raises:
    ValueError: the plan is for another number of layers or tokens.

  >>> from eos_jax.ops import presets
  >>> shape = flops.ModelShape(0, 1, 1, 1, 0, 11, 0, layers=2, width=8, heads=2,
  ...                          kv_heads=1, head_dim=4, mlp=3, vocab=5)
  >>> site = plan_lib.PlannedSite("decoder.1", 5, presets.FASTV)
  >>> plan = plan_lib.ReductionPlan("fastv", "tiny", 10, 2, (site,))
  >>> print(budget_of(plan, shape, text_tokens=6))
  fastv: 5 after decoder.1 of 10 visual tokens; layer average 7.5; 26.6 kFLOPs
    + operators 384 FLOPs (1.45%); KV cache 432 B (bfloat16); 6 text tokens
  """
  tokens = shape.visual_tokens
  if plan is None:
    counts, rows, operator = (tokens,) * shape.layers, None, 0
  else:
    faults = [
      f"{name} is {got} in the plan and {expected} in the model"
      for name, got, expected in (
        ("layers", plan.layers, shape.layers),
        ("tokens", plan.tokens, tokens),
      )
      if got != expected
    ]
    if faults:
      raise ValueError(
        f"plan {plan.name!r} does not fit the model: {'; '.join(faults)}; use"
        f" the shape of {plan.model!r}"
      )
    counts = budget.layer_counts(plan)
    rows = budget.vision_row_counts(plan, shape)
    operator = operators.plan_operator_flops(shape, plan, text_tokens)
  return Budget(
    name="dense" if plan is None else plan.name,
    tokens=tokens,
    sites=tuple((s.site, s.keep) for s in plan.sites) if plan else (),
    layer_average=budget.layer_average(counts),
    model_flops=flops.prefill_flops(shape, counts, text_tokens, rows),
    operator_flops=operator,
    kv_bytes=kv_cache.kv_cache_bytes(shape, counts, text_tokens, dtype=dtype),
    dtype=dtype,
    text_tokens=text_tokens,
  )
