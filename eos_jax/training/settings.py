"""The mechanism of settings: frozen dataclasses that list all of their faults.

A task has one dataclass, in which each field has its type, default, rule and
description. A config file changes some defaults (`config`), the command line
changes single fields, and `build` makes the dataclass of the result.

A setting is added by one line in the dataclass and one under its Attributes:

  dropout: float = field(0.0, least=0, most=1)

`Checked._faults` is extended where the values of several fields do not fit.
"""

from collections.abc import Collection, Iterator, Mapping
import dataclasses
import difflib
import functools
import math
import typing
from typing import Any

import ml_collections

from eos_jax import naming
from eos_jax.naming import quoted

# Largest value of an integer field by its name, for those that decide how much
# is allocated or how long a loop is; array indices are int32.
MOST = {
  "answer_length": 2**16,
  "batch": 2**16,
  "check_batch": 2**16,
  "knots": 100,
  "latency_batch": 2**16,
  "max_images": 2**16,
  "micro_batch": 2**16,
  "pictures": 2**16,
  "places": 2**10,
  "points": 2**10,
  "seed": 2**32 - 1,  # `jax.random.key` keeps 32 bits
  "text_length": 2**20,
  "text_tokens": 2**20,
}
_MOST_COUNT = 2**31 - 1
_MOST_ITEMS = 1000  # of a tuple
# File systems take names of 255 bytes and paths of 4096.
_MOST_NAME, _MOST_TEXT = 255, 4096
# Sizes of float32, without subnormal numbers, which devices round to 0.
_LEAST_FLOAT, MOST_FLOAT = 1.2e-38, 3.4e38


class ConfigError(ValueError):
  """A config that cannot be used.

  Attributes:
    faults: what is wrong, a line each.
  """

  def __init__(self, faults: Collection[str]):
    super().__init__("the config has faults:\n  " + "\n  ".join(faults))
    self.faults = tuple(faults)


def nearest(name: str, known: Collection[str]) -> str:
  """Says which known name is near, or else lists all of them."""
  near = []
  if isinstance(name, str) and len(name) <= _MOST_NAME:  # takes long otherwise
    near = difflib.get_close_matches(name, list(known), n=1)
  if near:
    return f"did you mean {near[0]!r}?"
  return f"use one of {', '.join(sorted(known))}"


@dataclasses.dataclass(frozen=True)
class Rule:
  """Which values a field accepts, and whether it may change on resume.

  Attributes:
    least: smallest number.
    above: a number that all others have to exceed.
    most: largest number; an integer is limited by `MOST` otherwise.
    choices: known texts, for a text or the entries of a tuple.
    once: whether the entries of a tuple have to differ.
    needed: what to do if a text or tuple is empty; "" = it may be empty.
    unbounded: whether the last number of a tuple may be infinite.
    resumable: whether a run may be resumed under another value.
  """

  least: float | None = None
  above: float | None = None
  most: float | None = None
  choices: Collection[str] | None = None
  once: bool = False
  needed: str = ""
  unbounded: bool = False
  resumable: bool = False

  def faults(self, name: str, value: Any) -> Iterator[str]:
    """Yields what is wrong with the value of a field."""
    if self.needed and not value:
      yield f"{name} is empty; {self.needed}"
    if self.choices is not None:
      several = isinstance(value, tuple)
      for one in value if several else (value,):
        if one not in self.choices:
          verb = "has" if several else "is"
          yield f"{name} {verb} {quoted(one)}; {nearest(one, self.choices)}"
    if self.once and len(set(value)) < len(value):
      yield f"{name} is {quoted(value)}; give each once"
    if range_ := self._range(name, value):
      yield f"{name} is {quoted(value)}; use {range_}"

  def _range(self, name, value):
    """Returns the range that a number has to be in, if it is not; else ""."""
    if self.above is not None and not value > self.above:
      return f"a number above {self.above}"
    least = self.above if self.least is None else self.least
    if least is None:
      return ""
    if isinstance(value, int):
      most = self.most or MOST.get(name, _MOST_COUNT)
      return f"{least} to {most}" if value > most else self._lower(value, least)
    if self.most is None:
      return self._lower(value, least)
    fits = least <= value <= self.most
    return "" if fits else f"a number from {least} to {self.most}"

  def _lower(self, value, least):
    return "" if value >= least else f"{least} or more"


