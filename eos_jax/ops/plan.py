"""A reduction plan: which operator keeps how many tokens at which site.

The only thing that passes from a search to evaluation and deployment.
"""

from collections.abc import Iterator, Mapping
import dataclasses
import hashlib
import itertools
import json
import math
import re
from typing import Any

from eos_jax import naming
from eos_jax.naming import quoted
from eos_jax.ops import needs, plan_file, types

SITE = re.compile(r"(vision|decoder)\.(0|[1-9][0-9]{0,3})")
# Blocks that a vision encoder may have; published ones have at most 48.
MOST_BLOCKS = 64

# Numbers within these bounds cannot overflow float32 in one operator; what the
# sites of a plan multiply features by is bounded too.
MOST_NUMBER = 1e4
MOST_GROWTH = 16  # a logarithm to base 10
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
    tokens: visual tokens that an unreduced image has.
    layers: number of decoder layers.
    sites: the reductions in the order in which they run; counts never rise.
    note: e.g. "moved" where a preset had to leave its published layer.
    provenance: where the plan comes from, plain values by name, such as the
      seed, the versions and the score of a search. Plans that differ in it
      alone are equal.
  """

  name: str
  model: str
  tokens: int
  layers: int
  sites: tuple[PlannedSite, ...] = ()
  note: str = ""
  provenance: Mapping[str, Any] = dataclasses.field(
    default_factory=dict, compare=False
  )

  def __post_init__(self):
    own = {str(name): value for name, value in self.provenance.items()}
    object.__setattr__(self, "provenance", own)
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

  @property
  def digest(self) -> str:
    """SHA-256 of all that a result depends on; the provenance is left out."""
    values = dataclasses.asdict(self)
    del values["provenance"]
    text = json.dumps(values, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()

  def to_json(self) -> str:
    """Returns the plan as JSON: every choice and number, each written once."""
    return plan_file.dumps(self)

  @classmethod
  def from_json(cls, text: str | bytes) -> "ReductionPlan":
    """Reads a plan that `to_json` wrote, or one of format /1.

    Args:
      text: the JSON; bytes have to be UTF-8.

    Raises:
      ValueError: it is no plan, or the plan is not valid.
    """
    fields = plan_file.loads(text)
    sites = (
      PlannedSite(site, keep, types.OperatorSpec(**operator))
      for site, keep, operator in fields.pop("sites")
    )
    return cls(sites=tuple(sites), **fields)


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
  if not 1 <= plan.layers <= plan_file.MOST_LAYERS:
    faults.append(
      f"layers is {plan.layers}, use a count >= 1 and <="
      f" {plan_file.MOST_LAYERS}"
    )
  faults += _provenance_faults(plan.provenance)
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


def _provenance_faults(provenance: Mapping[str, Any]) -> Iterator[str]:
  """Entries that are no names and plain values, or too many of them."""
  most, longest = plan_file.MOST_ITEMS, plan_file.MOST_TEXT
  if len(provenance) > most:
    yield f"provenance has {len(provenance)} entries, use at most {most}"
  for name, value in itertools.islice(provenance.items(), most):
    for text in (name, value if isinstance(value, str) else ""):
      if not text.isprintable() or len(text) > longest:
        yield (
          f"provenance has {quoted(text)}, use at most {longest} printable"
          " characters"
        )
    plain = value is None or isinstance(value, (str, int, float))
    if not plain or value in (math.inf, -math.inf) or value != value:
      yield (
        f"provenance[{quoted(name)}] is {quoted(value)}, use a text, a finite"
        " number, true, false or null"
      )


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
