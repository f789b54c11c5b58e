"""The shipped schema is the one of the code, and says what the code says."""

import copy
import json
import pathlib

import jsonschema
import pytest

from eos_jax import cost, ops
from eos_jax.ops import schema

SHIPPED = pathlib.Path(schema.__file__).with_name("plan.schema.json")
VALIDATOR = jsonschema.Draft202012Validator(schema.plan_schema())


def _plan(name):
  return cost.budget_plan(
    ops.PRESETS[name],
    limit=80,
    tokens=144,
    layers=5,
    vision_layers=4,
    model="tiny",
  )


def test_the_shipped_file_is_up_to_date():
  text = json.dumps(schema.plan_schema(), indent=2) + "\n"
  assert SHIPPED.read_text(encoding="utf-8") == text, (
    "run python -m eos_jax.ops.schema > eos_jax/ops/plan.schema.json"
  )
  jsonschema.Draft202012Validator.check_schema(schema.plan_schema())


def test_every_field_is_described():
  whole = schema.plan_schema()
  fields = whole["properties"]
  site = fields["sites"]["items"]["properties"]
  operator = whole["$defs"]["operator"]["properties"]
  assert set(operator) == set(vars(ops.presets.PRUNE))
  for group in (fields, site, operator):
    for name, field in group.items():
      assert "description" in field or name == "format", name


@pytest.mark.parametrize("name", sorted(ops.PRESETS))
def test_plans_of_presets_are_valid(name):
  assert VALIDATOR.is_valid(json.loads(_plan(name).to_json()))


def _edited(change):
  data = json.loads(_plan("hybrid").to_json())
  change(data, data["sites"][0], data["operator"])
  return data


@pytest.mark.parametrize(
  "change",
  [
    lambda plan, site, spec: plan.pop("model"),
    lambda plan, site, spec: plan.update(tokens=0),
    lambda plan, site, spec: plan.update(format="eos_jax.ReductionPlan/0"),
    lambda plan, site, spec: plan.update(provenance=[]),
    lambda plan, site, spec: plan["provenance"].update(run=["a"]),
    lambda plan, site, spec: plan.pop("operator"),
    lambda plan, site, spec: plan.update(extra=1),
    lambda plan, site, spec: site.update(keep=0),
    lambda plan, site, spec: site.update(keep=3.5),
    lambda plan, site, spec: site.update(site="encoder.1"),
    lambda plan, site, spec: spec.update(select="top-k"),
    lambda plan, site, spec: spec.update(scores=["attention"]),
    lambda plan, site, spec: spec.update(gamma=1.5),
    lambda plan, site, spec: spec.update(rho=-1.0),
    lambda plan, site, spec: spec.update(tau=0.0),
    lambda plan, site, spec: spec.update(chi=2),
    lambda plan, site, spec: spec.update(depth=32),
    lambda plan, site, spec: site.update(gama=0.5),
    lambda plan, site, spec: site.update(gamma=1.5),
  ],
)
def test_schema_and_reader_refuse_the_same_edits(change):
  data = _edited(change)
  assert not VALIDATOR.is_valid(copy.deepcopy(data))
  with pytest.raises(ValueError):
    ops.ReductionPlan.from_json(json.dumps(data))


def test_edits_of_a_site_are_read():
  data = _edited(lambda plan, site, spec: site.update(keep=7, gamma=0.25))
  assert VALIDATOR.is_valid(data)
  (site,) = ops.ReductionPlan.from_json(json.dumps(data)).sites
  assert (site.keep, site.spec.gamma) == (7, 0.25)
