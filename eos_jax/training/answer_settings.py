"""Settings of answering one question."""

from collections.abc import Iterator
import dataclasses

from eos_jax import ops
from eos_jax.training import data_settings, settings, shared_settings


@dataclasses.dataclass(frozen=True)
class AnswerJob(shared_settings.ModelSettings, data_settings.RowSettings):
  """One question about images, answered densely and under plans.

  Attributes:
    images: files, in the order in which they are shown.
    question: the text after the images.
    plans: JSON files of plans.
    budgets: layer averages at which presets answer; () = those of the plans.
    presets: presets that answer.
    answer_length: most tokens of an answer; 0 = 64.
    repeats: rounds; a time is their median.
    seed: draws the noise of the preset "random".
  """

  images: tuple[str, ...] = settings.field(
    (), needed="give image files, --config.images=\"('FILE',)\"", resumable=True
  )
  question: str = settings.field(
    "", needed="give a text, --config.question=TEXT", resumable=True
  )
  plans: tuple[str, ...] = settings.field((), once=True, resumable=True)
  budgets: tuple[float, ...] = settings.field((), once=True, resumable=True)
  presets: tuple[str, ...] = settings.field(
    (), choices=ops.PRESETS, once=True, resumable=True
  )
  repeats: int = settings.field(5, least=1, resumable=True)
  seed: int = settings.field(0, least=0, resumable=True)

  def _faults(self) -> Iterator[str]:
    yield from super()._faults()
    yield from shared_settings.budget_faults(self.budgets)
