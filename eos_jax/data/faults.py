"""Rows of a data file that cannot be used.

Such a row is never passed over in silence: a file that has some is refused with
a list of them, or they are skipped and counted.
"""

from collections.abc import Sequence
import dataclasses

from eos_jax import naming

# So many are listed.
_LISTED = 20


class RowError(ValueError):
  """A row that cannot be used; the message says what was expected."""


def check_unicode(name: str, text: str) -> None:
  """Refuses a text that no file and no tokenizer can hold.

  JSON can spell half of a surrogate pair by an escape.

  Args:
    name: of the text, for the message.
    text: to check.

  Raises:
    RowError: the text has half of a surrogate pair.
  """
  try:
    text.encode()
  except UnicodeEncodeError as error:
    raise RowError(
      f"{name} has half of a surrogate pair,"
      f" {naming.quoted(text[error.start])} at character {error.start + 1},"
      " which is not UTF-8; repair the text"
    ) from error


@dataclasses.dataclass(frozen=True)
class Fault:
  """A row that cannot be used.

  Attributes:
    file: that it is in.
    row: its line, or its number in the list, from 1.
    what: is wrong with it.
  """

  file: str
  row: int
  what: str

  def __str__(self) -> str:
    if not self.file:  # it was made in memory
      return self.what
    return f"{self.file}, row {self.row}: {self.what}"


def listed(faults: Sequence[Fault]) -> str:
  """What is said where a file with such rows is refused."""
  shown = [str(fault) for fault in faults[:_LISTED]]
  if len(faults) > _LISTED:
    shown.append(f"and {len(faults) - _LISTED} more")
  return (
    f"{len(faults)} rows cannot be used; correct them, or skip and count them"
    " (skip_invalid=True):\n  " + "\n  ".join(shown)
  )
