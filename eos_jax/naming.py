"""Names and values that come from outside: as file names, and in messages."""

from collections.abc import Sequence
import reprlib
from typing import Any

# A file name with a suffix has to fit into the 255 bytes of file systems.
_MOST_BYTES = 200

_REPR = reprlib.Repr()
_REPR.maxlevel, _REPR.maxstring, _REPR.maxother = 4, 200, 200
_REPR.maxlist = _REPR.maxtuple = _REPR.maxdict = 20


def quoted(value: Any, most: int = 100) -> str:
  """Returns `repr(value)`, shortened in the middle to about `most` characters.

  Messages quote values of users by it, so that a value of any size or depth
  leaves them readable.

  >>> quoted("tiny"), quoted([1.0, 2.0]), quoted("x" * 1000, most=20)
  ("'tiny'", '[1.0, 2.0]', "'xxxxxxx...xxxxxxx'")
  """
  if isinstance(value, int) and value.bit_length() > 512:
    return f"an integer of {value.bit_length()} bits"
  text = repr(value) if isinstance(value, float) else _REPR.repr(value)
  if len(text) <= most:
    return text
  half = (most - 3) // 2
  return f"{text[:half]}...{text[-half:]}"


def listed(faults: Sequence[str], most: int = 10) -> str:
  """Returns faults in one line, the first ones where there are very many.

  >>> listed(["a is 1", "b is 2", "c is 3"], most=2)
  'a is 1; b is 2; and 1 more'
  """
  rest = len(faults) - most
  return "; ".join(
    [*faults[:most], *([f"and {rest} more"] if rest > 0 else [])]
  )


def is_unicode(text: str) -> bool:
  """Returns whether a text can be written as UTF-8: no lone surrogates."""
  try:
    text.encode()
  except UnicodeEncodeError:
    return False
  return True


def name_fault(name: str) -> str:
  r"""Says why a name cannot be a file name in any folder; "" = it can.

  Names of plans, presets and outputs become file names, so none may lead out of
  its folder or hide in it.

  >>> name_fault("searched@16"), name_fault("../x")
  ('', "a name without '/' and '\\'")
  """
  if not name or not is_unicode(name) or not name.isprintable():
    return "one or more printable characters"
  if "/" in name or "\\" in name:
    return "a name without '/' and '\\'"
  if name.startswith(".") or name != name.strip():
    return "a name that does not start with '.' or start or end with a space"
  if len(name.encode()) > _MOST_BYTES:
    return f"a name of at most {_MOST_BYTES} bytes"
  return ""
