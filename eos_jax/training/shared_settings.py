"""Groups of settings, and fields that several jobs share by inheritance."""

from collections.abc import Iterator
import dataclasses
import operator

from eos_jax import naming, ops
from eos_jax.data import mini_suite
from eos_jax.naming import quoted
from eos_jax.training import settings

DTYPES = ("float32", "bfloat16", "float16")


@dataclasses.dataclass(frozen=True)
class ModelSettings(settings.Checked):
  """A published model.

  Attributes:
    path: folder of its checkpoint in Hugging Face's layout (config.json,
      safetensors, the tokenizer's files), or of a converted one.
    dtype: of all parameters, one of `DTYPES`; "" = what its config.json names.
    allow_outside: whether weights may lie outside the folder, where its index
      or links lead.
  """

  path: str = settings.field(
    "", needed="give the folder of a checkpoint, --config.model.path=FOLDER"
  )
  dtype: str = "bfloat16"
  allow_outside: bool = False

  def _faults(self) -> Iterator[str]:
    yield from super()._faults()
    if self.dtype and self.dtype not in DTYPES:
      yield (
        f"dtype is {quoted(self.dtype)}; use one of {', '.join(DTYPES)}, or ''"
        " for that of the checkpoint"
      )


@dataclasses.dataclass(frozen=True)
class MeshSettings(settings.Checked):
  """The devices.

  Attributes:
    mesh: devices along the axes data, fsdp and tensor; () = as many along fsdp
      as a published model's shapes allow, all others along data.
  """

  mesh: tuple[int, ...] = settings.field((), resumable=True)

  def _faults(self) -> Iterator[str]:
    yield from super()._faults()
    if self.mesh and (len(self.mesh) != 3 or min(self.mesh) < 1):
      yield (
        f"mesh is {quoted(self.mesh)}; give the devices along data, fsdp and"
        " tensor, such as (1, 8, 1), or () for the default"
      )


@dataclasses.dataclass(frozen=True)
class RowSettings(settings.Checked):
  """The static shape of a question with its images and answer.

  Attributes:
    pictures: images for which there is space; each tile of SmolVLM is one.
    tiles: most rows and columns of tiles of a LLaVA-OneVision image; () for
      other families.
    size: largest height and width of a Qwen2-VL image, pixels; () for other
      families.
    text_length: most tokens of prompt and answer.
    answer_length: most tokens of an answer that is generated.
  """

  pictures: int = settings.field(1, least=1)
  tiles: tuple[int, ...] = ()
  size: tuple[int, ...] = ()
  text_length: int = settings.field(256, least=1)
  answer_length: int = settings.field(32, least=1)

  def _faults(self) -> Iterator[str]:
    yield from super()._faults()
    for name, value, least, most in (
      ("tiles", self.tiles, 0, 2**6),
      ("size", self.size, 1, 2**14),
    ):
      if value and (len(value) != 2 or min(value) < least or max(value) > most):
        yield (
          f"{name} is {quoted(value)}; give (rows, columns), each {least} to"
          f" {most}, or ()"
        )


@dataclasses.dataclass(frozen=True)
class UserDataSettings(RowSettings):
  """Questions and images in files of the user.

  Attributes:
    apart: whether questions that cannot be used are left out and counted,
      instead of refusing the files.
    images_anywhere: whether names of images may be absolute, or lead out of
      their folder.
  """

  apart: bool = False
  images_anywhere: bool = False


@dataclasses.dataclass(frozen=True)
class DataSettings(settings.Checked):
  """The rendered suite and easy-VQA.

  Attributes:
    suite: builder config of `mini_suite`: "default", "held_out" (validation and
      test only) or "tiny".
    directory: where prepared data are kept; "" = where tfds keeps them.
  """

  suite: str = settings.field("default", choices=mini_suite.COUNTS)
  directory: str = settings.field("", resumable=True)


@dataclasses.dataclass(frozen=True)
class SuiteSettings(settings.Checked):
  """Training questions from the rendered suite and easy-VQA.

  Attributes:
    data: the data sets.
    weights: share of images, with their questions, from mini_suite and
      easy_vqa.
  """

  data: DataSettings = settings.group(DataSettings)
  weights: tuple[float, ...] = (0.85, 0.15)

  def _faults(self) -> Iterator[str]:
    yield from super()._faults()
    shares = self.weights
    if not shares or min(shares) < 0 or sum(shares) <= 0:
      yield f"weights is {quoted(shares)}; give shares of 0 or more, not all 0"


@dataclasses.dataclass(frozen=True)
class EvaluationSettings(settings.Checked):
  """The comparison of plans on the test split.

  Presets that are named later join a finished run: results are kept one by one.

  Attributes:
    questions: size of the fixed part of the test split; 0 = all of it.
    batch: questions a batch.
    seed: chooses the part, and draws the noise of the preset "random".
    presets: presets to compare with, at the layer averages of the plans.
  """

  questions: int = settings.field(0, least=0)
  batch: int = settings.field(128, least=1)
  seed: int = settings.field(0, least=0)
  presets: tuple[str, ...] = settings.field((), choices=ops.PRESETS, once=True)


