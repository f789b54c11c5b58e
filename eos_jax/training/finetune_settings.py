"""Settings of fine-tuning under a plan."""

from collections.abc import Iterator
import dataclasses
from typing import Self

from eos_jax import models
from eos_jax.training import data_settings, settings, shared_settings


@dataclasses.dataclass(frozen=True)
class FinetuneJob(
  shared_settings.JudgedSettings,
  shared_settings.ScheduleSettings,
  shared_settings.ModelSettings,
  shared_settings.PlanSettings,
  shared_settings.OutputSettings,
):
  """Training of projector and decoder under a fixed plan, by AdamW.

  A checkpoint records the content of the plan's file, and the weights.

  Attributes:
    check_every: steps between checks on validation questions; 0 = 100, or the
      steps if they are fewer.
    best: True: the result is the state with the best check, whose checkpoint is
      kept too, instead of the last one.
  """

  check_questions: int = 384
  best: bool = False
  output: str = "finetuned"
  data: data_settings.DataSettings = settings.group(
    data_settings.DataSettings, train=0.6, validation=0.2
  )
  evaluation: shared_settings.EvaluationSettings = settings.group(
    shared_settings.EvaluationSettings, resumable=True, questions=1000
  )

  def for_model(self, cfg: models.VLMConfig) -> Self:
    """Returns the same job, with what follows from the model filled in."""
    job = super().for_model(cfg)
    every = self.check_every or min(100, self.steps)
    return settings.completed(job, check_every=every)

  def _faults(self) -> Iterator[str]:
    yield from super()._faults()
    every = self.check_every or min(100, self.steps)
    whole = min(self.save_every, every) > 0
    if (self.best and whole) and (
      every % self.save_every or self.steps % every
    ):
      yield (
        f"best is True, but save_every={self.save_every} does not divide"
        f" check_every={every}, or this not steps={self.steps}; every check"
        " needs its checkpoint, the last one too"
      )
