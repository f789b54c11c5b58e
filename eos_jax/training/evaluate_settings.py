"""Settings of the evaluation of plans, on the suite and on benchmarks."""

from collections.abc import Iterator
import dataclasses

from eos_jax import naming, ops
from eos_jax.data import benchmarks
from eos_jax.data.processors import llava
from eos_jax.naming import quoted
from eos_jax.training import settings, shared_settings


@dataclasses.dataclass(frozen=True)
class EvaluateJob(shared_settings.PlanSettings):
  """The evaluation of one plan for the shipped model.

  Results are kept by what they depend on: one directory may serve many plans.

  Attributes:
    data: the data sets.
    evaluation: which questions, and what to compare with.
  """

  data: shared_settings.DataSettings = settings.group(
    shared_settings.DataSettings, resumable=True, suite="held_out"
  )
  evaluation: shared_settings.EvaluationSettings = settings.group(
    shared_settings.EvaluationSettings, resumable=True
  )


@dataclasses.dataclass(frozen=True)
class BenchmarkSettings(shared_settings.UserDataSettings):
  """Benchmarks, and how they are asked.

  Attributes:
    folder: has a folder with the official files of each benchmark, named after
      it.
    names: of the benchmarks, of `data.benchmarks.READERS`.
    protocol: whose prompts, scores and lengths, of
      `data.benchmarks.prompts.PROTOCOLS`.
    style: of the conversation; "" = the chat template of the model's folder,
      "vicuna" is that of LLaVA-1.5's authors.
    aspect: of LLaVA-1.5: "pad" images to a square, as its authors do, or "crop"
      one out; "" = as the model's folder says.
    files: names of the files with the questions, each as "BENCHMARK=FILE";
      others are chosen by the rule of the benchmark's reader.
    count: of questions of each benchmark, from the first on; 0 = all.
    answer_length: most tokens of an answer; 0 = as the protocol has it.
  """

  folder: str = settings.field(
    "", needed="give that of the benchmarks, --config.data.folder"
  )
  names: tuple[str, ...] = settings.field(
    (),
    needed=f"give some of {', '.join(benchmarks.READERS)}",
    choices=benchmarks.READERS,
    once=True,
    resumable=True,
  )
  protocol: str = settings.field(
    "lmms_eval", choices=benchmarks.prompts.PROTOCOLS
  )
  style: str = ""
  aspect: str = ""
  files: tuple[str, ...] = ()
  count: int = settings.field(0, least=0)
  text_length: int = 512
  answer_length: int = settings.field(0, least=0)

  def _faults(self) -> Iterator[str]:
    yield from super()._faults()
    if self.aspect not in ("", *llava.ASPECTS):
      yield f"aspect is {quoted(self.aspect)}; use one of '', 'crop', 'pad'"
    for entry in self.files:
      name, _, file = entry.partition("=")
      if name not in self.names or naming.name_fault(file):
        yield (
          f"files has {quoted(entry)}; give BENCHMARK=FILE, with a benchmark of"
          " names and the name of a file in its folder"
        )


def files_of(data: BenchmarkSettings, name: str) -> tuple[str, ...]:
  """Returns the files that `data.files` names of a benchmark."""
  pairs = (entry.partition("=") for entry in data.files)
  return tuple(file for benchmark, _, file in pairs if benchmark == name)


@dataclasses.dataclass(frozen=True)
class EvaluatePublishedJob(shared_settings.MeshSettings):
  """The evaluation of a published model, dense and under plans.

  What was answered is kept: benchmarks, plans, presets and budgets that are
  named later join a finished run.

  Attributes:
    model: which.
    data: the benchmarks.
    plans: JSON files of plans.
    budgets: layer averages at which random selection, a grid and pooling are
      compared with the dense model and the plans; () = those of the plans.
    presets: further presets.
    batch: questions a batch.
    seed: draws the noise of the preset "random".
  """

  model: shared_settings.ModelSettings = settings.group(
    shared_settings.ModelSettings
  )
  data: BenchmarkSettings = settings.group(BenchmarkSettings)
  plans: tuple[str, ...] = settings.field((), once=True, resumable=True)
  budgets: tuple[float, ...] = settings.field((), once=True, resumable=True)
  presets: tuple[str, ...] = settings.field(
    (), choices=ops.PRESETS, once=True, resumable=True
  )
  batch: int = settings.field(8, least=1)
  seed: int = settings.field(0, least=0)

  def _faults(self) -> Iterator[str]:
    yield from super()._faults()
    yield from shared_settings.budget_faults(self.budgets)
