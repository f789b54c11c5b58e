"""A reduction plan: which operator keeps how many tokens at which site.

The only thing that passes from a search to evaluation and deployment. Its JSON
spells every number out, so that it means the same after defaults change.
"""

from collections.abc import Iterator
import dataclasses
import json
import math
import re
import typing
from typing import Any

from eos_jax import naming
from eos_jax.naming import quoted
from eos_jax.ops import needs, types

SITE = re.compile(r"(vision|decoder)\.(0|[1-9][0-9]{0,3})")
FORMAT = "eos_jax.ReductionPlan/1"

# Bounds of what a file may hold. Numbers between them cannot overflow float32
# in one operator; what the sites of a plan multiply features by is bounded too.
MOST_NUMBER = 1e4
MOST_GROWTH = 16  # a logarithm to base 10
MOST_BYTES = 2**20
MOST_COUNT = 2**31 - 1
MOST_LAYERS = 10_000
MOST_ITEMS = 64  # of a list of an operator
MOST_TEXT = 200  # characters, but for `doc` and `note`
_MOST_FLOAT = 3.4e38
# All numbers of an operator but tau, of which pooling is the limit.
BOUNDED = tuple(
  field.name
  for field in dataclasses.fields(types.OperatorParams)
  if field.name != "tau"
)
# Scores that are never negative, so that "raw" weights are none either.
_NOT_NEGATIVE = frozenset(
  {
    "class_guided",
    "class_row",
    "key_norm",
    "last_row",
    "last_row_previous",
    "norm",
    "random",
    "rater_rows",
    "received",
    "text_rows",
  }
)