def budget_faults(budgets: tuple[float, ...]) -> Iterator[str]:
  """Yields what is wrong with budgets, whose files are named by six digits."""
  if any(not limit > 0 for limit in budgets):
    yield f"budgets is {quoted(budgets)}; give positive numbers"
  names: dict[str, float] = {}
  for limit in dict.fromkeys(budgets):
    other = names.setdefault(f"{limit:g}", limit)
    if other != limit:
      yield (
        f"budgets has {other} and {limit}, which would share the file name"
        f" {limit:g}; let them differ in the first six digits"
      )


@dataclasses.dataclass(frozen=True)
class PlanSettings(settings.Checked):
  """A plan for the shipped model.

  Attributes:
    plan: JSON file of the plan.
    weights_path: the model's weights; "" = those inside the package.
  """

  plan: str = settings.field(
    "",
    needed="give the JSON file of a plan, --config.plan=FILE",
    resumable=True,
  )
  weights_path: str = settings.field("", resumable=True)


@dataclasses.dataclass(frozen=True)
class RunSettings(settings.Checked):
  """A run that takes many steps.

  Attributes:
    seed: of initialisation and of the order of the data.
    log_every: steps between lines of metrics.
    save_every: steps between checkpoints; one is also written when the run is
      stopped.
  """

  seed: int = settings.field(0, least=0)
  log_every: int = settings.field(10, least=1, resumable=True)
  save_every: int = settings.field(100, least=1, resumable=True)


@dataclasses.dataclass(frozen=True)
class ScheduleSettings(settings.Checked):
  """Steps with warm-up and cosine decay of the learning rate.

  Attributes:
    steps: optimiser steps.
    learning_rate: peak of the schedule.
    warmup: steps to the peak.
    weight_decay: decoupled weight decay.
  """

  steps: int = settings.field(400, least=1)
  learning_rate: float = settings.field(3e-4, above=0)
  warmup: int = settings.field(40, least=0)
  weight_decay: float = settings.field(0.01, least=0)

  def _faults(self) -> Iterator[str]:
    yield from super()._faults()
    if self.warmup >= self.steps > 0:
      yield f"warmup is {self.warmup}; use fewer than steps={self.steps}"


@dataclasses.dataclass(frozen=True)
class TrainingSettings(RunSettings):
  """Training with checks on validation questions.

  Attributes:
    batch: questions a step.
    micro_batch: questions whose gradients are computed at once, to save memory;
      a divisor of `batch` and a multiple of the devices along data and fsdp; 0
      = all. Each micro-batch has the same weight in the loss.
    check_every: steps between checks on validation questions.
    check_questions: their number.
    check_batch: questions a batch of a check.
    keep: number of the newest checkpoints that are kept.
    trace_steps: first and last step, from 1, of a trace by `jax.profiler` in
      the workdir's tensorboard/; () = none.
  """

  batch: int = settings.field(24, least=1)
  micro_batch: int = settings.field(0, least=0)
  check_every: int = settings.field(60, least=1)
  check_questions: int = settings.field(256, least=1)
  check_batch: int = settings.field(64, least=1)
  keep: int = settings.field(2, least=1, resumable=True)
  trace_steps: tuple[int, ...] = settings.field((), resumable=True)

  def _faults(self) -> Iterator[str]:
    yield from super()._faults()
    if self.micro_batch > 0 and self.batch % self.micro_batch:
      yield (
        f"micro_batch is {self.micro_batch}, which does not divide"
        f" batch={self.batch}; use a divisor, or 0 for the whole batch at once"
      )
    steps = self.trace_steps
    if steps and (len(steps) != 2 or not 1 <= steps[0] <= steps[1]):
      yield (
        f"trace_steps is {quoted(steps)}; give the first and the last step,"
        " from 1, such as (10, 12), or ()"
      )


@dataclasses.dataclass(frozen=True)
class JudgedSettings(TrainingSettings):
  """Training whose result is compared on test questions.

  Attributes:
    evaluation: the comparison; no training depends on it.
  """

  evaluation: EvaluationSettings = settings.group(
    EvaluationSettings, resumable=True
  )

  @property
  def batch_sizes(self) -> dict[str, int]:
    """The batch sizes that the devices have to cut evenly, by field."""
    names = ("batch", "micro_batch", "check_batch", "evaluation.batch")
    return {name: operator.attrgetter(name)(self) for name in names}


@dataclasses.dataclass(frozen=True)
class OutputSettings(settings.Checked):
  """Trained weights as a file.

  Attributes:
    output: its name inside the workdir, a new file that ends in .safetensors.
  """

  output: str = "weights.safetensors"

  def _faults(self) -> Iterator[str]:
    # It lies next to the files of the run, which never end alike, and to a card
    # that has its name and ends in ".json".
    yield from super()._faults()
    if fault := naming.name_fault(self.output):
      yield f"output is {quoted(self.output)}; give {fault}"
    elif (
      not self.output.endswith(".safetensors")
      or self.output == "run.safetensors"
    ):
      yield (
        f"output is {quoted(self.output)}; give the name of a new file that"
        " ends in .safetensors, such as 'weights.safetensors'"
      )
