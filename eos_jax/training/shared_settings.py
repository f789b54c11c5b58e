"""Groups of settings, and fields that several jobs share by inheritance."""

from collections.abc import Iterator
import dataclasses
import functools
import operator
import pathlib
from typing import Self

import jax

from eos_jax import models, naming, ops
from eos_jax.naming import quoted
from eos_jax.training import data_settings, settings

# Names that a run gives to other files and folders.
_TAKEN = frozenset(
  ("checkpoints", "evaluation", "examples", "metrics", "results", "run")
  + (
    "tensorboard",
    "report",
    "speed",
    "table",
    "vision",
    "lookup",
    "grounding",
    "answers",
  )
)

DTYPES = ("float32", "bfloat16", "float16")


@dataclasses.dataclass(frozen=True)
class ModelSettings(settings.Checked):
  """The model, and the devices.

  Attributes:
    model: "tiny"; a file that fine-tuning of it wrote; the folder of a
      checkpoint in Hugging Face's layout (config.json, safetensors, the
      tokenizer's files), or of a converted one.
    dtype: of all parameters, one of `DTYPES`; "" = that of the checkpoint, and
      bfloat16 for float16.
    allow_outside: whether weights may lie outside the folder, where its index
      or links lead.
    mesh: devices along the axes data, fsdp and tensor; () = as many along fsdp
      as the shapes of a large model allow, all others along data.
  """

  # Checkpoints record the fingerprint of the weights, wherever they lay.
  model: str = settings.field(
    "tiny", needed="give tiny or the folder of a checkpoint", resumable=True
  )
  dtype: str = settings.field("", choices=("", *DTYPES), resumable=True)
  allow_outside: bool = settings.field(False, resumable=True)
  mesh: tuple[int, ...] = settings.field((), resumable=True)

  def _faults(self) -> Iterator[str]:
    yield from super()._faults()
    if self.mesh and (len(self.mesh) != 3 or min(self.mesh) < 1):
      yield (
        f"mesh is {quoted(self.mesh)}; give the devices along data, fsdp and"
        " tensor, such as (1, 8, 1), or () for the default"
      )


@dataclasses.dataclass(frozen=True)
class EvaluationSettings(settings.Checked):
  """The comparison of plans on the test split.

  Presets that are named later join a finished run: results are kept one by one.

  Attributes:
    questions: size of the fixed part of the test split; 0 = all of it.
    batch: questions a batch; 0 = 128, and 8 for large models.
    seed: chooses the part, and draws the noise of the preset "random".
    presets: presets to compare with, at the layer averages of the plans.
  """

  questions: int = settings.field(0, least=0)
  batch: int = settings.field(0, least=0)
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
  """A plan for the model.

  Attributes:
    plan: JSON file of the plan.
  """

  plan: str = settings.field(
    "",
    needed="give the JSON file of a plan, --config.plan=FILE",
    resumable=True,
  )


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


# Parameters from which on a model counts as large.
LARGE = 10**8


@functools.cache
def is_large(cfg: models.VLMConfig) -> bool:
  """Whether batches and memory are chosen as for a model of billions."""
  leaves = jax.tree.leaves(models.loading.shapes(cfg))
  return sum(leaf.size for leaf in leaves) >= LARGE


def evaluation_batch(cfg: models.VLMConfig) -> int:
  """Returns the default number of questions that are answered at once."""
  return 8 if is_large(cfg) else 128


@dataclasses.dataclass(frozen=True)
class TrainingSettings(RunSettings):
  """Training with checks on validation questions.

  Attributes:
    batch: questions a step; 0 = 24, and 8 for large models.
    micro_batch: questions whose gradients are computed at once, to save memory;
      a divisor of `batch` and a multiple of the devices along data and fsdp; 0
      = all. Each micro-batch has the same weight in the loss.
    check_every: steps between checks on validation questions; 0 = at the end
      of each budget.
    check_questions: their number.
    check_batch: questions a batch of a check; 0 = 64, and 8 for large models.
    checkpoints_to_keep: number of the newest checkpoints that are kept.
    remat: what the backward pass of the decoder computes again to save memory:
      "none", "layers" or "products" (see `models.REMAT`); "" = "layers" for
      large models.
    trace_steps: first and last step, from 1, of a trace by `jax.profiler` in
      the workdir's tensorboard/; () = none.
  """

  batch: int = settings.field(0, least=0)
  micro_batch: int = settings.field(0, least=0)
  check_every: int = settings.field(0, least=0)
  check_questions: int = settings.field(256, least=1)
  check_batch: int = settings.field(0, least=0)
  remat: str = settings.field(
    "", choices=("", "none", *models.REMAT), resumable=True
  )
  checkpoints_to_keep: int = settings.field(2, least=1, resumable=True)
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

  def for_model(self, cfg: models.VLMConfig) -> Self:
    """Returns the same job, with what follows from the model filled in."""
    large = is_large(cfg)
    return settings.completed(
      self,
      batch=self.batch or (8 if large else 24),
      check_batch=self.check_batch or (8 if large else 64),
      remat=self.remat or ("layers" if large else "none"),
    )


@dataclasses.dataclass(frozen=True)
class JudgedSettings(TrainingSettings):
  """Training whose result is compared on test questions.

  Attributes:
    data: the questions.
    evaluation: the comparison; no training depends on it.
  """

  data: data_settings.DataSettings = settings.group(data_settings.DataSettings)

  evaluation: EvaluationSettings = settings.group(
    EvaluationSettings, resumable=True
  )

  @property
  def batch_sizes(self) -> dict[str, int]:
    """The batch sizes that the devices have to cut evenly, by field."""
    names = ("batch", "micro_batch", "check_batch", "evaluation.batch")
    return {name: operator.attrgetter(name)(self) for name in names}

  def for_model(self, cfg: models.VLMConfig) -> Self:
    """Returns the same job, with what follows from the model filled in."""
    job = super().for_model(cfg)
    batch = self.evaluation.batch or evaluation_batch(cfg)
    evaluation = dataclasses.replace(self.evaluation, batch=batch)
    return settings.completed(job, evaluation=evaluation)


@dataclasses.dataclass(frozen=True)
class OutputSettings(settings.Checked):
  """Trained weights.

  Attributes:
    output: their name inside the workdir: a file that ends in .safetensors for
      "tiny", and a folder for other models.
  """

  output: str = "weights"

  def _faults(self) -> Iterator[str]:
    # It must differ from the other files and folders of a run.
    yield from super()._faults()
    fault = naming.name_fault(self.output)
    if not fault and pathlib.PurePath(self.output).stem in _TAKEN:
      fault = "a name that no other file of a run has, such as 'weights'"
    if fault:
      yield f"output is {quoted(self.output)}; give {fault}"