def field(default: Any, **rule: Any) -> Any:
  """Returns a field with a default; the other arguments are those of `Rule`.

  A subclass that changes only the default writes `name: type = default`; the
  rule stays.
  """
  return dataclasses.field(default=default, metadata={"rule": Rule(**rule)})


def group(kind: type, *, resumable: bool = False, **changes: Any) -> Any:
  """Returns a field whose value is a settings dataclass.

  Args:
    kind: the dataclass.
    resumable: whether a run may be resumed under other values.
    **changes: defaults that differ from those of `kind`.
  """
  return dataclasses.field(
    default_factory=functools.partial(kind, **changes),
    metadata={"rule": Rule(resumable=True)} if resumable else {},
  )


def _rule(kind, name):
  """Returns the rule of a field, which a base may have given."""
  for base in kind.__mro__:
    found = vars(base).get("__dataclass_fields__", {}).get(name)
    if found is not None and "rule" in found.metadata:
      return found.metadata["rule"]
  return Rule()


class Checked:
  """A settings dataclass, which refuses values with all faults at once."""

  def _faults(self) -> Iterator[str]:
    """Yields faults, each starting with the name of a field.

    Subclasses add those that `Rule` does not cover.
    """
    for each in dataclasses.fields(self):
      rule = _rule(type(self), each.name)
      yield from rule.faults(each.name, getattr(self, each.name))

  def __post_init__(self):
    faults = tuple(self._faults())
    if faults:
      raise ConfigError(faults)


def _defaults(kind):
  found = {}
  for each in dataclasses.fields(kind):
    found[each.name] = each.default
    if each.default is dataclasses.MISSING:
      made = each.default_factory
      found[each.name] = _defaults(made.func) | made.keywords
  return found


def config(
  task: str,
  kind: type,
  variants: Mapping[str, Mapping[str, Any]] | None = None,
  arg: str = "",
) -> ml_collections.ConfigDict:
  """Returns the config of a task: the defaults, but for what a variant changes.

  Args:
    task: one of `tasks.TASKS`.
    kind: its settings dataclass.
    variants: name of each variant -> values by dotted name, as on the command
      line; the variant "" is the one that needs no name.
    arg: the variant.

  Raises:
    ValueError: the variant is unknown.
  """
  variants = {"": {}} if variants is None else variants
  if arg not in variants:
    known = ", ".join(name for name in variants if name)
    remedy = f"use '' or one of {known}" if known else "there is none"
    raise ValueError(f"variant {arg!r} is unknown; {remedy}")
  made = ml_collections.ConfigDict({"task": task, **_defaults(kind)}).lock()
  made.update_from_flattened_dict(variants[arg])
  return made


def build(kind: type, values: Any, path: str = "config") -> Any:
  """Builds a settings dataclass from a mapping, listing every fault at once.

  Args:
    kind: dataclass to build.
    values: mapping of its fields, such as an `ml_collections.ConfigDict`.
    path: name of the mapping in messages.

  Raises:
    ConfigError: unknown, missing, mistyped or impossible values.
  """
  faults: list[str] = []
  result = _build(kind, values, path, faults)
  if faults:
    raise ConfigError(faults)
  return result


def _build(kind, values, path, faults):
  hints = typing.get_type_hints(kind)
  known = [each.name for each in dataclasses.fields(kind)]
  before = len(faults)
  for name in values:
    if name not in known:
      shown = quoted(name).strip("'")
      faults.append(f"{path}.{shown} is unknown; {nearest(name, known)}")
  found = {}
  for name in known:
    where = f"{path}.{name}"
    if name in values:
      unbounded = _rule(kind, name).unbounded
      found[name] = _convert(
        hints[name], values[name], where, faults, unbounded
      )
    else:
      faults.append(f"{where} is missing")
  if len(faults) > before:
    return None
  try:
    return kind(**found)
  except ConfigError as error:
    faults += [f"{path}.{fault}" for fault in error.faults]
    return None


