"""Settings of the tasks as frozen dataclasses, built from a config file."""

import dataclasses
import typing
from typing import Any


@dataclasses.dataclass(frozen=True)
class DataSettings:
  """Where data come from.

  Attributes:
    suite: builder config of `mini_suite`, "default" or "tiny".
    directory: where prepared data are kept; "" = where tfds keeps them.
  """

  suite: str = "default"
  directory: str = ""


@dataclasses.dataclass(frozen=True)
class StageSettings:
  """One stage of pretraining.

  Attributes:
    steps: optimiser steps.
    batch: pictures a step.
    learning_rate: peak of the schedule.
    warmup: steps to the peak.
    weight_decay: decoupled weight decay.
  """

  steps: int
  batch: int
  learning_rate: float
  warmup: int
  weight_decay: float


@dataclasses.dataclass(frozen=True)
class PretrainSettings:
  """Pretraining of the shipped model.

  Attributes:
    seed: of initialisation and data order.
    data: the data sets.
    vision: first stage.
    answers: second stage.
    questions: questions of a picture that share a sequence.
    text_length: tokens of that sequence, the picture not counted.
    weights: share of pictures from mini_suite and easy_vqa.
    log_every: steps between lines of metrics.
    save_every: steps between checkpoints.
    output: file name of the exported weights, inside the workdir.
  """

  seed: int
  data: DataSettings
  vision: StageSettings
  answers: StageSettings
  questions: int
  text_length: int
  weights: tuple[float, ...]
  log_every: int
  save_every: int
  output: str


def build(kind: type, values: Any, path: str = "config") -> Any:
  """Builds a settings dataclass from a mapping, listing every fault at once.

  Args:
    kind: dataclass to build.
    values: mapping of its fields, such as an `ml_collections.ConfigDict`.
    path: name of the mapping in messages.

  Raises:
    ValueError: unknown, missing or mistyped fields.
  """
  faults: list[str] = []
  result = _build(kind, values, path, faults)
  if faults:
    raise ValueError("the config has faults:\n  " + "\n  ".join(faults))
  return result


def _build(kind, values, path, faults):
  hints = typing.get_type_hints(kind)
  known = {field.name: field for field in dataclasses.fields(kind)}
  for name in values:
    if name not in known:
      faults.append(
        f"{path}.{name} is unknown; known here: {', '.join(sorted(known))}"
      )
  found = {}
  for name, field in known.items():
    where = f"{path}.{name}"
    if name not in values:
      if field.default is dataclasses.MISSING:
        faults.append(f"{where} is missing")
      continue
    found[name] = _convert(hints[name], values[name], where, faults)
  return None if faults else kind(**found)


def _convert(hint, value, where, faults):
  if dataclasses.is_dataclass(hint):
    return _build(hint, value, where, faults)
  origin = typing.get_origin(hint)
  if origin is tuple:
    item = typing.get_args(hint)[0]
    return tuple(_convert(item, v, where, faults) for v in value)
  accepted = (int, float) if hint is float else hint
  if not isinstance(value, accepted) or (
    isinstance(value, bool) and hint is not bool
  ):
    faults.append(
      f"{where} must be {hint.__name__}, got {value!r}"
      f" ({type(value).__name__})"
    )
    return value
  return hint(value)
