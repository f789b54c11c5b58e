"""Plans and specs: JSON, validation."""

import json

import pytest

from eos_jax import ops

SITES = (
  ops.PlannedSite("vision.1", 100, ops.presets.TOME),
  ops.PlannedSite("decoder.0", 48, ops.presets.HYBRID),
  ops.PlannedSite("decoder.3", 16, ops.presets.PRUNE),
)


def _plan(**changes):
  fields = dict(
    name="p", model="tiny", tokens=144, layers=5, sites=SITES, note="moved"
  )
  return ops.ReductionPlan(**(fields | changes))


def test_json_round_trip():
  plan = _plan()
  again = ops.ReductionPlan.from_json(plan.to_json())
  assert again == plan and hash(again) == hash(plan)


@pytest.mark.parametrize("name", sorted(ops.PRESETS))
def test_every_preset_survives_json(name):
  site = ops.PlannedSite("decoder.0", 100, ops.PRESETS[name])
  plan = _plan(sites=(site,))
  assert ops.ReductionPlan.from_json(plan.to_json()).sites[0] == site


def test_json_spells_every_number_out():
  data = json.loads(_plan().to_json())
  spec = data["sites"][1]["spec"]
  for name in ("gamma", "tau", "theta", "rho", "eta", "delta", "kappa"):
    assert isinstance(spec[name], float)
  assert spec["pi"] == list(ops.presets.HYBRID.pi)


def test_lookup_of_a_site():
  assert _plan().at("decoder.3").keep == 16
  assert _plan().at("decoder.1") is None


@pytest.mark.parametrize(
  "text, words",
  [
    ("{", "no JSON"),
    ("[]", "no format"),
    ("{}", "no format"),
    ('{"format": "eos_jax.ReductionPlan/1"}', "lacks"),
  ],
)
def test_foreign_json_is_refused(text, words):
  with pytest.raises(ValueError, match=words):
    ops.ReductionPlan.from_json(text)


def _edited(edit):
  data = json.loads(_plan().to_json())
  edit(data)
  return json.dumps(data)


@pytest.mark.parametrize(
  "edit, words",
  [
    (lambda d: d.update(extra=1), "unknown fields.*extra"),
    (lambda d: d.update(tokens="144"), "tokens is '144'"),
    (lambda d: d.update(layers=True), "layers is True"),
    (lambda d: d.update(sites={}), "must be a list"),
    (lambda d: d["sites"][0].pop("keep"), "lacks.*keep"),
    (lambda d: d["sites"][0].update(keep=1.5), "keep is 1.5"),
    (lambda d: d["sites"][0]["spec"].pop("tau"), "lacks.*tau"),
    (lambda d: d["sites"][0]["spec"].update(tau="a"), "tau is 'a'"),
    (lambda d: d["sites"][0]["spec"].update(gama=1.0), "gama"),
    (lambda d: d["sites"][0]["spec"].update(pi=0.5), "pi is 0.5"),
  ],
)
def test_faulty_json_is_refused(edit, words):
  with pytest.raises(ValueError, match=words):
    ops.ReductionPlan.from_json(_edited(edit))


def test_not_a_number_is_refused():
  text = _plan().to_json().replace('"tau": 0.05', '"tau": NaN')
  with pytest.raises(ValueError, match="tau is nan"):
    ops.ReductionPlan.from_json(text)


def test_all_faults_are_listed_together():
  spec = ops.presets.PRUNE
  sites = (
    ops.PlannedSite("decoder.0", 200, spec),
    ops.PlannedSite("decoder.7", 10, spec),
    ops.PlannedSite("decoder.1", 20, spec),
    ops.PlannedSite("attic.1", 2, spec),
    ops.PlannedSite("decoder.4", 0, spec.replace(assign="nope")),
  )
  with pytest.raises(ValueError) as error:
    _plan(sites=sites)
  text = str(error.value)
  for words in (
    "keeps 200 of 144",
    "the last of 5 layers is decoder.4",
    "'decoder.1' comes after a later one",
    "keeps 20, more than the 10",
    "site is 'attic.1'",
    "keeps 0",
    "assign names 'nope'",
  ):
    assert words in text, text


@pytest.mark.parametrize("site", ["decoder", "decoder.-1", "decoder.01", "x.0"])
def test_site_names(site):
  with pytest.raises(ValueError, match="vision.<block>"):
    ops.site_index(site)


@pytest.mark.parametrize(
  "changes, words",
  [
    (dict(tau=0.0), "tau is 0.0"),
    (dict(gamma=1.5), "gamma is 1.5"),
    (dict(eta=float("inf")), "eta is inf"),
    (dict(pi=(1.0,)), "pi has 1 weights for 2"),
    (dict(pi=(0.3, 0.3)), "pi sums to"),
    (dict(alpha="mass"), "alpha is 'mass', use one of"),
    (dict(layers=(32,)), "layers"),
    (dict(protect=-1), "protect"),
    (dict(omega=(1.0, 0.0, 0.0)), "omega has 3"),
  ],
)
def test_specs_are_checked(changes, words):
  with pytest.raises(ValueError, match=words):
    ops.presets.PRUNE.replace(**changes)
