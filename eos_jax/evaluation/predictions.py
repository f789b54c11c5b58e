"""Answers to a benchmark in a file of JSON lines, written batch by batch.

The first line says what the answers depend on. A run that was killed goes on
behind the last batch that is whole.
"""

from collections.abc import Iterator, Sequence
import json
import os
import pathlib
from typing import Any

from eos_jax import files


class OtherCircumstances(ValueError):
  """A file holds answers of another model, plan or prompt."""


class Predictions:
  """The answers to the questions of one benchmark under one plan."""

  def __init__(
    self, path: pathlib.Path, facts: dict[str, Any], batches: Sequence[Any]
  ):
    """Reads what is there; answers behind the last whole batch are dropped.

    Args:
      path: of the file.
      facts: what the answers depend on; plain JSON values.
      batches: ids of the questions of each batch.

    Raises:
      OtherCircumstances: the file was written under other facts.
    """
    self._path, self._batches = path, [list(ids) for ids in batches]
    facts = files.plain(facts)
    lines = files.read_jsonl(path)
    if lines and lines[0] != {"facts": facts}:
      there = lines[0].get("facts", {})
      raise OtherCircumstances(
        f"{path} holds answers under other circumstances:"
        f" {', '.join(_differences(there, facts))}; use a new --workdir"
      )
    self._answers = lines[1:]
    whole = 0
    self.done = 0
    for ids in self._batches:
      known = self._answers[whole : whole + len(ids)]
      if [answer.get("id") for answer in known] != ids:
        break
      whole += len(ids)
      self.done += 1
    self._answers = self._answers[:whole]
    path.parent.mkdir(parents=True, exist_ok=True)
    kept = [{"facts": facts}, *self._answers]
    files.write_text(path, "".join(json.dumps(line) + "\n" for line in kept))

  @property
  def finished(self) -> bool:
    """Whether all questions are answered."""
    return self.done == len(self._batches)

  def add(self, texts: Sequence[str], lengths: Sequence[int]) -> None:
    """Writes the answers to the next batch.

    Args:
      texts: the answers.
      lengths: tokens of their prompts, behind the picture.
    """
    ids = self._batches[self.done]
    lines = [
      {"id": name, "text": text, "prompt_tokens": length}
      for name, text, length in zip(ids, texts, lengths, strict=True)
    ]
    with open(self._path, "a", encoding="utf-8") as file:
      file.write("".join(json.dumps(line) + "\n" for line in lines))
      file.flush()
      os.fsync(file.fileno())
    self._answers += lines
    self.done += 1

  @property
  def texts(self) -> list[str]:
    """The answers so far, in the order of the questions."""
    return [answer["text"] for answer in self._answers]

  @property
  def prompt_tokens(self) -> float:
    """Mean tokens of the prompts; there is at least one answer."""
    lengths = [answer["prompt_tokens"] for answer in self._answers]
    return sum(lengths) / len(lengths)


def _differences(there, here) -> Iterator[str]:
  for name in sorted(there.keys() | here.keys()):
    if there.get(name) != here.get(name):
      yield f"{name} is {there.get(name)!r} there and {here.get(name)!r} here"
