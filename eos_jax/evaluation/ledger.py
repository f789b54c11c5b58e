"""What has been evaluated is written down at once and never computed again."""

from collections.abc import Callable
import dataclasses
import json
import pathlib
from typing import Any

from eos_jax import files, ops
from eos_jax.evaluation import evaluator


class Book:
  """Entries by all that they depend on, in a file of JSON lines.

  Attributes:
    dropped: entries that were changed since they were written; they are not
      used.
  """

  def __init__(self, path: pathlib.Path):
    """Reads the file, if there is one; a line cut short is dropped."""
    self._entries: dict[str, dict[str, Any]] = {}
    self.dropped = 0
    for line in files.read_jsonl(path):
      try:
        entry = files.unsealed(line)
        self._entries[entry.pop("key")] = entry
      except (ValueError, KeyError):
        self.dropped += 1
    lines = (_line(key, entry) for key, entry in self._entries.items())
    files.write_text(path, "".join(lines))
    if self.dropped:
      print(
        f"note: {self.dropped} entries of {path} were changed after they were"
        " written, or are of an older version; they are computed again",
        flush=True,
      )
    self._file = open(path, "a", encoding="utf-8", buffering=1)

  def find(self, content: Any) -> dict[str, Any] | None:
    """The entry that depends on plain values `content`, if it is known."""
    return self._entries.get(files.digest(content))

  def add(self, content: Any, entry: dict[str, Any]) -> None:
    """Writes an entry down."""
    key = files.digest(content)
    self._entries[key] = entry
    self._file.write(_line(key, entry))

  def once(
    self, content: Any, compute: Callable[[], dict[str, Any]]
  ) -> dict[str, Any]:
    """The known entry, or what `compute` gives, as the file gives it back."""
    found = self.find(content)
    if found is None:
      found = files.plain(compute())
      self.add(content, found)
    return found

  def close(self) -> None:
    """Closes the file."""
    self._file.close()


def _line(key: str, entry: dict[str, Any]) -> str:
  return json.dumps(files.sealed({"key": key, **entry})) + "\n"


class Ledger:
  """Results by what they depend on, in a file of JSON lines.

  An entry is found again only under the same plan and the same circumstances
  (weights, data, questions), so that one file may serve many of them.
  """

  def __init__(self, path: pathlib.Path, circumstances: dict[str, Any]):
    """Reads the file, if there is one; a line cut short is dropped."""
    self._circumstances = circumstances
    self._book = Book(path)

  def _content(self, plan: ops.ReductionPlan | None) -> dict[str, Any]:
    return {
      "circumstances": self._circumstances,
      "plan": None if plan is None else plan.digest,
    }

  def find(
    self, name: str, limit: float | None, plan: ops.ReductionPlan | None
  ) -> evaluator.Result | None:
    """The result of a plan (None: dense), if it is known."""
    entry = self._book.find(self._content(plan))
    if entry is None:
      return None
    return evaluator.Result(name=name, limit=limit, plan=plan, **entry)

  def add(self, result: evaluator.Result) -> None:
    """Writes a result down."""
    entry = {
      field.name: getattr(result, field.name)
      for field in dataclasses.fields(result)
      if field.name not in ("name", "limit", "plan")
    }
    self._book.add(self._content(result.plan), entry)

  def close(self) -> None:
    """Closes the file."""
    self._book.close()
