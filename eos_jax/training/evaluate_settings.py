"""Settings of the evaluation of published models on benchmarks."""

from collections.abc import Iterator
import dataclasses

from eos_jax import naming, ops
from eos_jax.data import benchmarks
from eos_jax.data.processors import llava
from eos_jax.training import model_settings, rules, settings


@dataclasses.dataclass(frozen=True)
class BenchmarkSettings(settings.Checked):
  """Benchmarks, and how they are asked.

  Attributes:
    folder: has a folder with the official files of each benchmark, named after
      it.
    names: of the benchmarks, of `data.benchmarks.READERS`.
    protocol: whose prompts and scores, of `data.benchmarks.prompts.PROTOCOLS`.
    style: of the conversation; "" = the chat template of the model's folder,
      "vicuna" is that of LLaVA-1.5's authors.
    aspect: of LLaVA-1.5: "pad" pictures to a square, as its authors do, or
      "crop" one out; "" = as the model's folder says.
    files: names of the files with the questions, each as "BENCHMARK=FILE";
      others are chosen by the rule of the benchmark's reader.
    apart: set rows that cannot be used apart and count them, instead of
      refusing the benchmark.
    images_anywhere: whether names of images may lead out of their folder.
    count: of questions of each benchmark, from the first on; 0 = all.
    text_length: tokens of a prompt that a row has room for.
    answer_length: most tokens of an answer; 0 = as the protocol has it.
    pictures: that a row has room for; for SmolVLM a tile is one.
    tiles: rows and columns of tiles of a LLaVA-OneVision picture, or ().
    size: height and width of the room of a Qwen2-VL picture, pixels, or ().
  """

  folder: str
  names: tuple[str, ...] = dataclasses.field(metadata=settings.HARMLESS)
  protocol: str
  style: str
  aspect: str
  files: tuple[str, ...]
  apart: bool
  images_anywhere: bool
  count: int
  text_length: int
  answer_length: int
  pictures: int
  tiles: tuple[int, ...]
  size: tuple[int, ...]

  def _faults(self) -> Iterator[str]:
    if not self.folder:
      yield "folder is empty; give that of the benchmarks, --config.data.folder"
    if not self.names:
      yield f"names is empty; give some of {', '.join(benchmarks.READERS)}"
    yield from self.known("names", benchmarks.READERS)
    yield from self.each_once("names")
    yield from self.known("protocol", benchmarks.prompts.PROTOCOLS)
    if self.aspect not in ("", *llava.ASPECTS):
      aspect = settings.quoted(self.aspect)
      yield f"aspect is {aspect}; use one of '', 'crop', 'pad'"
    for entry in self.files:
      name, _, file = entry.partition("=")
      if name not in self.names or naming.name_fault(file):
        yield (
          f"files has {naming.quoted(entry)}; give BENCHMARK=FILE, with a"
          " benchmark of names and the name of a file in its folder"
        )
    yield from self.at_least(0, "count", "answer_length")
    yield from self.at_least(1, "text_length", "pictures")
    yield from rules.image_shape_faults(self.tiles, self.size)


def files_of(data: BenchmarkSettings, name: str) -> tuple[str, ...]:
  """Returns the files that `data.files` names of a benchmark."""
  pairs = (entry.partition("=") for entry in data.files)
  return tuple(file for benchmark, _, file in pairs if benchmark == name)


@dataclasses.dataclass(frozen=True)
class EvaluatePublishedJob(settings.Checked):
  """The evaluation of a published model, dense and under plans.

  What was answered is kept: benchmarks, plans, presets and budgets that are
  named later join a finished run.

  Attributes:
    model: which.
    mesh: devices along the axes data, fsdp and tensor; () = along fsdp as many
      as the model's shapes allow, the others along data.
    data: the benchmarks.
    plans: JSON files of plans.
    budgets: layer averages at which random selection, a grid and pooling stand
      beside dense and plans; () = those of the plans.
    presets: further hand-made operators.
    batch: questions a batch.
    seed: draws the noise of the preset "random".
  """

  model: model_settings.ModelSettings
  mesh: tuple[int, ...] = dataclasses.field(metadata=settings.HARMLESS)
  data: BenchmarkSettings
  plans: tuple[str, ...] = dataclasses.field(metadata=settings.HARMLESS)
  budgets: tuple[float, ...] = dataclasses.field(metadata=settings.HARMLESS)
  presets: tuple[str, ...] = dataclasses.field(metadata=settings.HARMLESS)
  batch: int
  seed: int

  def _faults(self) -> Iterator[str]:
    yield from model_settings.mesh_faults("mesh", self.mesh)
    yield from self.at_least(1, "batch")
    yield from self.at_least(0, "seed")
    yield from self.budget_faults()
    yield from self.known("presets", ops.PRESETS)
    yield from self.each_once("plans", "presets")
