"""The JSON of plans, which people may read and edit.

A file has every choice and number of its operators: those that all sites share
in "operator", the others at the sites. No value is left to a default, so a plan
means the same after defaults change.
"""

from collections.abc import Collection, Iterator, Mapping
import json
import typing
from typing import Any

from eos_jax import naming
from eos_jax.naming import quoted
from eos_jax.ops import types

FORMAT = "eos_jax.ReductionPlan/2"
# This format has a "spec" at each site, with fields of publications in it.
_FIRST = "eos_jax.ReductionPlan/1"
_OF_PUBLICATIONS = ("site", "layers", "depth", "schedule", "doc")

MOST_BYTES = 2**20
MOST_COUNT = 2**31 - 1
MOST_LAYERS = 10_000
MOST_ITEMS = 64  # of a list of an operator, and of a provenance
MOST_TEXT = 200  # characters, but for `note`
_MOST_FLOAT = 3.4e38
_COLUMNS = 80

OPERATOR = typing.get_type_hints(types.OperatorSpec)
_SITE = {"site": str, "keep": int}
_HEAD = {"name": str, "model": str, "tokens": int, "layers": int, "note": str}
_PLAN = _HEAD | {"provenance": dict, "operator": dict, "sites": list}
_OPTIONAL = ("note", "provenance")
REQUIRED = tuple(name for name in _PLAN if name not in _OPTIONAL)


def dumps(plan: Any) -> str:
  """Returns the JSON of a `ReductionPlan`."""
  specs = [vars(planned.spec) for planned in plan.sites]
  shared = {
    name: value
    for name, value in (specs[0] if specs else {}).items()
    if all(spec[name] == value for spec in specs)
  }
  sites = [
    {"site": planned.site, "keep": planned.keep}
    | {n: v for n, v in vars(planned.spec).items() if n not in shared}
    for planned in plan.sites
  ]
  head = {"format": FORMAT} | {name: getattr(plan, name) for name in _HEAD}
  parts = [f"  {_entry(*item)}" for item in head.items()]
  parts.append(_packed('  "provenance": ', plan.provenance))
  parts.append(_packed('  "operator": ', shared))
  rows = ",\n".join(_packed("    ", site) for site in sites)
  parts.append(f'  "sites": [\n{rows}\n  ]')
  return "{\n" + ",\n".join(parts) + "\n}\n"


def _entry(name, value):
  return f"{json.dumps(name)}: {json.dumps(value)}"


def _packed(start, values):
  """A JSON object after `start`, with as many entries to a line as fit."""
  lines, gap = [start + "{"], ""
  indent = " " * (len(start) - len(start.lstrip()) + 2)
  for item in values.items():
    entry = _entry(*item) + ","
    if len(lines[-1] + gap + entry) < _COLUMNS:
      lines[-1] += gap + entry
    else:
      lines.append(indent + entry)
    gap = " "
  return "\n".join(lines).removesuffix(",") + "}"


def loads(text: str | bytes) -> dict[str, Any]:
  """Returns the fields of the `ReductionPlan` in a JSON text.

  Each of its "sites" is a tuple: name, count, and the fields of an
  `OperatorSpec`. Only their types are checked.

  Raises:
    ValueError: the text is no plan.
  """
  data = _parsed(text)
  found = data.pop("format", None) if isinstance(data, dict) else None
  if found == _FIRST:
    data = _without_publications(data)
  elif found != FORMAT:
    raise ValueError(f"plan has no format {FORMAT!r}: is it a plan file?")
  fields = _fields(data, _PLAN, "plan", optional=_OPTIONAL)
  sites = fields["sites"]
  if len(sites) > MOST_LAYERS:
    raise ValueError(f"plan has {len(sites)} sites, use each site once")
  shared = fields.pop("operator")
  shared = _fields(shared, OPERATOR, "operator", optional=OPERATOR)
  return fields | {"sites": [_site(site, shared) for site in sites]}


def _without_publications(data):
  """A plan of format /1 as one of the present format."""

  def flat(site):
    spec = site.get("spec") if isinstance(site, dict) else None
    if not isinstance(spec, dict):
      return site
    spec = {n: v for n, v in spec.items() if n not in _OF_PUBLICATIONS}
    return spec | {n: v for n, v in site.items() if n != "spec"}

  if isinstance(data.get("sites"), list):
    data = data | {"sites": [flat(site) for site in data["sites"]]}
  return data | {"operator": {}}


def _site(data, shared):
  """Name, count and operator of a site."""
  name = data.get("site") if isinstance(data, dict) else None
  what = f"site {quoted(name)}" if isinstance(name, str) else "site"
  fields = _fields(data, _SITE | OPERATOR, what, optional=OPERATOR)
  missing = sorted(set(OPERATOR) - set(shared | fields))
  if missing:
    raise ValueError(f"{what} lacks {missing}, add it there or to operator")
  operator = {name: fields.get(name, shared.get(name)) for name in OPERATOR}
  return fields["site"], fields["keep"], operator


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


def _fields(
  data: Any, kinds: Mapping[str, Any], what: str, *, optional: Collection[str]
) -> dict[str, Any]:
  """Values by name; raises `ValueError` for other names or types."""
  if not isinstance(data, dict):
    raise ValueError(f"{what} is {quoted(data)}, it must be a JSON object")
  missing = sorted(set(kinds) - set(optional) - set(data))
  unknown = sorted(set(data) - set(kinds))
  faults = []
  if missing:
    faults.append(f"lacks {missing}")
  if unknown:
    faults.append(f"has unknown fields {quoted(unknown)}")
  found = {}
  for name in sorted(set(kinds) & set(data)):
    faults += _type_faults(kinds[name], name, data[name])
    if not faults:
      found[name] = _converted(kinds[name], data[name])
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
  if kind is list or typing.get_origin(kind) is tuple:
    if not isinstance(value, list):
      yield f"{name} is {quoted(value)}, it must be a list"
    elif kind is not list:
      if len(value) > MOST_ITEMS:
        yield f"{name} has {len(value)} entries, use at most {MOST_ITEMS}"
        return
      item = typing.get_args(kind)[0]
      for place, one in enumerate(value):
        yield from _type_faults(item, f"{name}[{place}]", one)
  elif kind is dict:
    if not isinstance(value, dict):
      yield f"{name} is {quoted(value)}, it must be a JSON object"
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
    elif name != "note" and len(value) > MOST_TEXT:
      yield f"{name} has {len(value)} characters, use at most {MOST_TEXT}"