def site_index(site: str) -> tuple[str, int]:
  """Kind and layer of a site name.

  >>> site_index("decoder.3")
  ('decoder', 3)
  """
  match = SITE.fullmatch(site)
  if not match:
    raise ValueError(
      f"site is {quoted(site)}, use 'vision.<block>' or 'decoder.<layer>'"
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
    name: what the plan is called in tables, and in names of files.
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
        f"ReductionPlan {quoted(self.name)} is not valid: "
        + naming.listed(faults)
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
  def from_json(cls, text: str | bytes) -> "ReductionPlan":
    """Reads what `to_json` wrote; raises `ValueError` for anything else.

    Args:
      text: the JSON; bytes have to be UTF-8.
    """
    data = _parsed(text)
    if not isinstance(data, dict) or data.pop("format", None) != FORMAT:
      raise ValueError(f"plan has no format {FORMAT!r}: is it a plan file?")
    fields = _fields(data, cls, "plan")
    sites = fields.pop("sites")
    if len(sites) > MOST_LAYERS:
      raise ValueError(f"plan has {len(sites)} sites, use each site once")
    return cls(sites=tuple(_planned_site(site) for site in sites), **fields)


def _parsed(text: str | bytes) -> Any:
  """The JSON value of a text; raises `ValueError` for what is none."""
  if len(text) > MOST_BYTES:
    raise ValueError(
      f"plan has more than {MOST_BYTES} bytes: is it a plan file?"
    )
  if isinstance(text, bytes):
    try:
      text = text.decode("utf-8")
    except UnicodeDecodeError as error:
      raise ValueError(
        f"plan is no UTF-8 text (byte {error.start} is"
        f" 0x{text[error.start]:02x}), save it as UTF-8"
      ) from error
  try:
    return json.loads(
      text.removeprefix("\ufeff"), object_pairs_hook=_without_twins
    )
  except RecursionError as error:
    raise ValueError("plan is nested too deeply: is it a plan file?") from error
  except ValueError as error:
    raise ValueError(f"plan is no JSON: {error}") from error


def _without_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
  """A JSON object; raises `ValueError` where it has a name twice."""
  found: dict[str, Any] = {}
  for name, value in pairs:
    if name in found:
      raise ValueError(f"an object has {quoted(name)} twice, keep one of them")
    found[name] = value
  return found


def _planned_site(data: Any) -> PlannedSite:
  site = _fields(data, PlannedSite, "site")
  what = f"spec of site {quoted(site['site'])}"
  spec = types.OperatorSpec(**_fields(site["spec"], types.OperatorSpec, what))
  return PlannedSite(site["site"], site["keep"], spec)


def _fields(data: Any, record: type, what: str) -> dict[str, Any]:
  """The fields of a record; raises `ValueError` for others or other types."""
  if not isinstance(data, dict):
    raise ValueError(f"{what} is {quoted(data)}, it must be a JSON object")
  hints = typing.get_type_hints(record)
  missing = sorted(set(hints) - set(data))
  unknown = sorted(set(data) - set(hints))
  faults = []
  if missing:
    faults.append(f"lacks {missing}")
  if unknown:
    faults.append(f"has unknown fields {quoted(unknown)}")
  found = {}
  for name in sorted(set(hints) & set(data)):
    faults += _type_faults(hints[name], name, data[name])
    if not faults:
      found[name] = _converted(hints[name], data[name])
  if faults:
    raise ValueError(f"{what} {naming.listed(faults)}")
  return found


def _converted(kind: Any, value: Any) -> Any:
  if typing.get_origin(kind) is tuple:
    item = typing.get_args(kind)[0]
    return tuple(_converted(item, one) for one in value)
  return float(value) if kind is float else value


def _type_faults(kind: Any, name: str, value: Any) -> Iterator[str]:
  """What makes a JSON value none of a field's type."""
  if typing.get_origin(kind) is tuple:
    item = typing.get_args(kind)[0]
    if not isinstance(value, list):
      yield f"{name} is {quoted(value)}, it must be a list"
    elif item in (str, int, float):
      if len(value) > MOST_ITEMS:
        yield f"{name} has {len(value)} entries, use at most {MOST_ITEMS}"
        return
      for place, one in enumerate(value):
        yield from _type_faults(item, f"{name}[{place}]", one)
  elif kind is float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
      yield f"{name} is {quoted(value)}, it must be float"
    elif not abs(value) <= _MOST_FLOAT:
      yield (
        f"{name} is {quoted(value)}, use a finite number that float32 can hold"
      )
  elif kind is int:
    if type(value) is not int:
      yield f"{name} is {quoted(value)}, it must be int"
    elif abs(value) > MOST_COUNT:
      yield f"{name} is {quoted(value)}, use at most {MOST_COUNT}"
  elif kind is str:
    if type(value) is not str:
      yield f"{name} is {quoted(value)}, it must be str"
    elif not naming.is_unicode(value):
      yield f"{name} is {quoted(value)}, which is no Unicode text"
    elif name not in ("doc", "note") and len(value) > MOST_TEXT:
      yield f"{name} has {len(value)} characters, use at most {MOST_TEXT}"


def _faults(plan: ReductionPlan) -> list[str]:
  """Everything that is wrong with a plan, in words."""
  faults = []
  if fault := naming.name_fault(plan.name):
    faults.append(f"name is {quoted(plan.name)}, give {fault}")
  for name in ("model", "note"):
    value = getattr(plan, name)
    if not value.isprintable():
      faults.append(f"{name} is {quoted(value)}, use printable characters")
  if plan.tokens < 1:
    faults.append(f"tokens is {plan.tokens}, use a count >= 1")
  if not 1 <= plan.layers <= MOST_LAYERS:
    faults.append(
      f"layers is {plan.layers}, use a count >= 1 and <= {MOST_LAYERS}"
    )
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
    faults += [
      f"site {planned.site!r}: {fault}"
      for fault in (
        *needs.unknown_kernels(planned.spec),
        *_number_faults(planned.spec),
        *_stage_faults(planned.spec),
      )
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
  return [*faults, *_growth_faults(plan)]


def growth(rho: float) -> float:
  """Log10 of the most that an operator multiplies features by."""
  return math.log10(1 + rho)


def _growth_faults(plan: ReductionPlan) -> Iterator[str]:
  """Whether features would overflow after all of the sites."""
  total = sum(growth(site.spec.rho) for site in plan.sites)
  if total > MOST_GROWTH:
    yield (
      f"rho of all sites multiplies features by up to 1e{total:.0f}, use"
      f" numbers that multiply them by at most 1e{MOST_GROWTH}"
    )


def _number_faults(spec: types.OperatorSpec) -> Iterator[str]:
  """Numbers that would overflow in float32."""
  for name in BOUNDED:
    value = getattr(spec, name)
    numbers = value if isinstance(value, tuple) else (value,)
    if max(map(abs, numbers), default=0) > MOST_NUMBER:
      yield f"{name} is {quoted(value)}, use at most {MOST_NUMBER:g}"


def _stage_faults(spec: types.OperatorSpec) -> Iterator[str]:
  """Choices of stages that do not go together.

  Weights among them that may be 0 or negative where they are divided by.
  """
  if spec.assign == "none" and not spec.fused:
    return
  if spec.assign == "clusters" and (
    spec.select != "top_k" or spec.diversity == "none"
  ):
    yield (
      "assign is 'clusters', whose centres are a second share, use it with"
      " select='top_k' and diversity='density'"
    )
  if spec.beta == "raw":
    yield (
      "beta is 'raw', but what is divided by may then be 0, use 'score', 'size'"
      " or 'one'"
    )
  if spec.alpha == "raw" and spec.eta and not _NOT_NEGATIVE >= set(spec.scores):
    signed = sorted(set(spec.scores) - _NOT_NEGATIVE)
    yield (
      f"alpha is 'raw' with eta={spec.eta}, but the scores {signed} may be"
      " negative, use eta=0.0 or other scores"
    )
