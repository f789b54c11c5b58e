"""Settings of the evaluation of plans."""

from collections.abc import Iterator
import dataclasses
from typing import Self

from eos_jax import models, ops
from eos_jax.training import data_settings, settings, shared_settings


@dataclasses.dataclass(frozen=True)
class EvaluateJob(shared_settings.ModelSettings):
  """The evaluation of a model, dense and under plans.

  What was answered is kept by what it depends on: benchmarks, plans, presets
  and budgets that are named later join a finished run.

  Attributes:
    data: the questions.
    plans: JSON files of plans.
    budgets: layer averages at which presets are compared with the dense model
      and the plans; () = those of the plans.
    presets: presets to compare with.
    questions: size of a fixed part of the test split; 0 = all of it.
    batch: questions a batch; 0 = 128, and 8 for large models.
    seed: chooses the part, and draws the noise of the preset "random".
  """

  data: data_settings.DataSettings = settings.group(
    data_settings.DataSettings, resumable=True, suite="held_out"
  )
  plans: tuple[str, ...] = settings.field((), once=True, resumable=True)
  budgets: tuple[float, ...] = settings.field((), once=True, resumable=True)
  presets: tuple[str, ...] = settings.field(
    ("random", "grid", "pool"), choices=ops.PRESETS, once=True, resumable=True
  )
  questions: int = settings.field(0, least=0, resumable=True)
  batch: int = settings.field(0, least=0, resumable=True)
  seed: int = settings.field(0, least=0, resumable=True)

  @property
  def batch_sizes(self) -> dict[str, int]:
    """The batch sizes that the devices have to cut evenly, by field."""
    return {"batch": self.batch}

  def for_model(self, cfg: models.VLMConfig) -> Self:
    """Returns the same job, with what follows from the model filled in."""
    batch = self.batch or shared_settings.evaluation_batch(cfg)
    return dataclasses.replace(self, batch=batch)

  def _faults(self) -> Iterator[str]:
    yield from super()._faults()
    yield from shared_settings.budget_faults(self.budgets)
