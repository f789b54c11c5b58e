"""Whether the operators of a plan can run at all, without running them.

A `ReductionPlan` is checked field by field when it is made. What its operators
make of one another's counts is only known from their shapes.
"""

import functools

import jax
import jax.numpy as jnp

from eos_jax.ops import needs, operator, plan, types

# Width of features, and rows of text and pivots; they decide nothing.
_WIDTH, _ROWS = 4, 2
_TWO_AXES = ("keys", "states", "vision_keys")


def run_faults(
  tried: plan.ReductionPlan, *, grid: tuple[int, int], protect: int = 0
) -> list[str]:
  """Why sites of a plan cannot run, in words; by shapes alone.

  Args:
    tried: the plan.
    grid: rows and columns of the raster of the visual tokens.
    protect: class tokens in front of the tokens of vision sites.

  >>> from eos_jax.ops import presets
  >>> site = plan.PlannedSite("decoder.0", 3, presets.TOME)
  >>> run_faults(plan.ReductionPlan("p", "m", 16, 2, (site,)), grid=(4, 4))
  ["site 'decoder.0': keep is 3, but one bipartite step of operator 'tome'
    leaves at least 8 of 16 tokens: spread the reduction over more sites"]
  """
  faults, before = [], tried.tokens
  for planned in tried.sites:
    kind, _ = plan.site_index(planned.site)
    fixed = protect if kind == "vision" else 0
    spec = planned.spec.replace(protect=fixed)
    if fault := _fault(spec, before + fixed, planned.keep + fixed, grid):
      faults.append(f"site {planned.site!r}: {fault}")
    before = planned.keep
  return faults


@functools.lru_cache(maxsize=1024)
def _fault(spec, rows, keep, grid):
  """Why an operator cannot reduce so many rows to `keep`; "" = it can."""
  shape = lambda *sizes: jax.ShapeDtypeStruct(sizes, jnp.float32)
  read = needs.required_signals(spec)
  lengths = {"text": (_ROWS, _WIDTH), "pivots": (_ROWS, _WIDTH)}
  lengths |= {name: (rows, _WIDTH) for name in _TWO_AXES}
  signals = types.Signals(
    **{n: shape(*lengths.get(n, (rows,))) for n in read if n != "grid"},
    grid=grid if "grid" in read or spec.omega[1] else None,
  )

  def reduce(x, signals):
    reduced = operator.reduce_hard(
      types.token_set(x), signals, spec.params(), spec=spec, keep=keep
    )
    return jax.tree.leaves(reduced)

  try:
    jax.eval_shape(reduce, shape(rows, _WIDTH), signals)
  except ValueError as error:
    return str(error)
  return ""
