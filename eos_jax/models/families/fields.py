"""Reads the fields of a config.json and collects every fault."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

T = TypeVar("T")

_REMEDY = "use the config.json that belongs to the weights"
# Of a size; far above any of a published model.
_MOST = 2**24


class Fields:
  """The fields of one JSON object; what does not fit goes to a list.

  A field that is absent or null has its default. A field that does not fit is
  read as its default, so that the reader can go on to the next fault.

  Attributes:
    faults: a line for each fault, of this object and of those inside it.
  """

  def __init__(
    self,
    values: Mapping[str, Any],
    where: str = "",
    faults: list[str] | None = None,
  ):
    """Takes an object.

    Args:
      values: the object.
      where: dotted name of the object, "" at the top.
      faults: the list to append to; None = a new one.
    """
    self._values, self._where = values, where
    self.faults: list[str] = [] if faults is None else faults

  def fault(self, name: str, expected: str, remedy: str) -> None:
    """Notes that a field is not what it should be.

    Args:
      name: of the field.
      expected: what can be read.
      remedy: what to try.
    """
    where = f"{self._where}.{name}" if self._where else name
    got = "absent"
    if name in self._values:
      got = quoted(self._values[name])
    self.faults.append(f"{where} is {got}, expected {expected}; {remedy}")

  def has(self, name: str) -> bool:
    """Whether a field is there and not null."""
    return self._values.get(name) is not None

  def null(self, name: str) -> bool:
    """Whether a field is there and null."""
    return name in self._values and self._values[name] is None

  def whole(
    self,
    name: str,
    default: int,
    *,
    least: int = 1,
    most: int = _MOST,
    remedy: str = _REMEDY,
  ) -> int:
    """A whole number from `least` to `most`."""
    value = self.get(name, default)
    if _is_whole(value, least, most):
      return value
    limit = f"least {least}"
    if _is_whole(value, most, float("inf")):
      limit = f"most {most:,}"
    self.fault(name, f"a whole number of at {limit}", remedy)
    return default

  def wholes(self, name: str, default: Sequence[int]) -> Sequence[int]:
    """As many whole numbers as the default has, of 0 or more each."""
    value = self.get(name, default)
    fits = isinstance(value, list | tuple) and len(value) == len(default)
    if not fits or not all(_is_whole(each, 0, 2**16) for each in value):
      expected = f"{len(default)} whole numbers, such as {list(default)}"
      self.fault(name, expected, _REMEDY)
      return default
    return value

  def positive(self, name: str, default: float, *, most: float = 1e30) -> float:
    """A number above 0, of at most `most`."""
    value = self.get(name, default)
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not 0 < value <= most:
      self.fault(name, "a number above 0", _REMEDY)
      return default
    return float(value)

  def choice(
    self, name: str, default: Any, known: Sequence[Any], remedy: str
  ) -> Any:
    """One of the values that this package can compute with."""
    value = self.get(name, default)
    # True is no 1 and False is no 0 here.
    if not any(type(value) is type(each) and value == each for each in known):
      self.fault(name, " or ".join(repr(each) for each in known), remedy)
      return default
    return value

  def group(self, name: str, default: Mapping[str, Any]) -> "Fields":
    """The fields of an object inside this one."""
    where = f"{self._where}.{name}" if self._where else name
    value = self.get(name, default)
    if not isinstance(value, Mapping):
      self.fault(name, "an object", _REMEDY)
      value = default
    return Fields(value, where, self.faults)

  def built(self, build: Callable[..., T], **values: Any) -> T | None:
    """What `build` makes of values; its `ValueError` becomes a fault."""
    try:
      return build(**values)
    except ValueError as error:
      self.faults.append(f"{self._where or 'the config'}: {error}")
      return None

  def get(self, name: str, default: Any) -> Any:
    """A field as it is."""
    value = self._values.get(name)
    return default if value is None else value


def quoted(value: Any) -> str:
  """A value as a message shows it, cut where it is long."""
  text = repr(value)
  return text if len(text) <= 200 else f"{text[:200]}..."


def _is_whole(value, least, most):
  """Whether a value is a whole number in a range; True is no 1 here."""
  whole = isinstance(value, int) and not isinstance(value, bool)
  return whole and least <= value <= most
