"""Plans and specs: JSON, validation."""

import json
import pathlib
import re

import pytest

from eos_jax import ops
from eos_jax.ops import plan_file, trial

GOLDENS = pathlib.Path(__file__).parents[1] / "goldens" / "plans"
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


def test_json_has_every_choice_and_number_and_shared_ones_once():
  data = json.loads(_plan().to_json())
  shared = data["operator"]
  assert shared["recycle"] == 1.0 and shared["sources"] == "removed"
  for site, planned in zip(data["sites"], SITES, strict=True):
    assert not set(site) & set(shared)
    whole = {n: v for n, v in {**shared, **site}.items() if n not in _OF_SITES}
    assert whole == json.loads(json.dumps(vars(planned.spec)))
  # Of one site all is shared.
  (site,) = json.loads(_plan(sites=SITES[1:2]).to_json())["sites"]
  assert site == {"site": "decoder.0", "keep": 48}


_OF_SITES = ("site", "keep")


def _searched(count):
  """A plan as a search writes it: numbers of their own at each site."""

  def number(site, place):
    return round(0.1 + 0.83 / (3 * site + place + 1), 9)

  names = ("activation", "retention", "gamma", "tau", "rho", "rho_attn", "eta")
  sites = tuple(
    ops.PlannedSite(
      f"decoder.{index}",
      40 - index,
      ops.presets.HYBRID.replace(
        name="eos@16",
        pi=(0.123456789, 0.023456789, 0.003456789, 0.833456789, 0.016172844),
        omega=(number(index, 9), 0.123456789),
        **{name: number(index, place) for place, name in enumerate(names)},
      ),
    )
    for index in range(count)
  )
  return _plan(sites=sites, note="", provenance={"seed": 0, "score": 0.5})


def test_a_plan_of_five_sites_can_be_read_by_people():
  lines = _searched(5).to_json().splitlines()
  assert len(lines) <= 45
  assert max(map(len, lines)) <= 80


def test_a_site_may_differ_from_what_is_shared():
  data = json.loads(_plan(sites=SITES[1:2]).to_json())
  data["sites"][0]["gamma"] = 0.125
  (site,) = ops.ReductionPlan.from_json(json.dumps(data)).sites
  assert site.spec == ops.presets.HYBRID.replace(gamma=0.125)


def test_nothing_is_left_to_defaults():
  data = json.loads(_plan().to_json())
  for name in list(data["operator"]):
    less = {n: v for n, v in data["operator"].items() if n != name}
    text = json.dumps(data | {"operator": less})
    with pytest.raises(ValueError, match=rf"'vision.1' lacks \['{name}'\]"):
      ops.ReductionPlan.from_json(text)


def test_provenance_is_kept_and_no_part_of_equality():
  known = {"seed": 3, "score": 0.5, "run": "a", "labels": True, "note": None}
  plan, other = _plan(), _plan(provenance=known)
  again = ops.ReductionPlan.from_json(other.to_json())
  assert dict(again.provenance) == known and list(again.provenance) == list(
    known
  )
  assert plan == other == again and hash(plan) == hash(other)
  assert plan.digest == other.digest == again.digest
  assert plan.digest != _plan(tokens=145).digest
  known["seed"] = 4
  assert other.provenance["seed"] == 3


def test_equal_plans_have_equal_digests():
  """Whether a number was given as an integer makes no difference."""
  plans = [
    _plan(sites=(ops.PlannedSite("decoder.0", 9, ops.PRESETS["merge"]),)),
    _plan(
      sites=(
        ops.PlannedSite("decoder.0", 9, ops.presets.MERGE.replace(gamma=1)),
      )
    ),
  ]
  assert plans[0] == plans[1] and plans[0].digest == plans[1].digest


@pytest.mark.parametrize(
  "provenance, words",
  [
    ({"a": float("nan")}, "provenance['a'] is nan, use a text, a finite"),
    ({"a": [1]}, "provenance['a'] is [1], use a text, a finite"),
    ({"a": "b\nc"}, "provenance has 'b\\nc', use at most 200 printable"),
    ({"\ud83d": 1}, "provenance has '\\ud83d', use at most 200 printable"),
    ({"a": "x" * 999}, "xxx', use at most 200 printable characters"),
    ({str(n): n for n in range(99)}, "has 99 entries, use at most 64"),
  ],
)
def test_provenance_is_plain(provenance, words):
  with pytest.raises(ValueError, match=re.escape(words)):
    _plan(provenance=provenance)


@pytest.mark.parametrize("name", ["eos_16", "mixed"])
def test_files_of_the_first_format_are_read(name):
  text = (GOLDENS / f"{name}.v1.json").read_text(encoding="utf-8")
  plan = ops.ReductionPlan.from_json(text)
  first = json.loads(text)
  for site, planned in zip(first["sites"], plan.sites, strict=True):
    spec = {n: site["spec"][n] for n in plan_file.OPERATOR}
    assert spec == json.loads(json.dumps(vars(planned.spec)))
    assert (site["site"], site["keep"]) == (planned.site, planned.keep)
  for field in ("name", "model", "tokens", "layers", "note"):
    assert first[field] == getattr(plan, field)
  assert ops.ReductionPlan.from_json(plan.to_json()) == plan