def _convert(hint, value, where, faults, unbounded=False):
  if dataclasses.is_dataclass(hint):
    if not isinstance(value, typing.Mapping):
      faults.append(f"{where} must be a group of fields, got {quoted(value)}")
      return None
    return _build(hint, value, where, faults)
  if typing.get_origin(hint) is tuple:
    if not isinstance(value, (list, tuple)):
      faults.append(f"{where} must be a tuple, got {quoted(value)}")
      return ()
    if len(value) > _MOST_ITEMS:
      faults.append(
        f"{where} has {len(value)} entries; use at most {_MOST_ITEMS}"
      )
      return ()
    item = typing.get_args(hint)[0]
    return tuple(
      _convert(item, v, where, faults, unbounded and place == len(value) - 1)
      for place, v in enumerate(value)
    )
  accepted = (int, float) if hint is float else hint
  if not isinstance(value, accepted) or (
    isinstance(value, bool) and hint is not bool
  ):
    faults.append(
      f"{where} must be {hint.__name__}, got {quoted(value)}"
      f" ({type(value).__name__})"
    )
    return value
  if unbounded and value == math.inf:
    return value
  if fault := _value_fault(hint, value):
    faults.append(f"{where} is {quoted(value)}; {fault}")
    return None
  return hint(value)


def _value_fault(kind, value) -> str:
  """Says what is wrong with a value of a right type; "" = nothing."""
  if kind is float:
    if not abs(value) <= MOST_FLOAT:
      return "use a finite number that float32 can hold"
    if value and abs(value) < _LEAST_FLOAT:
      return f"use 0, or a number of at least {_LEAST_FLOAT} as float32 has it"
  if kind is int and not -(2**63) <= value < 2**63:
    return "use an integer of at most 64 bits"
  if kind is str:
    if not naming.is_unicode(value) or "\0" in value:
      return "use Unicode text without the character NUL; rename a file"
    longest = max(len(part.encode()) for part in value.split("/"))
    if longest > _MOST_NAME or len(value.encode()) > _MOST_TEXT:
      return (
        f"use names of at most {_MOST_NAME} bytes and paths of at most"
        f" {_MOST_TEXT}"
      )
  return ""


def completed(chosen: Any, **values: Any) -> Any:
  """Returns settings of a job in which what follows from others is filled in.

  Args:
    chosen: the settings as they were given.
    **values: fields that were not given.

  Raises:
    ConfigError: the values do not fit those that were given.
  """
  try:
    return dataclasses.replace(chosen, **values)
  except ConfigError as error:
    raise ConfigError([f"config.{fault}" for fault in error.faults]) from error


def resumable(kind: type, path: str = "config") -> frozenset[str]:
  """Returns the names of the fields that may change when a run is resumed.

  Args:
    kind: settings dataclass.
    path: name of the whole.

  Returns:
    Dotted names; where a whole group may change, the group's.
  """
  found = set()
  hints = typing.get_type_hints(kind)
  for each in dataclasses.fields(kind):
    where = f"{path}.{each.name}"
    if _rule(kind, each.name).resumable:
      found.add(where)
    elif dataclasses.is_dataclass(hints[each.name]):
      found |= resumable(hints[each.name], where)
  return frozenset(found)


def binding(chosen: Any) -> dict[str, Any]:
  """Returns the settings that must stay when a run is resumed."""
  return {
    each.name: binding(value) if dataclasses.is_dataclass(value) else value
    for each in dataclasses.fields(chosen)
    if not _rule(type(chosen), each.name).resumable
    for value in [getattr(chosen, each.name)]
  }
