"""The files of the field's benchmarks, and what they ask.

`read` gives the questions of one of them from a folder with its official files;
`eos_jax.evaluation.scoring.benchmarks` scores answers to them.
"""

from collections.abc import Callable, Iterable
import functools
import pathlib

from eos_jax.data.benchmarks import choice_readers, mme, prompts, readers
from eos_jax.data.benchmarks.samples import (
  Collector,
  Questions,
  Sample,
)

# By name. "textvqa_ocr" names words in the prompts that an OCR system has read:
# it hardly measures vision, and its numbers are no match for the other's.
READERS: dict[str, Callable[[pathlib.Path, str, Collector], None]] = {
  "vqav2": readers.vqav2,
  "gqa": readers.gqa,
  "textvqa": readers.textvqa,
  "textvqa_ocr": functools.partial(readers.textvqa, ocr=True),
  "pope": readers.pope,
  "mme": mme.read,
  "mmbench": choice_readers.mmbench,
  "seed": choice_readers.seed,
  "mmstar": choice_readers.mmstar,
  "ocrbench": readers.ocrbench,
  "scienceqa": choice_readers.scienceqa,
  "chartqa": readers.chartqa,
  "ai2d": choice_readers.ai2d,
  "realworldqa": readers.realworldqa,
  "mmvet": readers.mmvet,
}

__all__ = [
  "READERS",
  "Collector",
  "Questions",
  "Sample",
  "prompts",
  "read",
  "readers",
]


def read(
  name: str,
  folder: pathlib.Path | str,
  protocol: str,
  *,
  skip_invalid: bool = False,
  files: Iterable[str] = (),
  images_anywhere: bool = False,
) -> Questions:
  """The questions of a benchmark.

  Args:
    name: one of `READERS`.
    folder: has the files that the benchmark publishes.
    protocol: whose wording, one of `prompts.PROTOCOLS`.
    skip_invalid: skip rows that cannot be used instead of refusing them; they
      are in the result.
    files: names of the files with the questions; empty = by the rule of the
      reader, which the notes of the result state.
    images_anywhere: whether names of images may lead out of their folder.

  Raises:
    ValueError: the name or the protocol is not known.
    sources.DataError: files are missing or damaged, or rows cannot be used.
  """
  if name not in READERS:
    raise ValueError(
      f"the benchmark {name!r} is not known; use one of {', '.join(READERS)}"
    )
  if protocol not in prompts.PROTOCOLS:
    raise ValueError(
      f"protocol is {protocol!r}; use one of {', '.join(prompts.PROTOCOLS)}"
    )
  collector = Collector(files, images_anywhere=images_anywhere)
  READERS[name](pathlib.Path(folder), protocol, collector)
  return collector.questions(skip_invalid=skip_invalid)
