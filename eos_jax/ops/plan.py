"""A reduction plan: which operator keeps how many tokens at which site.

The only thing that passes from a search to evaluation and deployment. Its JSON
spells every number out, so that it means the same after defaults change.
"""

import dataclasses
import json
import re
from typing import Any

from eos_jax.ops import needs, types

SITE = re.compile(r"(vision|decoder)\.(0|[1-9][0-9]*)")
FORMAT = "eos_jax.ReductionPlan/1"
# Blocks that a vision encoder may have; published ones have at most 48.
MOST_BLOCKS = 64


def site_index(site: str) -> tuple[str, int]:
  """Kind and layer of a site name.

  >>> site_index("decoder.3")
  ('decoder', 3)
  """
  match = SITE.fullmatch(site)
  if not match:
    raise ValueError(
      f"site is {site!r}, use 'vision.<block>' or 'decoder.<layer>'"
    )
  return match[1], int(match[2])


@dataclasses.dataclass(frozen=True)
class PlannedSite:
  """One reduction of a plan.

  Attributes:
    site: "vision.<i>" (inside encoder block i, between attention and MLP) or
      "decoder.<i>" (before decoder layer i; 0 is the decoder input).
    keep: visual tokens that stay. Class and distillation tokens of a vision
      encoder are not counted: there a model passes `keep + spec.protect` to
      `reduce_hard`.
    spec: the operator; its numbers are the site's `OperatorParams`.
  """

  site: str
  keep: int
  spec: types.OperatorSpec


@dataclasses.dataclass(frozen=True)
class ReductionPlan:
  """Static reductions of one model, frozen and hashable.

  Attributes:
    name: what the plan is called in tables.
    model: name of the model it is made for.
    tokens: visual tokens that an unreduced picture has.
    layers: number of decoder layers.
    sites: the reductions in the order in which they run; counts never rise.
    note: e.g. "moved" where a preset had to leave its published layer.
  """

  name: str
  model: str
  tokens: int
  layers: int
  sites: tuple[PlannedSite, ...] = ()
  note: str = ""

  def __post_init__(self):
    faults = _faults(self)
    if faults:
      raise ValueError(
        f"ReductionPlan {self.name!r} is not valid: " + "; ".join(faults)
      )

  def at(self, site: str) -> PlannedSite | None:
    """The reduction at a site, None where nothing happens."""
    found = [planned for planned in self.sites if planned.site == site]
    return found[0] if found else None

  def to_json(self) -> str:
    """The plan as JSON, every operator number spelled out."""
    data = dataclasses.asdict(self)
    return json.dumps({"format": FORMAT, **data}, indent=2) + "\n"

  @classmethod
  def from_json(cls, text: str) -> "ReductionPlan":
    """Reads what `to_json` wrote; raises `ValueError` for anything else."""
    try:
      data = json.loads(text)
    except json.JSONDecodeError as error:
      raise ValueError(f"plan is no JSON: {error}") from error
    if not isinstance(data, dict) or data.pop("format", None) != FORMAT:
      raise ValueError(f"plan has no format {FORMAT!r}: is it a plan file?")
    _check_fields(data, cls, "plan")
    sites = data.pop("sites")
    if not isinstance(sites, list):
      raise ValueError("sites of the plan is no list")
    planned = tuple(_planned_site(site) for site in sites)
    return cls(sites=planned, **data)


def _planned_site(data: Any) -> PlannedSite:
  _check_fields(data, PlannedSite, "site")
  spec = data["spec"]
  _check_fields(spec, types.OperatorSpec, f"spec of site {data['site']!r}")
  spec = {k: tuple(v) if isinstance(v, list) else v for k, v in spec.items()}
  return PlannedSite(data["site"], data["keep"], types.OperatorSpec(**spec))


def _check_fields(data: Any, record: type, what: str) -> None:
  """Raises unless the keys are the fields of a record and types are plain."""
  if not isinstance(data, dict):
    raise ValueError(f"{what} is {data!r}, it must be a JSON object")
  fields = {f.name: f for f in dataclasses.fields(record)}
  missing = sorted(set(fields) - set(data))
  unknown = sorted(set(data) - set(fields))
  faults = []
  if missing:
    faults.append(f"lacks {missing}")
  if unknown:
    faults.append(f"has unknown fields {unknown}")
  for name in sorted(set(fields) & set(data)):
    kind, value = fields[name].type, data[name]
    if kind is float and isinstance(value, (int, float)):
      continue
    if kind in (str, int, float) and type(value) is not kind:
      faults.append(f"{name} is {value!r}, it must be {kind.__name__}")
    elif str(kind).startswith("tuple") and not isinstance(value, list):
      faults.append(f"{name} is {value!r}, it must be a list")
  if faults:
    raise ValueError(f"{what} " + "; ".join(faults))


def _faults(plan: ReductionPlan) -> list[str]:
  """Everything that is wrong with a plan, in words."""
  faults = []
  if plan.tokens < 1:
    faults.append(f"tokens is {plan.tokens}, use a count >= 1")
  if plan.layers < 1:
    faults.append(f"layers is {plan.layers}, use a count >= 1")
  before, last = plan.tokens, (0, -1)
  for planned in plan.sites:
    try:
      kind, layer = site_index(planned.site)
    except ValueError as error:
      faults.append(str(error))
      continue
    place = (("vision", "decoder").index(kind), layer)
    if kind == "decoder" and layer >= plan.layers:
      faults.append(
        f"site {planned.site!r} does not exist: the last of {plan.layers} "
        f"layers is decoder.{plan.layers - 1}"
      )
    if kind == "vision" and layer >= MOST_BLOCKS:
      faults.append(
        f"site {planned.site!r} does not exist: vision encoders have at most"
        f" {MOST_BLOCKS} blocks, the last is vision.{MOST_BLOCKS - 1}"
      )
    faults += [
      f"site {planned.site!r}: {fault}"
      for fault in needs.unknown_kernels(planned.spec)
    ]
    if place <= last:
      faults.append(
        f"site {planned.site!r} comes after a later one or twice, list "
        "sites once, in the order in which they run"
      )
    if not isinstance(planned.keep, int) or planned.keep < 1:
      faults.append(
        f"site {planned.site!r} keeps {planned.keep!r}, use an integer >= 1"
      )
    elif planned.keep > plan.tokens:
      faults.append(
        f"site {planned.site!r} keeps {planned.keep} of {plan.tokens} tokens"
      )
    elif planned.keep > before:
      faults.append(
        f"site {planned.site!r} keeps {planned.keep}, more than the {before} "
        "that reach it"
      )
    else:
      before = planned.keep
    last = place
  return faults
