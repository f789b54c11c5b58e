"""Settings of the questions that are asked."""

from collections.abc import Iterator
import dataclasses
from typing import Any

from eos_jax import data, naming
from eos_jax.data import benchmarks, item_questions, mini_suite, sources
from eos_jax.data.processors import llava
from eos_jax.naming import quoted
from eos_jax.training import settings


@dataclasses.dataclass(frozen=True)
class ImageSettings(settings.Checked):
  """The static shape of an image.

  Attributes:
    max_tiles: rows and columns of tiles of a LLaVA-OneVision image, at most; ()
      = the default of the family.
    max_size: largest height and width of a Qwen2-VL image in pixels; () = the
      default of the family.
  """

  max_tiles: tuple[int, ...] = ()
  max_size: tuple[int, ...] = ()

  @property
  def image_shape(self) -> dict[str, Any]:
    """Arguments of `models.ModelFiles.with_shape`."""
    return {"max_tiles": self.max_tiles, "max_size": self.max_size}

  def _faults(self) -> Iterator[str]:
    yield from super()._faults()
    for name, value, least, most in (
      ("max_tiles", self.max_tiles, 0, 2**6),
      ("max_size", self.max_size, 1, 2**14),
    ):
      if value and (len(value) != 2 or min(value) < least or max(value) > most):
        yield (
          f"{name} is {quoted(value)}; give (rows, columns), each {least} to"
          f" {most}, or ()"
        )


@dataclasses.dataclass(frozen=True)
class RowSettings(ImageSettings):
  """The static shape of a question with its images and answer.

  Attributes:
    max_images: images in a row; each tile of SmolVLM counts as one; 0 = the
      default of the family.
    text_length: most tokens of prompt and answer; 0 = as the source needs.
    answer_length: most tokens of an answer that is generated; 0 = as the source
      needs.
  """

  max_images: int = settings.field(0, least=0)
  text_length: int = settings.field(0, least=0)
  answer_length: int = settings.field(0, least=0)

  @property
  def image_shape(self) -> dict[str, Any]:
    """Arguments of `models.ModelFiles.with_shape`."""
    return {**super().image_shape, "max_images": self.max_images}


@dataclasses.dataclass(frozen=True)
class DataSettings(RowSettings):
  """Questions, and the static shape of a question with its images.

  Attributes:
    source: "suite" (the rendered suite and easy-VQA), "instructions" (a JSON
      file in LLaVA's format), "benchmarks" (their official files), the name of
      a registered source, or "package.module:function", a function that returns
      the questions (`data.item_questions.from_function`); "" = by `path`: a
      file has instructions, a folder benchmarks, and without it the suite is
      asked.
    path: the JSON file, or the folder with a folder for each benchmark.
    names: of the benchmarks, of `data.benchmarks.READERS`.
    suite: builder config of the suite: "default", "held_out" (validation and
      test only) or "tiny".
    directory: where the rendered suite is kept; "" = where tfds keeps data.
    mixture: share of images, with their questions, from mini_suite and easy_vqa
      in training and search.
    images: folder of the images of instructions; "" = that of the file.
    train, validation, test: share of the images of instructions, with all that
      is asked about them, for each purpose; together 1. A policy is searched
      and checked on `validation`, plans are judged on `test`, and `train`,
      which may be 0, is for what trains the model.
    protocol: whose prompts, scores and lengths benchmarks have, of
      `data.benchmarks.prompts.PROTOCOLS`.
    files: names of the files with a benchmark's questions, each as
      "BENCHMARK=FILE"; others are chosen by the rule of its reader.
    count: questions of each benchmark, from the first on; 0 = all.
    skip_invalid: whether questions that cannot be used are skipped and counted
      instead of refusing the files.
    images_anywhere: whether names of images may be absolute, or lead out of
      their folder.
    style: of the conversation; "" = the chat template of the model's folder,
      "vicuna" is that of LLaVA-1.5's authors.
    aspect: of LLaVA-1.5: "pad" images to a square, as its authors do, or "crop"
      one out; "" = as the model's folder says.
  """

  source: str = ""
  path: str = settings.field("", resumable=True)
  names: tuple[str, ...] = settings.field(
    (), choices=benchmarks.READERS, once=True, resumable=True
  )
  suite: str = settings.field("default", choices=mini_suite.COUNTS)
  directory: str = settings.field("", resumable=True)
  mixture: tuple[float, ...] = (0.85, 0.15)
  images: str = settings.field("", resumable=True)
  train: float = settings.field(0.0, least=0)
  validation: float = settings.field(0.8, least=0)
  test: float = settings.field(0.2, least=0)
  protocol: str = settings.field(
    "lmms_eval", choices=benchmarks.prompts.PROTOCOLS
  )
  files: tuple[str, ...] = ()
  count: int = settings.field(0, least=0)
  skip_invalid: bool = False
  images_anywhere: bool = False
  style: str = ""
  aspect: str = settings.field("", choices=("", *llava.ASPECTS))

  def resolved(self) -> "DataSettings":
    """Returns the same settings with the name of their source."""
    return dataclasses.replace(self, source=self.kind)

  @property
  def kind(self) -> str:
    """The source, by `path` where it is not given."""
    if self.source:
      return self.source
    if not self.path:
      return "suite"
    return "instructions" if self.path.endswith(".json") else "benchmarks"

  @property
  def image_shape(self) -> dict[str, Any]:
    """Arguments of `models.ModelFiles.with_shape`."""
    return {**super().image_shape, "style": self.style, "aspect": self.aspect}

  @property
  def shares(self) -> dict[str, float]:
    """The shares that are not 0, by purpose."""
    whole = {name: getattr(self, name) for name in item_questions.PARTS}
    return {name: share for name, share in whole.items() if share}

  @property
  def files_by_name(self) -> dict[str, list[str]]:
    """The names of `files`, by benchmark."""
    found: dict[str, list[str]] = {}
    for entry in self.files:
      name, _, file = entry.partition("=")
      found.setdefault(name, []).append(file)
    return found

  def _faults(self) -> Iterator[str]:
    yield from super()._faults()
    kind = self.kind
    if ":" not in kind and kind not in data.SOURCES:
      yield (
        f"source is {quoted(kind)}; {settings.nearest(kind, data.SOURCES)}, or"
        " give package.module:function"
      )
    if kind in ("instructions", "benchmarks") and not self.path:
      yield (
        f"path is empty; give the file or folder of the {kind},"
        " --config.data.path=PATH"
      )
    if kind == "benchmarks" and not self.names:
      yield f"names is empty; give some of {', '.join(benchmarks.READERS)}"
    if kind == "instructions":
      total = self.train + self.validation + self.test
      if abs(total - 1) > 1e-6:
        yield f"train, validation and test sum to {total:g}; let it be 1"
    yield from self._mixture_faults()
    for entry in self.files:
      name, _, file = entry.partition("=")
      if name not in self.names or naming.name_fault(file):
        yield (
          f"files has {quoted(entry)}; give BENCHMARK=FILE, with a benchmark of"
          " names and the name of a file in its folder"
        )

  def _mixture_faults(self):
    shares = self.mixture
    if len(shares) != len(sources.NAMES):
      yield (
        f"mixture is {quoted(shares)}; give {len(sources.NAMES)} shares, of"
        f" {' and '.join(sources.NAMES)}"
      )
    elif min(shares) < 0 or sum(shares) <= 0:
      yield f"mixture is {quoted(shares)}; give shares of 0 or more, not all 0"
