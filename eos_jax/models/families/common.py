"""Fields of a config.json that all families have."""

from collections.abc import Mapping

from eos_jax.models.families import fields as fields_lib
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


def tied(*groups: fields_lib.Fields, default: bool = False) -> bool:
  """Whether the head is the embedding table, by any object that says so.

  Versions differ in where they write it.
  """
  said = [
    group.choice("tie_word_embeddings", None, (None, False, True), "a boolean")
    for group in groups
  ]
  said = [value for value in said if value is not None]
  return any(said) if said else default


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


def head_and_surplus(
  source: str, tied: bool
) -> tuple[tuple[table_lib.Weight, ...], tuple[table_lib.Surplus, ...]]:
  """The output head's weight, or why it is not read.

  Args:
    source: its name, without `.weight`.
    tied: whether it is the embedding table.
  """
  if not tied:
    return (table_lib.linear("decoder.head.out", source),), ()
  pattern = source.replace(".", r"\.") + r"\.weight"
  reason = "the head is the embedding table"
  return (), (table_lib.Surplus(pattern, reason),)
