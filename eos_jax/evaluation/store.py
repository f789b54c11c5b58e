"""What a run has computed, written at once and never computed again."""

from collections.abc import Callable, Sequence
import itertools
import json
import os
import pathlib
from typing import Any

from eos_jax import files


class Store:
  """Entries in a file of JSON lines, each found by everything it depends on.

  An entry is found again only for equal content (weights, plan, questions,
  settings), so that one file may serve many of them.
  """

  def __init__(self, path: pathlib.Path):
    """Reads the file, if there is one; drops lines that are damaged."""
    self.path = path
    self._entries: dict[str, dict[str, Any]] = {}
    dropped = 0
    for line in files.read_jsonl(path):
      try:
        entry = files.unsealed(line)
        self._entries[entry.pop("key")] = entry
      except (ValueError, KeyError):
        dropped += 1
    lines = (_line(key, entry) for key, entry in self._entries.items())
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write_text(path, "".join(lines))
    if dropped:
      print(
        f"note: {dropped} entries of {path} were changed after they were"
        " written, or are of an older version; they are computed again",
        flush=True,
      )
    self._file = open(path, "a", encoding="utf-8")

  def __len__(self) -> int:
    return len(self._entries)

  def find(self, content: Any) -> dict[str, Any] | None:
    """The entry that depends on plain values `content`, if it is known."""
    return self._entries.get(files.digest(content))

  def add(self, content: Any, entry: dict[str, Any]) -> None:
    """Writes an entry to the disk before it returns."""
    key = files.digest(content)
    self._entries[key] = entry
    self._file.write(_line(key, entry))
    self._file.flush()
    os.fsync(self._file.fileno())

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


def _line(key, entry):
  return json.dumps(files.sealed({"key": key, **entry})) + "\n"


class Answers:
  """Answers to fixed questions in a store, an entry for each batch.

  Attributes:
    done: batches that are answered, from the first one on. A run that was
      killed continues after them.
  """

  def __init__(
    self, store: Store, depends: Any, batches: Sequence[Sequence[Any]]
  ):
    """Finds the answers that are known.

    Args:
      store: where they are.
      depends: everything that all answers depend on; plain values.
      batches: for each batch the ids of its questions, with digests of all that
        is asked and shown.
    """
    self._store, self._batches = store, batches
    common = files.digest(files.plain(depends))
    # Noise that a plan draws depends on the number of the batch.
    self._content = [[common, *batch] for batch in enumerate(batches)]
    known = [store.find(content) for content in self._content]
    done = list(itertools.takewhile(bool, known))
    self._answers = [answer for entry in done for answer in entry["answers"]]
    self.done = len(done)
    if others := len(store) - sum(map(bool, known)):
      print(
        f"note: {others} batches in {store.path} are answers to other questions"
        " or images, or of another model or other settings; they are not used",
        flush=True,
      )

  @property
  def finished(self) -> bool:
    """Whether all questions are answered."""
    return self.done == len(self._batches)

  def add(self, texts: Sequence[str], lengths: Sequence[int]) -> None:
    """Writes the answers to the next batch.

    Args:
      texts: the answers.
      lengths: tokens of their prompts after the images.
    """
    batch = self._batches[self.done]
    answers = [
      {"id": name, "text": text, "prompt_tokens": length}
      for (name, _), text, length in zip(batch, texts, lengths, strict=True)
    ]
    self._store.add(self._content[self.done], {"answers": answers})
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
