"""Settings of the pretraining of the shipped model."""

import dataclasses

from eos_jax.training import data_settings, settings, shared_settings


@dataclasses.dataclass(frozen=True)
class StageSettings(shared_settings.ScheduleSettings):
  """One stage of pretraining, by Muon for matrices and Adam for the rest.

  Attributes:
    batch: images a step.
    learning_rate: peak of the schedule of Muon.
    adam_learning_rate: peak of the schedule of Adam.
  """

  steps: int = 5000
  batch: int = settings.field(16, least=1)
  learning_rate: float = 4e-3
  adam_learning_rate: float = settings.field(2e-3, above=0)
  warmup: int = 100
  weight_decay: float = 0.05


@dataclasses.dataclass(frozen=True)
class PretrainSettings(
  shared_settings.RunSettings,
  shared_settings.OutputSettings,
):
  """Pretraining of the shipped model.

  First the vision encoder, on patches and on the class token; then projector
  and decoder: on all questions until they find what is named, on where objects
  are, and on all questions again.

  Attributes:
    model: "tiny", which is made here; others are fine-tuned
      (`configs/finetune.py`).
    vision: first stage.
    lookup: second stage.
    grounding: third stage.
    answers: fourth stage.
    questions: questions of an image that share a sequence.
    places: questions about places that are added to an image's own ones before
      these are drawn; the third stage asks for sides alone.
    text_length: tokens of that sequence, the image not counted.
    data: the questions, of the suite.
    test_questions: test questions for the card's accuracy; 0 = all.
  """

  model: str = settings.field("tiny", choices=("tiny",), resumable=True)
  vision: StageSettings = settings.group(
    StageSettings, steps=1400, batch=32, learning_rate=5e-3
  )
  lookup: StageSettings = settings.group(StageSettings, steps=2000)
  grounding: StageSettings = settings.group(StageSettings, steps=600)
  answers: StageSettings = settings.group(StageSettings)
  questions: int = settings.field(8, least=1)
  places: int = settings.field(4, least=0)
  text_length: int = settings.field(104, least=1)
  data: data_settings.DataSettings = settings.group(data_settings.DataSettings)
  log_every: int = 20
  save_every: int = 200
  output: str = "tiny"
  test_questions: int = settings.field(0, least=0)
