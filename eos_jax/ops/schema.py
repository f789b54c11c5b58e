"""JSON schema of plan files, made from the classes that read them.

`python -m eos_jax.ops.schema` prints it; the package ships it as
`eos_jax/ops/plan.schema.json`, for editors and other languages.
"""

import dataclasses
import json
import re
from typing import Any

from eos_jax.ops import needs, plan, types

_DRAFT = "https://json-schema.org/draft/2020-12/schema"
_SCALARS = {str: "string", int: "integer", float: "number"}


def plan_schema() -> dict[str, Any]:
  """The JSON schema of `ReductionPlan.to_json`.

  What it cannot say is left to `ReductionPlan.from_json`: that sites stand in
  the order in which they run, that counts never rise, that `pi` has one weight
  for each score, and that no weight can be 0 where it is divided by.

  >>> plan_schema()["properties"]["tokens"]["minimum"]
  1
  """
  site = _record(plan.PlannedSite)
  site["properties"]["site"]["pattern"] = f"^{plan.SITE.pattern}$"
  site["properties"]["keep"] |= _count(1)
  site["properties"]["spec"] = _operator()
  whole = _record(plan.ReductionPlan)
  whole["properties"]["name"] |= {
    "pattern": r"^[^./\\\s]([^/\\]*[^/\\\s])?$",
    "maxLength": plan.MOST_TEXT,
  }
  whole["properties"]["model"]["maxLength"] = plan.MOST_TEXT
  whole["properties"]["tokens"] |= _count(1)
  whole["properties"]["layers"] |= _count(1, plan.MOST_LAYERS)
  whole["properties"]["sites"] |= {
    "type": "array",
    "items": site,
    "maxItems": plan.MOST_LAYERS,
  }
  whole["properties"] = {
    "format": {"const": plan.FORMAT},
    **whole["properties"],
  }
  whole["required"].insert(0, "format")
  return {"$schema": _DRAFT, "title": "eos_jax.ReductionPlan", **whole}


def _operator():
  """Schema of an `OperatorSpec`, with the choices and ranges of its fields."""
  schema = _record(types.OperatorSpec)
  fields = schema["properties"]
  numbers = _described(types.OperatorParams)
  for name, field in fields.items():
    if name in numbers:
      field["description"] = numbers[name]
  for name, known in {**types.CHOICES, **needs.known_kernels()}.items():
    target = fields[name]
    if target["type"] == "array":
      target = target["items"]
    target["enum"] = sorted(known)
  for field in fields.values():
    if field["type"] == "array":
      field["maxItems"] = plan.MOST_ITEMS
  bounds = {"minimum": -plan.MOST_NUMBER, "maximum": plan.MOST_NUMBER}
  for name in plan.BOUNDED:
    field = fields[name]
    (field["items"] if field["type"] == "array" else field).update(bounds)
  for name in types.UNIT:
    fields[name] |= {"minimum": 0, "maximum": 1}
  for name in types.NOT_NEGATIVE:
    fields[name]["minimum"] = 0
  for name in ("pi", "omega"):
    fields[name]["items"]["minimum"] = 0
  for name in ("protect", "neighbours", "stride"):
    fields[name] |= _count(0)
  fields["tau"]["exclusiveMinimum"] = 0
  return schema


def _count(least: int, most: int = plan.MOST_COUNT) -> dict[str, int]:
  """Schema of an integer between two bounds."""
  return {"minimum": least, "maximum": most}


def _record(record: type) -> dict[str, Any]:
  """Schema of a dataclass: all fields required, no others."""
  texts = _described(record)
  properties = {}
  for field in dataclasses.fields(record):
    schema = {}
    if field.type in _SCALARS:
      schema["type"] = _SCALARS[field.type]
    elif item := re.match(r"tuple\[(str|int|float), \.\.\.\]", str(field.type)):
      scalar = {"str": str, "int": int, "float": float}[item[1]]
      schema |= {"type": "array", "items": {"type": _SCALARS[scalar]}}
    if field.name in texts:
      schema["description"] = texts[field.name]
    properties[field.name] = schema
  return {
    "type": "object",
    "properties": properties,
    "required": list(properties),
    "additionalProperties": False,
  }


def _described(record: type) -> dict[str, str]:
  """Texts of the attributes of a class, from its docstring."""
  part = (record.__doc__ or "").partition("Attributes:\n")[2]
  texts = {}
  for names, text in re.findall(
    r"^    (\w[\w, \n]*): (.*(?:\n      .*)*)", part, re.MULTILINE
  ):
    for name in re.split(r",\s*", names):
      texts[name] = " ".join(text.split())
  return texts


if __name__ == "__main__":
  print(json.dumps(plan_schema(), indent=2))
