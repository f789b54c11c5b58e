"""The files of the field's benchmarks, and what they ask.

`read` gives the questions of one of them from a folder with its official files;
`eos_jax.evaluation.scoring.benchmarks` scores answers to them.
"""

from collections.abc import Callable
import functools
import pathlib

from eos_jax.data.benchmarks import prompts, readers
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
  "mme": readers.mme,
  "mmbench": readers.mmbench,
  "seed": readers.seed,
  "mmstar": readers.mmstar,
  "ocrbench": readers.ocrbench,
  "scienceqa": readers.scienceqa,
  "chartqa": readers.chartqa,
  "ai2d": readers.ai2d,
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
  apart: bool = False,
  images_anywhere: bool = False,
) -> Questions:
  """The questions of a benchmark.

  Args:
    name: one of `READERS`.
    folder: has the files that the benchmark publishes.
    protocol: whose wording, one of `prompts.PROTOCOLS`.
    apart: set rows that cannot be used apart instead of refusing them; they
      are in the result.
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
  collector = Collector(images_anywhere=images_anywhere)
  READERS[name](pathlib.Path(folder), protocol, collector)
  return collector.questions(apart=apart)
