"""What a search is about: a model, and the questions it is searched on.

`tasks.shipped` and `tasks.published` make cases; `tasks.search` runs them.
"""

from collections.abc import Callable, Mapping
import dataclasses
from typing import Any

import jax

from eos_jax import models
from eos_jax.evaluation import evaluator


@dataclasses.dataclass(frozen=True)
class Case:
  """A model with weights, and its questions for each purpose.

  Attributes:
    cfg: shape of the model.
    params: its weights.
    fingerprint: of the weights.
    mesh: devices.
    iterator: batches to search on, pairs of them in a bilevel search.
    checks: questions for checks while it is searched.
    pictures: that a row has room for.
    batch_bytes: of a batch.
    data: what is read, in a line.
    judge: makes the evaluator on the test questions.
    place: puts weights on the devices.
    facts: what results depend on beside weights, plan and evaluation settings.
    searched_on: what a search depends on in addition to weights and settings.
    evaluated: whether `configs/evaluate.py` judges plans of this model.
  """

  cfg: models.VLMConfig
  params: Any
  fingerprint: str
  mesh: jax.sharding.Mesh
  iterator: Any
  checks: Any
  pictures: int
  batch_bytes: int
  data: str
  judge: Callable[[], evaluator.Evaluator]
  place: Callable[[Any], Any]
  facts: Mapping[str, Any]
  searched_on: Mapping[str, Any]
  evaluated: bool
