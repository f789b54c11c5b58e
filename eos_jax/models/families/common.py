"""Fields of a config.json that all families have."""

from collections.abc import Mapping
import dataclasses

from eos_jax.models import config as config_lib
from eos_jax.models.families import fields as fields_lib
from eos_jax.models.families import names
from eos_jax.models.families import table as table_lib

# Their names of activations, and those of `models.config`.
ACTIVATIONS: Mapping[str, str] = {
  "gelu": "gelu_exact",
  "gelu_new": "gelu",
  "gelu_pytorch_tanh": "gelu",
  "quick_gelu": "quick_gelu",
}
OTHER_MODEL = "only this one is implemented, use another checkpoint"
_DTYPES = ("float32", "float16", "bfloat16", "float64")


def activation(fields: fields_lib.Fields, name: str, default: str) -> str:
  """Our name of an activation."""
  known = tuple(ACTIVATIONS)
  return ACTIVATIONS[fields.choice(name, default, known, OTHER_MODEL)]


def refuse_quantised(top: fields_lib.Fields) -> None:
  """Notes a fault where weights are no floating-point numbers."""
  if top.has("quantization_config"):
    top.fault(
      "quantization_config",
      "no such field",
      "use the checkpoint before its quantisation",
    )


def image_token(top: fields_lib.Fields, default: int) -> int:
  """Id that stands for a picture, by its newer and its older name."""
  old = top.whole("image_token_index", default, least=0)
  new = top.whole("image_token_id", old, least=0)
  if top.has("image_token_index") and new != old:
    top.fault(
      "image_token_id",
      f"{old}, the value of image_token_index",
      "delete the wrong one",
    )
  return new


def dtype(top: fields_lib.Fields) -> str:
  """Storage dtype; the newer name goes before the older one."""
  name = "dtype" if top.has("dtype") else "torch_dtype"
  remedy = "use a checkpoint in floating point"
  return top.choice(name, "float32", _DTYPES, remedy)


def tied(*groups: fields_lib.Fields) -> bool:
  """Whether the head is the embedding table, by any object that says so.

  Versions differ in where they write it, and families in where they look.
  """
  remedy = "use the config.json that belongs to the weights"
  said = [
    group.choice("tie_word_embeddings", False, (False, True), remedy)
    for group in groups
  ]
  return any(said)


def refuse(top: fields_lib.Fields, name: str) -> None:
  """Raises ValueError with all faults that were noted, if any.

  Args:
    top: the whole config.
    name: of the family.
  """
  if top.faults:
    raise ValueError(
      f"this is no {name} that can be computed here:\n  "
      + "\n  ".join(top.faults)
    )


def described(
  family: str,
  cfg: config_lib.VLMConfig,
  table: table_lib.Table,
  image_token: int,
  dtype: str,
) -> table_lib.Description:
  """What a config without faults says; names the model if it is published.

  Args:
    family: name of the family.
    cfg: the model, whatever its name.
    table: its weights, without the output head.
    image_token: id that stands for an image in a prompt.
    dtype: of the stored weights, by the config.

  Raises:
    ValueError: the model is larger than any that a checkpoint can hold.
  """
  if (count := names.parameters(cfg)) > names.MOST_PARAMETERS:
    raise ValueError(
      f"the sizes describe a model of {count:.1e} parameters, expected at most"
      f" {names.MOST_PARAMETERS:.0e}; use the config.json that belongs to the"
      " weights"
    )
  cfg = dataclasses.replace(cfg, name=names.name(family, cfg))
  found = table_lib.Description(family, cfg, table, image_token, dtype)
  return found if cfg.decoder.tied else found.with_own_head()
