"""Settings of the evaluation of published models on benchmarks."""

from collections.abc import Iterator
import dataclasses

from eos_jax import ops
from eos_jax.data import benchmarks
from eos_jax.data.processors import llava
from eos_jax.training import model_settings, settings


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
    apart: set rows that cannot be used apart and count them, instead of
      refusing the benchmark.
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
  apart: bool
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
    for name in self.names:
      if name not in benchmarks.READERS:
        known = settings.nearest(name, benchmarks.READERS)
        yield f"names has {name!r}; {known}"
    if self.protocol not in benchmarks.prompts.PROTOCOLS:
      known = settings.nearest(self.protocol, benchmarks.prompts.PROTOCOLS)
      yield f"protocol is {self.protocol!r}; {known}"
    if self.aspect not in ("", *llava.ASPECTS):
      yield f"aspect is {self.aspect!r}; use one of '', 'crop', 'pad'"
    yield from self.at_least(0, "count", "answer_length")
    yield from self.at_least(1, "text_length", "pictures")
    for name, least in (("tiles", 0), ("size", 1)):
      value = getattr(self, name)
      if value and (len(value) != 2 or min(value) < least):
        yield f"{name} is {value}; give (rows, columns), or ()"


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
    yield from self.above_zero_each("budgets")
    for name in self.presets:
      if name not in ops.PRESETS:
        yield f"presets has {name!r}; {settings.nearest(name, ops.PRESETS)}"

  def above_zero_each(self, name: str) -> Iterator[str]:
    """Faults of the numbers of a field that are not above 0."""
    for value in getattr(self, name):
      if not value > 0:
        yield f"{name} has {value}; use numbers above 0"