@pytest.mark.parametrize(
  "edit, words",
  [
    (lambda d: d.pop("sites"), "lacks ['sites']"),
    (lambda d: d.update(sites=3), "sites is 3, it must be a list"),
    (lambda d: d["sites"].append(3), "site is 3, it must be a JSON object"),
    (lambda d: d["sites"][0].pop("keep"), "lacks ['keep']"),
    (lambda d: d["sites"][0].update(spec=3), "has unknown fields ['spec']"),
    (lambda d: d["sites"][0]["spec"].pop("eta"), "lacks ['eta']"),
    (lambda d: d["sites"][0]["spec"].update(gama=1.0), "['gama']"),
    (lambda d: d["sites"][0]["spec"].update(rho=1e9), "use at most 10000"),
  ],
)
def test_faulty_files_of_the_first_format_are_refused(edit, words):
  text = (GOLDENS / "eos_16.v1.json").read_text(encoding="utf-8")
  data = json.loads(text)
  edit(data)
  with pytest.raises(ValueError, match=re.escape(words)):
    ops.ReductionPlan.from_json(json.dumps(data))


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
    ('{"format": "eos_jax.ReductionPlan/2"}', "lacks"),
    ('{"format": "eos_jax.ReductionPlan/3"}', "no format"),
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
    (lambda d: d["sites"][0].pop("tau"), "'vision.1' lacks.*tau"),
    (lambda d: d["sites"][0].update(tau="a"), "site 'vision.1' tau is 'a'"),
    (lambda d: d["sites"][0].update(gama=1.0), "gama"),
    (lambda d: d["sites"][0].update(layers=[0]), "unknown fields.*layers"),
    (lambda d: d["sites"][0].update(pi=0.5), "pi is 0.5"),
    (lambda d: d["operator"].update(kappa="a"), "operator kappa is 'a'"),
    (lambda d: d["operator"].update(gama=1.0), "operator has unknown.*gama"),
    (lambda d: d.update(operator=[]), r"operator is \[\], it must be a JSON"),
    (lambda d: d.update(provenance=3), "provenance is 3, it must be a JSON"),
  ],
)
def test_faulty_json_is_refused(edit, words):
  with pytest.raises(ValueError, match=words):
    ops.ReductionPlan.from_json(_edited(edit))


def _set(name, value):
  """An edit of the operator of the second site."""

  def edit(data):
    data["sites"][1][name] = value

  return edit


_FINITE = "use a finite number that float32 can hold"


@pytest.mark.parametrize(
  "edit, words",
  [
    (_set("rho", 1e308), f"rho is 1e+308, {_FINITE}"),
    (_set("rho", 10**400), f"rho is an integer of 1329 bits, {_FINITE}"),
    (_set("tau", 1e39), f"tau is 1e+39, {_FINITE}"),
    (_set("theta", True), "theta is True, it must be float"),
    (_set("rho", 1e5), "rho is 100000.0, use at most 10000"),
    (_set("omega", [1e5, 0.0]), "omega is (100000.0, 0.0), use at most 10000"),
    (_set("scores", ["norm", 3]), "scores[1] is 3, it must be str"),
    (_set("scores", [["norm"]]), "scores[0] is ['norm'], it must be str"),
    (_set("scores", ["norm"] * 99), "scores has 99 entries, use at most 64"),
    (_set("pi", [None]), "pi[0] is None, it must be float"),
    (_set("pi", ["1"]), "pi[0] is '1', it must be float"),
    (_set("omega", [{}, 1.0]), "omega[0] is {}, it must be float"),
    (_set("protect", 0.5), "protect is 0.5, it must be int"),
    (_set("stride", True), "stride is True, it must be int"),
    (_set("stride", 10**30), "use at most 2147483647"),
    (_set("name", "\ud83d"), "name is '\\ud83d', which is no Unicode text"),
    (_set("select", "x" * 10**5), "select has 100000 characters, use at most"),
    (
      _set("beta", "raw"),
      "beta is 'raw', but what is divided by may then be 0",
    ),
    (_set("alpha", "raw"), "alpha is 'raw' with eta="),
    (
      lambda d: d["sites"][0].update(assign="clusters"),
      "assign is 'clusters', whose centres are a",
    ),
    (lambda d: d["sites"].__setitem__(0, 3), "site is 3, it must be a JSON"),
    (lambda d: d.update(tokens=10**30), "tokens is 1000000000"),
    (lambda d: d.update(layers=10**5), "layers is 100000, use a count >= 1"),
    (lambda d: d.update(note="a\nb"), "note is 'a\\nb', use printable"),
    (lambda d: d.update(model="\ud83d"), "model is '\\ud83d', which is no"),
    (lambda d: d["sites"][0].update(site="vision." + "9" * 9), "site is 'vis"),
  ],
)
def test_values_that_no_operator_can_use(edit, words):
  with pytest.raises(ValueError, match=re.escape(words)) as error:
    ops.ReductionPlan.from_json(_edited(edit))
  assert len(str(error.value)) < 500


