"""Benchmarks of the field as questions to a model: a test split alone."""

from collections.abc import Mapping, Sequence
import dataclasses
import pathlib
from typing import Any

import grain

from eos_jax.data import benchmarks, question_sets, sources
from eos_jax.data import faults as faults_lib
from eos_jax.data.benchmarks import samples as samples_lib


class Benchmarks:
  """Questions of benchmarks in their official files; see `data.Questions`.

  Attributes:
    name: "benchmarks".
    rows: of the model.
    parts: ("test",).
    protocol: whose prompts and scores.
    read: what the files of each benchmark hold, by its name.
  """

  name = "benchmarks"
  parts = ("test",)

  def __init__(
    self,
    rows: question_sets.Rows,
    read: Mapping[str, benchmarks.Questions],
    *,
    protocol: str,
    count: int = 0,
    skip_invalid: bool = False,
  ):
    """Makes each row once, to find those that cannot be used.

    Args:
      rows: of the model.
      read: of `benchmarks.read`, by name.
      protocol: that they were read by.
      count: questions of each benchmark, from the first on; 0 = all.
      skip_invalid: drop and count questions that cannot be used.

    Raises:
      sources.DataError: there are questions that cannot be used; those of all
        benchmarks are listed.
    """
    self.rows, self.protocol = rows, protocol
    self.read: dict[str, benchmarks.Questions] = {}
    self._sets, refused = [], []
    for name, found in read.items():
      asked = question_sets.QuestionSet(
        name, first(name, found.samples, count), rows, answered=False
      )
      lost = _scored_together(name, asked.items, asked.unusable())
      if lost and not skip_invalid or len(lost) == len(asked):
        refused.append(f"{name}: {faults_lib.listed(list(lost.values()))}")
        continue
      kept = tuple(one for one in asked.items if one.id not in lost)
      self._sets.append(dataclasses.replace(asked, items=kept))
      self.read[name] = found.without(lost)
    if refused:
      raise sources.DataError("\n".join(refused))

  def faults(self, asked: Mapping[str, tuple[int, str]]) -> list[str]:
    """Returns nothing: numbers of questions are upper limits here."""
    del asked
    return []

  def dataset(self, part: str, seed: int) -> grain.MapDataset:
    """Raises ValueError: benchmarks are judged on, and never trained on."""
    raise ValueError(
      f"benchmarks have a test split alone, and {part} is needed; use"
      " instructions, the rendered suite or a function"
    )

  def choose(
    self, part: str, *, count: int = 0, seed: int = 0
  ) -> tuple[question_sets.QuestionSet, ...]:
    """Returns a set for each benchmark, in the order of its files."""
    del count, seed  # of the benchmark's own order
    if part not in self.parts:
      self.dataset(part, 0)
    return tuple(self._sets)

  @property
  def identity(self) -> dict[str, Any]:
    """What the questions depend on, as plain values."""
    return {"protocol": self.protocol}

  def searched_on(self, parts: Sequence[str]) -> dict[str, Any]:
    """Raises ValueError: nothing is searched on benchmarks."""
    return self.dataset(parts[0], 0)

  def summary(self, parts: Sequence[str]) -> str:
    """Returns what is asked, a line for each benchmark."""
    del parts
    lines = []
    for asked in self._sets:
      found = self.read[asked.name]
      words = [f"{len(asked):,} questions"]
      words += [f"{n:,} left out: {why}" for why, n in found.left_out.items()]
      if found.faults:
        words.append(f"{len(found.faults):,} rows are invalid and skipped")
      words += found.notes
      lines.append(f"{asked.name}: {', '.join(words)}")
    return "\n".join(lines)


def from_folder(
  folder: pathlib.Path | str,
  names: Sequence[str],
  rows: question_sets.Rows,
  *,
  protocol: str,
  files: Mapping[str, Sequence[str]],
  count: int = 0,
  skip_invalid: bool = False,
  images_anywhere: bool = False,
) -> Benchmarks:
  """Reads benchmarks from a folder that has one folder for each.

  Args:
    folder: has the folders, named after the benchmarks.
    names: of the benchmarks.
    rows: of the model.
    protocol: whose prompts and scores.
    files: names of the files with the questions, by benchmark; others are
      chosen by the rule of the reader.
    count: questions of each benchmark, from the first on; 0 = all.
    skip_invalid: drop and count questions that cannot be used.
    images_anywhere: whether names of images may lead out of their folder.

  Raises:
    sources.DataError: files or rows cannot be used; all faults are listed.
  """
  read, refused = {}, []
  for name in names:
    try:
      read[name] = benchmarks.read(
        name,
        pathlib.Path(folder) / name,
        protocol,
        skip_invalid=skip_invalid,
        files=files.get(name, ()),
        images_anywhere=images_anywhere,
      )
    except sources.DataError as error:
      refused.append(f"{name}: {error}")
  if refused:
    raise sources.DataError("\n".join(refused))
  return Benchmarks(
    rows, read, protocol=protocol, count=count, skip_invalid=skip_invalid
  )


def first(
  name: str, samples: Sequence[samples_lib.Sample], count: int
) -> tuple[samples_lib.Sample, ...]:
  """Returns the first samples, with all that are scored together."""
  if not count:
    return tuple(samples)
  if name == "mme":  # both questions of an image
    return tuple(samples[: count + count % 2])
  if name == "mmbench":  # all passes of a question
    number = lambda sample: int(sample.id) % samples_lib.PASS
    kept = set(list(dict.fromkeys(map(number, samples)))[:count])
    return tuple(sample for sample in samples if number(sample) in kept)
  return tuple(samples[:count])


def _scored_together(name, samples, faults):
  """Samples that are lost with those that cannot be used, by their ids.

  Questions that are scored together are lost together: those of an image of
  MME, and the passes of a question of MMBench.
  """

  def group(sample):
    if name == "mme":
      return sample.groups["picture"]
    return int(sample.id) % samples_lib.PASS if name == "mmbench" else sample.id

  by_id = {samples[place].id: one for place, one in faults.items()}
  lost = {group(samples[place]) for place in faults}
  for sample in samples:
    if sample.id not in by_id and group(sample) in lost:
      what = "another question that is scored with it cannot be used"
      by_id[sample.id] = faults_lib.Fault(sample.file, sample.row, what)
  return by_id
