"""Settings of fine-tuning under a plan."""

from collections.abc import Iterator
import dataclasses

from eos_jax.training import settings, shared_settings


@dataclasses.dataclass(frozen=True)
class FinetuneJob(
  shared_settings.JudgedSettings,
  shared_settings.ScheduleSettings,
  shared_settings.SuiteSettings,
  shared_settings.PlanSettings,
  shared_settings.OutputSettings,
):
  """Training of projector and decoder under a fixed plan, by AdamW.

  A checkpoint records the content of the plan's file, and the weights.

  Attributes:
    best: True: the result is the state with the best check, whose checkpoint is
      kept too, instead of the last one.
  """

  check_every: int = 100
  check_questions: int = 384
  best: bool = False
  output: str = "finetuned.safetensors"
  evaluation: shared_settings.EvaluationSettings = settings.group(
    shared_settings.EvaluationSettings, questions=1000
  )

  def _faults(self) -> Iterator[str]:
    yield from super()._faults()
    whole = min(self.save_every, self.check_every) > 0
    if (self.best and whole) and (
      self.check_every % self.save_every or self.steps % self.check_every
    ):
      yield (
        f"best is True, but save_every={self.save_every} does not divide"
        f" check_every={self.check_every}, or this not steps={self.steps};"
        " every check needs its checkpoint, the last one too"
      )