@pytest.mark.parametrize(
  "name, words",
  [
    ("/any/where", "without '/' and"),
    ("../../x", "without '/' and"),
    ("a\\b", "without '/' and"),
    ("..", "does not start with '.'"),
    (".lock", "does not start with '.'"),
    ("", "one or more printable characters"),
    ("a\nb", "one or more printable characters"),
    ("a\0", "one or more printable characters"),
    ("é" * 101, "a name of at most 200 bytes"),
  ],
)
def test_names_that_would_lead_out_of_a_folder(name, words):
  with pytest.raises(ValueError, match=re.escape(words)):
    _plan(name=name)
  with pytest.raises(ValueError, match=re.escape(words)):
    ops.ReductionPlan.from_json(_edited(lambda data: data.update(name=name)))


def test_features_that_would_overflow_over_the_sites():
  spec = ops.presets.REWEIGHT.replace(rho=9999.0)
  sites = tuple(ops.PlannedSite(f"decoder.{i}", 9, spec) for i in range(5))
  assert len(_plan(sites=sites[:4]).sites) == 4
  with pytest.raises(ValueError, match="features by up to 1e20, use numbers"):
    _plan(sites=sites)


def test_texts_in_other_encodings():
  text = _plan().to_json()
  for same in (text.encode(), text.encode("utf-8-sig"), "\ufeff" + text):
    assert ops.ReductionPlan.from_json(same) == _plan()
  for other in ("utf-16", "utf-32"):
    with pytest.raises(ValueError, match="no UTF-8 text .*save it as UTF-8"):
      ops.ReductionPlan.from_json(text.encode(other))
  with pytest.raises(ValueError, match="byte 1 is 0xe9"):
    ops.ReductionPlan.from_json(b"\x22\xe9\x22")


@pytest.mark.parametrize(
  "text, words",
  [
    ("[" * 10**5, "nested too deeply"),
    ('{"a": ' * 10**5, "nested too deeply"),
    ("9" * 5000, "no JSON: Exceeds the limit"),
    ('{"name": 1, "name": 2}', "an object has 'name' twice, keep one"),
    (" " * 2**21, "more than 1048576 bytes"),
  ],
  ids=["lists", "objects", "digits", "twice", "bytes"],
)
def test_texts_that_are_no_plan(text, words):
  with pytest.raises(ValueError, match=words):
    ops.ReductionPlan.from_json(text)


def test_messages_about_much_stay_short():
  def edit(data):
    data["sites"] = [data["sites"][0] | {"select": "x"}] * 999

  for change in (
    edit,
    lambda data: data.update({"x" * 10**5: 1, "y" * 10**5: 2}),
    lambda data: data.update(sites=["x" * 10**5]),
    lambda data: data.update(name="x" * 10**5),
  ):
    with pytest.raises(ValueError) as error:
      ops.ReductionPlan.from_json(_edited(change))
    assert len(str(error.value)) < 3000


@pytest.mark.parametrize(
  "keep, changes, words",
  [
    (50, dict(select="blocks"), "side is 0, use a number from 1"),
    (50, dict(select="blocks", stride=5), "set keep to 4"),
    (50, dict(select="kth"), "'kth' needs groups of 2 or more"),
    (50, dict(select="kth", stride=3), "set keep to 48"),
    (50, dict(select="bipartite"), "leaves at least 72 of 144 tokens"),
    (50, dict(assign="selected"), "its selection 'top_k' decides no shares"),
    (72, dict(select="bipartite", assign="selected"), None),
    (48, dict(select="kth", stride=3), None),
  ],
)
def test_operators_that_cannot_run_at_their_site(keep, changes, words):
  site = ops.PlannedSite(
    "decoder.1", keep, ops.presets.PRUNE.replace(**changes)
  )
  faults = trial.run_faults(_plan(sites=(site,)), grid=(12, 12))
  if words is None:
    assert not faults
  else:
    (fault,) = faults
    assert fault.startswith("site 'decoder.1': ") and words in fault


def test_counts_at_a_site_are_those_that_reach_it():
  specs = ops.presets.PRUNE, ops.presets.TOME
  plan = lambda first, second: _plan(
    sites=tuple(
      ops.PlannedSite(f"vision.{i}", keep, spec)
      for i, (keep, spec) in enumerate(zip((first, second), specs, strict=True))
    )
  )
  # With a class token: of 101 rows 50 may merge.
  run = lambda plan: trial.run_faults(plan, grid=(12, 12), protect=1)
  assert run(plan(100, 50)) == []
  (fault,) = run(plan(100, 49))
  assert "keep is 50, but one bipartite step" in fault


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
    (dict(protect=-1), "protect"),
    (dict(omega=(1.0, 0.0, 0.0)), "omega has 3"),
  ],
)
def test_specs_are_checked(changes, words):
  with pytest.raises(ValueError, match=words):
    ops.presets.PRUNE.replace(**changes)
