"""What has been evaluated is written down at once and never computed again."""

import dataclasses
import hashlib
import json
import pathlib
from typing import Any

from eos_jax import files, ops
from eos_jax.evaluation import evaluator


class Ledger:
  """Results by what they depend on, in a file of JSON lines.

  An entry is found again only under the same plan and the same circumstances
  (weights, data, questions), so that one file may serve many of them.
  """

  def __init__(self, path: pathlib.Path, circumstances: dict[str, Any]):
    """Reads the file, if there is one; a line cut short is dropped."""
    self._circumstances = circumstances
    self._entries: dict[str, dict[str, Any]] = {}
    entries = files.read_jsonl(path)
    files.write_text(path, "".join(json.dumps(e) + "\n" for e in entries))
    for entry in entries:
      self._entries[entry.pop("key")] = entry
    self._file = open(path, "a", encoding="utf-8", buffering=1)

  def _key(self, plan: ops.ReductionPlan | None) -> str:
    content = {
      "circumstances": self._circumstances,
      "plan": None if plan is None else json.loads(plan.to_json()),
    }
    text = json.dumps(content, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()

  def find(
    self, name: str, limit: float | None, plan: ops.ReductionPlan | None
  ) -> evaluator.Result | None:
    """The result of a plan (None: dense), if it is known."""
    entry = self._entries.get(self._key(plan))
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
    key = self._key(result.plan)
    self._entries[key] = entry
    self._file.write(json.dumps({"key": key, **entry}) + "\n")

  def close(self) -> None:
    """Closes the file."""
    self._file.close()
