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
  the order in which they run, that counts never rise, and that `pi` has one
  weight for each score.

  >>> plan_schema()["properties"]["tokens"]["minimum"]
  1
  """
  site = _record(plan.PlannedSite)
  site["properties"]["site"]["pattern"] = f"^{plan.SITE.pattern}$"
  site["properties"]["keep"]["minimum"] = 1
  site["properties"]["spec"] = _operator()
  whole = _record(plan.ReductionPlan)
  whole["properties"]["tokens"]["minimum"] = 1
  whole["properties"]["layers"]["minimum"] = 1
  whole["properties"]["sites"] |= {"type": "array", "items": site}
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
  for name in types.UNIT:
    fields[name] |= {"minimum": 0, "maximum": 1}
  for name in types.NOT_NEGATIVE:
    fields[name]["minimum"] = 0
  for name in ("pi", "omega"):
    fields[name]["items"]["minimum"] = 0
  fields["tau"]["exclusiveMinimum"] = 0
  return schema


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
