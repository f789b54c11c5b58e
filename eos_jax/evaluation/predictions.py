"""Answers to a benchmark in a file of JSON lines, written batch by batch.

The first line says what all answers depend on. Each answer carries a digest of
that and of its own question and image, and is used again only for the same. A
run that was killed goes on after the last batch that is whole.
"""

from collections.abc import Iterator, Sequence
import json
import os
import pathlib
from typing import Any

from eos_jax import files, naming


class OtherCircumstances(ValueError):
  """A file holds answers of another model, plan or prompt."""


class Predictions:
  """The answers to the questions of one benchmark under one plan.

  Attributes:
    done: batches that are answered.
    dropped: answers that were found and do not belong to the questions, or are
      damaged; with them go all after them.
  """

  def __init__(
    self,
    path: pathlib.Path,
    facts: dict[str, Any],
    batches: Sequence[Sequence[tuple[str, str]]],
  ):
    """Reads what is there, and keeps it up to the first batch that differs.

    Args:
      path: of the file.
      facts: what all answers depend on; plain JSON values.
      batches: of each batch the ids of its questions and digests of all that is
        asked and shown.

    Raises:
      OtherCircumstances: the file was written under other facts.
    """
    self._path = path
    facts = files.plain(facts)
    common = files.digest(facts)
    self._batches = [
      [(name, files.digest([common, question])) for name, question in batch]
      for batch in batches
    ]
    lines = files.read_jsonl(path)
    there = lines[0].get("facts") if lines else None
    if isinstance(there, dict) and there != facts:
      raise OtherCircumstances(
        f"{path} holds answers under other circumstances:"
        f" {', '.join(_differences(there, facts))}; use a new --workdir"
      )
    # Without the line of facts nobody knows what answers depend on.
    known = there == facts
    answers = [line for line in lines if "facts" not in line]
    found = [_answer(line) if known else {} for line in answers]
    self._answers: list[dict[str, Any]] = []
    self.done = 0
    for batch in self._batches:
      known = found[len(self._answers) : len(self._answers) + len(batch)]
      if [_key(answer) for answer in known] != batch:
        break
      self._answers += known
      self.done += 1
    wanted = [key for batch in self._batches[self.done :] for key in batch]
    rest = [_key(answer) for answer in found[len(self._answers) :]]
    self.dropped = len(rest) if rest != wanted[: len(rest)] else 0
    path.parent.mkdir(parents=True, exist_ok=True)
    kept = [{"facts": facts}, *map(files.sealed, self._answers)]
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
    batch = self._batches[self.done]
    answers = [
      {"id": name, "key": key, "text": text, "prompt_tokens": length}
      for (name, key), text, length in zip(batch, texts, lengths, strict=True)
    ]
    with open(self._path, "a", encoding="utf-8") as file:
      lines = (json.dumps(files.sealed(answer)) for answer in answers)
      file.write("".join(f"{line}\n" for line in lines))
      file.flush()
      os.fsync(file.fileno())
    self._answers += answers
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


def _answer(line: Any) -> dict[str, Any]:
  """An answer as it was written; empty if it was changed since."""
  try:
    return files.unsealed(line)
  except ValueError:
    return {}


def _key(answer: dict[str, Any]) -> tuple[Any, Any]:
  return answer.get("id"), answer.get("key")


def _differences(there, here) -> Iterator[str]:
  """Facts that differ, by dotted name."""
  there, here = files.flat(there), files.flat(here)
  for name in sorted(there.keys() | here.keys()):
    if there.get(name) != here.get(name):
      yield (
        f"{name} is {naming.quoted(there.get(name))} there and"
        f" {naming.quoted(here.get(name))} here"
      )
