"""Families of published models: their configs and weight names, as data.

A family is a function from a config.json to a `Description`: the config of the
one VLM of this package, and a table of weight names. `eos_jax.models.loading`
reads weights by it.
"""

from collections.abc import Mapping
import json
import pathlib
from typing import Any

from eos_jax.models.families import llava_1_5, onevision, qwen2_vl, smolvlm
from eos_jax.models.families.table import (
  FORMS,
  Describe,
  Description,
  Form,
  Surplus,
  Table,
  Weight,
)

# By the `model_type` of config.json.
FAMILIES: dict[str, Describe] = {
  llava_1_5.MODEL_TYPE: llava_1_5.describe,
  onevision.MODEL_TYPE: onevision.describe,
  qwen2_vl.MODEL_TYPE: qwen2_vl.describe,
  **dict.fromkeys(smolvlm.MODEL_TYPES, smolvlm.describe),
}


def describe(config: Mapping[str, Any]) -> Description:
  """The model that a config.json describes.

  Args:
    config: the object in the file.

  Raises:
    ValueError: its family is not known, or it has faults; all are listed.
  """
  kind = config.get("model_type")
  if kind not in FAMILIES:
    raise ValueError(
      f"model_type is {kind!r}, expected one of"
      f" {', '.join(sorted(FAMILIES))}; use a checkpoint of these families in"
      " the form that transformers saves"
    )
  return FAMILIES[kind](config)


def read(folder: pathlib.Path) -> Description:
  """The model that a folder's config.json describes.

  Args:
    folder: a checkpoint as transformers saves it.

  Raises:
    ValueError: the file is missing, is no JSON object, or as by `describe`;
      the message names the file.
  """
  path = folder / "config.json"
  try:
    config = json.loads(path.read_text(encoding="utf-8"))
  except OSError as error:
    raise ValueError(
      f"{path} cannot be read ({error.strerror}); give the folder of a"
      " checkpoint as transformers saves it"
    ) from error
  except ValueError as error:
    raise ValueError(f"{path} is no JSON ({error}); fetch it again") from error
  if not isinstance(config, dict):
    raise ValueError(
      f"{path} holds a {type(config).__name__}, expected an object; fetch it"
      " again"
    )
  try:
    return describe(config)
  except ValueError as error:
    raise ValueError(f"{path}: {error}") from error


__all__ = [
  "FAMILIES",
  "FORMS",
  "Describe",
  "Description",
  "Form",
  "Surplus",
  "Table",
  "Weight",
  "describe",
  "llava_1_5",
  "onevision",
  "qwen2_vl",
  "read",
  "smolvlm",
]
