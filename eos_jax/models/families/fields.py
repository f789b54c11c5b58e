"""Reading a config.json such that every fault is found before any is told."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

T = TypeVar("T")


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
    got = repr(self._values[name]) if name in self._values else "absent"
    self.faults.append(f"{where} is {got}, expected {expected}; {remedy}")

  def has(self, name: str) -> bool:
    """Whether a field is there and not null."""
    return self._values.get(name) is not None

  def whole(
    self,
    name: str,
    default: int,
    *,
    least: int = 1,
    remedy: str = "use the config.json that belongs to the weights",
  ) -> int:
    """A whole number of at least `least`."""
    value = self.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
      self.fault(name, f"a whole number of at least {least}", remedy)
      return default
    return value

  def positive(self, name: str, default: float) -> float:
    """A number above 0."""
    value = self.get(name, default)
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not 0 < value < float("inf"):
      remedy = "use the config.json that belongs to the weights"
      self.fault(name, "a number above 0", remedy)
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
      self.fault(name, "an object", "use the config.json of the weights")
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
