"""Families of published models: their configs and weight names, as data.

A family is a function from a config.json to a `Description`: the config of the
one VLM of this package, and a table of weight names. `eos_jax.models.loading`
reads weights by it.
"""

from collections.abc import Mapping
import json
import pathlib
from typing import Any

from eos_jax.models.families import fields as fields_lib
from eos_jax.models.families import llava_1_5, onevision, qwen2_vl, smolvlm
from eos_jax.models.families.table import (
  FORMS,
  HEAD,
  Describe,
  Description,
  Form,
  Surplus,
  Table,
  Weight,
)

# What to do with a checkpoint in the layout of the original repositories.
CONVERT = (
  "convert it with the script convert_llava_weights_to_hf.py of transformers 4"
  " (convert_llava_onevision_weights_to_hf.py for LLaVA-OneVision), or use a"
  " converted checkpoint such as llava-hf/llava-1.5-7b-hf"
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
  # The original layout has the decoder's fields at the top.
  if "mm_vision_tower" in config and "text_config" not in config:
    raise ValueError(
      "the field mm_vision_tower belongs to the layout of the original LLaVA"
      f" repositories, expected that of transformers; {CONVERT}"
    )
  if not isinstance(kind, str) or kind not in FAMILIES:
    raise ValueError(
      f"model_type is {fields_lib.quoted(kind)}, expected one of"
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
    config = read_object(path)
  except OSError as error:
    raise ValueError(
      f"{path} cannot be read ({error.strerror}); give the folder of a"
      " checkpoint as transformers saves it"
    ) from error
  try:
    return describe(config)
  except ValueError as error:
    raise ValueError(f"{path}: {error}") from error


def read_object(path: pathlib.Path) -> dict[str, Any]:
  """Reads a file that holds one JSON object.

  Raises:
    OSError: the file cannot be read.
    ValueError: it is no JSON object; the message names the file.
  """
  try:
    value = json.loads(path.read_text(encoding="utf-8"))
  except (ValueError, RecursionError) as error:
    raise ValueError(f"{path} is no JSON ({error}); fetch it again") from error
  if not isinstance(value, dict):
    raise ValueError(
      f"{path} holds a {type(value).__name__}, expected an object; fetch it"
      " again"
    )
  return value


__all__ = [
  "CONVERT",
  "FAMILIES",
  "FORMS",
  "HEAD",
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
  "read_object",
  "smolvlm",
]
