"""Settings of timing on the machine at hand."""

from collections.abc import Iterator
import dataclasses

from eos_jax import ops
from eos_jax.naming import quoted
from eos_jax.training import (
  data_settings,
  search_settings,
  settings,
  shared_settings,
)

MEASURES = ("deploy", "latency", "pictures")


def _of(default, **rule):
  """Returns a field that may change: every time is kept by what it depends on.

  One directory may serve many settings, and a run that was stopped goes on.
  """
  return settings.field(default, **rule, resumable=True)


@dataclasses.dataclass(frozen=True)
class TimingJob(data_settings.ImageSettings):
  """Times of models under plans, on the machine at hand.

  Attributes:
    measure: "deploy" (dense compared with plans), "latency" (a table of layer
      times), "pictures" (how fast images are preprocessed).
    models: that "deploy" measures, and of which "latency" takes the first:
      "tiny"; "wide" (1024 wide, 576 visual tokens); "llava_1_5_7b" (14 GB); or
      folders with the config.json of a checkpoint. All but "tiny" have random
      weights, which no time depends on.
    dtype: of all parameters; "" = bfloat16 for "llava_1_5_7b", that of its
      config.json for a folder, and float32 for others.
    batches: samples at once, each in turn.
    budgets: layer averages of visual tokens, as shares of a model's tokens; by
      default 48, 32, 16 and 4 of 144.
    presets: each at every budget.
    plans: JSON files of plans, measured on the model that they name.
    text_tokens: random ids after the image.
    steps: tokens that are decoded after the first one.
    repeats: rounds; a time is their median.
    seconds: after which a measurement makes no further round beyond the third.
    pictures: number of images that are shown to one program to see that it
      serves them all; and that "pictures" preprocesses.
    points: numbers of tokens that the latency table has.
    seed: of images, texts and random weights.
  """

  measure: tuple[str, ...] = _of(
    ("deploy",), needed="give at least one", choices=MEASURES, once=True
  )
  models: tuple[str, ...] = _of(
    ("tiny", "wide"), needed="give at least one", once=True
  )
  dtype: str = _of("", choices=("", *shared_settings.DTYPES))
  batches: tuple[int, ...] = _of((1, 8), needed="give at least one", once=True)
  budgets: tuple[float, ...] = _of(search_settings.SHARES, once=True)
  presets: tuple[str, ...] = _of(
    ("prune", "merge_proportional", "hybrid"), choices=ops.PRESETS, once=True
  )
  plans: tuple[str, ...] = _of((), once=True)
  text_tokens: int = _of(24, least=1)
  steps: int = _of(16, least=1)
  repeats: int = _of(15, least=1)
  seconds: float = _of(60.0, least=0)
  pictures: int = _of(50, least=1)
  points: int = _of(8, least=2)
  seed: int = _of(0, least=0)

  def _faults(self) -> Iterator[str]:
    yield from super()._faults()
    most = settings.MOST["batch"]
    for batch in self.batches:
      if not 1 <= batch <= most:
        yield f"batches has {quoted(batch)}; use 1 to {most}"
    for share in self.budgets:
      if not 0 < share <= 1:
        yield (
          f"budgets has {share}; use a share of the visual tokens above 0, up"
          " to 1"
        )
