"""Settings of the benchmark, which measures times instead of accuracy."""

from collections.abc import Iterator
import dataclasses

from eos_jax import ops
from eos_jax.training import settings

MEASURES = ("deploy", "latency", "pictures")
MODELS = ("tiny", "wide", "llava_1_5_7b")


def _harmless():
  return dataclasses.field(metadata=settings.HARMLESS)


@dataclasses.dataclass(frozen=True)
class BenchmarkJob(settings.Checked):
  """Times of models under plans, on the machine at hand.

  Every time is kept by what it depends on: one directory may serve many
  settings, and a run that was stopped goes on.

  Attributes:
    measure: "deploy" (dense beside plans), "latency" (a table of layer times),
      "pictures" (how fast pictures are preprocessed).
    models: names of the models that "deploy" measures (`MODELS`).
    model: name of the one that "latency" measures.
    batches: samples at once, each in turn.
    budgets: layer averages of visual tokens, as shares of a model's tokens.
    presets: hand-made operators, each at every budget.
    plans: JSON files of plans, measured on the model that they name.
    text_tokens: random ids behind the picture.
    steps: tokens that are decoded behind the first one.
    repeats: rounds that a time is the median of.
    seconds: after which a measurement makes no further round beyond the third.
    pictures: that are shown to one program to see that it serves them all;
      that "pictures" preprocesses.
    points: numbers of tokens that the latency table has.
    seed: of pictures, texts and random weights.
  """

  measure: tuple[str, ...] = _harmless()
  models: tuple[str, ...] = _harmless()
  model: str = _harmless()
  batches: tuple[int, ...] = _harmless()
  budgets: tuple[float, ...] = _harmless()
  presets: tuple[str, ...] = _harmless()
  plans: tuple[str, ...] = _harmless()
  text_tokens: int = _harmless()
  steps: int = _harmless()
  repeats: int = _harmless()
  seconds: float = _harmless()
  pictures: int = _harmless()
  points: int = _harmless()
  seed: int = _harmless()

  def _faults(self) -> Iterator[str]:
    yield from self.known("measure", MEASURES)
    yield from self.known("models", MODELS)
    yield from self.known("presets", ops.PRESETS)
    yield from self.known("model", MODELS)
    for name in ("measure", "models", "batches"):
      if not getattr(self, name):
        yield f"{name} is empty; give at least one"
    yield from self.each_once(
      "measure", "models", "batches", "budgets", "presets", "plans"
    )
    for batch in self.batches:
      if not 1 <= batch <= settings.MOST["batch"]:
        yield (
          f"batches has {settings.quoted(batch)}; use 1 to"
          f" {settings.MOST['batch']}"
        )
    for share in self.budgets:
      if not 0 < share <= 1:
        yield (
          f"budgets has {share}; use a share of the visual tokens above 0, up"
          " to 1"
        )
    yield from self.at_least(1, "text_tokens", "steps", "repeats", "pictures")
    yield from self.at_least(2, "points")
    yield from self.at_least(0, "seconds", "seed")
