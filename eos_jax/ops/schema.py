"""JSON schema of plan files, made from the classes that read them.

`python -m eos_jax.ops.schema` prints it; the package ships it as
`eos_jax/ops/plan.schema.json`, for editors and other languages.
"""

import dataclasses
import json
import re
from typing import Any

from eos_jax.ops import needs, plan, plan_file, types

_DRAFT = "https://json-schema.org/draft/2020-12/schema"
_SCALARS = {str: "string", int: "integer", float: "number"}


def plan_schema() -> dict[str, Any]:
  """Returns the JSON schema of `ReductionPlan.to_json`.

  What it cannot say is left to `ReductionPlan.from_json`: that every choice and
  number is in "operator" or at the site, that sites are in the order in which
  they run, that counts never rise, that `pi` has one weight for each score, and
  that no weight can be 0 where it is divided by.

  >>> plan_schema()["properties"]["tokens"]["minimum"]
  1
  """
  site = _record(plan.PlannedSite)
  del site["properties"]["spec"]
  site["properties"]["site"]["pattern"] = f"^{plan.SITE.pattern}$"
  site["properties"]["keep"] |= _count(1)
  site["required"].remove("spec")
  whole = _record(plan.ReductionPlan)
  fields = whole["properties"]
  sites = fields.pop("sites") | {"items": _with_operator(site)}
  fields["name"] |= {
    "pattern": r"^[^./\\\s]([^/\\]*[^/\\\s])?$",
    "maxLength": plan_file.MOST_TEXT,
  }
  fields["model"]["maxLength"] = plan_file.MOST_TEXT
  fields["tokens"] |= _count(1)
  fields["layers"] |= _count(1, plan_file.MOST_LAYERS)
  fields["provenance"] |= _provenance()
  operator = {"type": "object", "description": "what all sites share."}
  whole["properties"] = {
    "format": {"const": plan_file.FORMAT},
    **fields,
    "operator": _with_operator(operator),
    "sites": sites | {"type": "array", "maxItems": plan_file.MOST_LAYERS},
  }
  whole["required"] = ["format", *plan_file.REQUIRED]
  return {
    "$schema": _DRAFT,
    "title": "eos_jax.ReductionPlan",
    **whole,
    "$defs": {"operator": _operator()},
  }


def _with_operator(schema):
  """Schema of an object that may have fields of an operator, too."""
  found = {n: v for n, v in schema.items() if n != "additionalProperties"}
  return found | {"$ref": "#/$defs/operator", "unevaluatedProperties": False}


def _provenance():
  """Schema of plain values by name."""
  kinds = ["string", "number", "boolean", "null"]
  return {
    "type": "object",
    "maxProperties": plan_file.MOST_ITEMS,
    "additionalProperties": {"type": kinds, "maxLength": plan_file.MOST_TEXT},
  }


def _operator():
  """Schema of an `OperatorSpec`, with the choices and ranges of its fields."""
  fields = _record(types.OperatorSpec)["properties"]
  numbers = _described(types.OperatorParams)
  for name, field in fields.items():
    if name in numbers:
      field["description"] = numbers[name]
    if field["type"] == "array":
      field["maxItems"] = plan_file.MOST_ITEMS
  for name, known in {**types.CHOICES, **needs.known_kernels()}.items():
    target = fields[name]
    if target["type"] == "array":
      target = target["items"]
    target["enum"] = sorted(known)
  for name in plan.BOUNDED:
    field = fields[name]
    low, high = types.NUMBERS.get(name, (0, plan.MOST_NUMBER))
    (field["items"] if field["type"] == "array" else field).update(
      minimum=max(low, -plan.MOST_NUMBER), maximum=min(high, plan.MOST_NUMBER)
    )
  for name in ("protect", "neighbours", "stride"):
    fields[name] |= _count(0)
  fields["recycle"] |= {"minimum": 0, "maximum": 1}
  fields["tau"]["exclusiveMinimum"] = 0
  return {"properties": fields}


def _count(least: int, most: int = plan_file.MOST_COUNT) -> dict[str, int]:
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
