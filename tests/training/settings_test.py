import dataclasses
import json
import math
import pathlib
import re
import runpy
import typing

import pytest

from eos_jax import models, naming, ops, tasks
from eos_jax.training import (
  compile_settings,
  data_settings,
  finetune_settings,
  search_settings,
  settings,
)

ROOT = pathlib.Path(__file__).parents[2]


def _load(name, arg=""):
  return runpy.run_path(str(ROOT / "configs" / name))["get_config"](arg)


def _values(name, arg=""):
  values = _load(name, arg).to_dict()
  values.pop("task")
  return values


def _variants():
  """Every config file with each of its variants."""
  for path in sorted((ROOT / "configs").glob("*.py")):
    variants = runpy.run_path(str(path)).get("VARIANTS", ("",))
    yield from ((path.name, variant) for variant in variants)


# What no default can name, by its dotted name.
_NAMED = {
  "plan": "plan.json",
  "model": "model",
  "images": ("image.png",),
  "question": "What is it?",
}


@pytest.mark.parametrize("name, variant", list(_variants()))
def test_every_variant_builds_its_dataclass(name, variant):
  config = _load(name, variant)
  assert config.is_locked
  values = config.to_dict()
  kind = tasks.TASKS[values.pop("task")].settings
  for field, value in _NAMED.items():
    if values.get(field) in ("", ()):
      _changed(values, field, value)
  settings.build(kind, values)


def test_variants_change_the_defaults_alone():
  default, short = (_values("search.py", arg) for arg in ("", "ci"))
  data = data_settings.DataSettings(suite="held_out")
  assert default["data"] == dataclasses.asdict(data)
  assert short["data"] == default["data"] | {"suite": "tiny"}
  job = settings.build(search_settings.SearchJob, default)
  assert job == search_settings.SearchJob()
  changed = {"steps": 4, "no_field": 1}
  for variants in ({"": changed}, {"": {"data.no_field": 1}}):
    with pytest.raises((KeyError, AttributeError), match="no_field"):
      settings.config("search", search_settings.SearchJob, variants)


def _kinds(kind):
  """A settings dataclass and those of its groups."""
  yield kind
  for hint in typing.get_type_hints(kind).values():
    if dataclasses.is_dataclass(hint):
      yield from _kinds(hint)


_KINDS = {
  each: None for task in tasks.TASKS.values() for each in _kinds(task.settings)
}


@pytest.mark.parametrize("kind", _KINDS, ids=lambda kind: kind.__name__)
def test_every_field_is_described(kind):
  text = "\n".join(base.__doc__ or "" for base in kind.__mro__)
  if kind in (search_settings.RangeSettings, search_settings.PriorSettings):
    assert "`NUMBERS`" in text
    text = ops.OperatorParams.__doc__
  described = re.findall(r"^    ((?:\w+, )*\w+): ", text, re.M)
  names = {name for entry in described for name in entry.split(", ")}
  fields = {field.name for field in dataclasses.fields(kind)}
  assert fields <= names, fields - names


def test_a_subclass_changes_a_default_and_keeps_the_rule():
  @dataclasses.dataclass(frozen=True)
  class Longer(search_settings.SearchSettings):
    steps: int = 120
    mesh: tuple[int, ...] = settings.field(())

  assert Longer().steps == 120
  with pytest.raises(settings.ConfigError, match="steps is -1; use 0 or more"):
    Longer(steps=-1)
  assert "config.log_every" in settings.resumable(Longer)
  assert "config.steps" not in settings.resumable(Longer)


@pytest.mark.parametrize(
  "rule, value, fault",
  [
    ({"least": 1}, 1, ""),
    ({"least": 1}, 0, "use 1 or more"),
    ({"least": 0.5}, 0.25, "use 0.5 or more"),
    ({"least": 1}, 2**31, "use 1 to 2147483647"),
    ({"least": 1, "most": 4}, 5, "use 1 to 4"),
    ({"above": 0}, 0.0, "use a number above 0"),
    ({"above": 0}, 1e-6, ""),
    ({"least": 0, "most": 1}, 1.0, ""),
    ({"least": 0, "most": 1}, 1.5, "use a number from 0 to 1"),
    ({"choices": ("a", "bb")}, "b", "did you mean 'bb'?"),
    ({"choices": ("a", "bb")}, ("a", "bb"), ""),
    ({"choices": ("a", "bb")}, ("a", "x"), "use one of a, bb"),
    ({"once": True}, ("a", "a"), "give each once"),
    ({"needed": "give one"}, "", "give one"),
    ({"needed": "give one"}, ("a",), ""),
    ({}, math.inf, ""),
  ],
  ids=str,
)
def test_rules(rule, value, fault):
  found = list(settings.Rule(**rule).faults("name", value))
  assert len(found) == bool(fault)
  assert not fault or (found[0].startswith("name ") and fault in found[0])


def test_faults_of_a_search_for_all_budgets():
  values = _values("search.py")
  values |= {
    "steps": 60,
    "check_every": 60,
    "knots": 1,
    "budgets": (16.0,),
    "calibration_steps": 5,
    "labels": False,
    "align": 0.0,
    "relaxation": "anealed",
  }
  values["ranges"]["gamma"] = (0.1,)
  values["priors"]["tau"] = -1.0
  values["limits"]["latency"] = 0.5
  with pytest.raises(settings.ConfigError) as error:
    settings.build(search_settings.SearchJob, values)
  nested, whole = error.value.faults[:3], error.value.faults[3:]
  assert nested == (
    "config.limits.latency_table is empty, but latency is limited; measure one"
    " with --config=configs/timing.py:latency and give its JSON file",
    "config.ranges.gamma is (0.1,); give (low, high) or ()",
    "config.priors.tau is -1.0; use 0 or more",
  )
  assert whole == ()  # a group has to be right before the whole is judged
  values["ranges"]["gamma"], values["priors"]["tau"] = (), 0.0
  values["limits"]["latency"] = 0.0
  with pytest.raises(settings.ConfigError) as error:
    settings.build(search_settings.SearchJob, values)
  text = "\n".join(error.value.faults)
  for part in (
    "config.relaxation is 'anealed'; did you mean 'annealed'?",
    "config.check_every is 60, which does not divide steps=60 +"
    " calibration_steps=5",
    "config.align is 0, but without labels it is all of the loss; use 1.0",
    "config.knots is 1; use 0, or 2 or more",
    "config.budgets is (16.0,); a search with knots needs the smallest",
    "config.calibration_steps is 5; one search for all budgets",
  ):
    assert part in text


def test_unknown_variant_is_refused():
  with pytest.raises(ValueError, match="variant 'huge' is unknown"):
    _load("search.py", "huge")


def test_every_fault_is_listed_at_once():
  values = _values("search.py")
  values["learning_rat"] = values.pop("learning_rate")
  values["steps"] = "ten"
  values["budgets"] = 48
  values["data"]["suite"] = "heldout"
  values["evaluation"]["presets"] = ("prune", "tomme")
  values["evaluation"]["batch"] = -1
  with pytest.raises(settings.ConfigError) as error:
    settings.build(search_settings.SearchJob, values)
  assert (
    str(error.value)
    == """\
the config has faults:
  config.learning_rat is unknown; did you mean 'learning_rate'?
  config.data.suite is 'heldout'; did you mean 'held_out'?
  config.evaluation.batch is -1; use 0 or more
  config.evaluation.presets has 'tomme'; did you mean 'tome'?
  config.budgets must be a tuple, got 48
  config.steps must be int, got 'ten' (str)
  config.learning_rate is missing"""
  )


def test_impossible_values_are_listed_at_once():
  values = _values("search.py")
  values |= {
    "mode": "frosen",
    "start": "nonsense",
    "free": ("where", "transfers"),
    "budgets": (16.0, 16.0, -1.0),
    "steps": 60,
    "check_every": 59,
    "penalty": -1.0,
    "learning_rate": 0.0,
    "temperature_start": 0.0005,
  }
  with pytest.raises(settings.ConfigError) as error:
    settings.build(search_settings.SearchJob, values)
  text = "\n".join(error.value.faults)
  assert len(error.value.faults) == 9
  for part in (
    "config.mode is 'frosen'; did you mean 'frozen'?",
    "config.start is 'nonsense'; use one of csp, dart,",
    "config.free has 'transfers'; did you mean 'transfer'?",
    "config.budgets is (16.0, 16.0, -1.0); give positive numbers",
    "config.budgets is (16.0, 16.0, -1.0); give each once",
    "config.check_every is 59, which does not divide steps=60",
    "config.penalty is -1.0; use 0 or more",
    "config.learning_rate is 0.0; use a number above 0",
    "config.temperature_start is 0.0005; use temperature_end=0.001 or more",
  ):
    assert part in text


def test_what_may_change_between_starts():
  assert settings.resumable(search_settings.SearchJob) == {
    "config.data.directory",
    "config.checkpoints_to_keep",
    "config.log_every",
    "config.mesh",
    "config.remat",
    "config.save_every",
    "config.trace_steps",
    "config.model",
    "config.dtype",
    "config.allow_outside",
    "config.data.path",
    "config.data.names",
    "config.data.images",
    "config.evaluation",
  }
  job = settings.build(search_settings.SearchJob, _values("search.py"))
  bound = settings.binding(job)
  assert bound["data"]["suite"] == "held_out"
  assert not {"directory", "path", "names", "images"} & bound["data"].keys()
  assert "evaluation" not in bound and "steps" in bound


def _changed(values, name, value):
  """Sets a field by its dotted name."""
  *groups, field = name.split(".")
  for group in groups:
    values = values[group]
  assert field in values
  values[field] = value


def _faults(name, value, config="search.py", task="search"):
  """Faults of a config with one change, each without the name of the field."""
  values = _values(config, "ci")
  if task == "finetune":
    values["plan"] = "plan.json"
  _changed(values, name, value)
  try:
    settings.build(tasks.TASKS[task].settings, values)
  except settings.ConfigError as error:
    start = f"config.{name} "
    assert all(fault.startswith(start) for fault in error.faults), error
    return [fault.removeprefix(start) for fault in error.faults]
  return []


_FINITE = "use a finite number that float32 can hold"


@pytest.mark.parametrize(
  "name, value, fault",
  [
    ("align", math.nan, f"is nan; {_FINITE}"),
    ("penalty", math.inf, f"is inf; {_FINITE}"),
    ("learning_rate", 1e39, f"is 1e+39; {_FINITE}"),
    ("align", -(10**400), f"is an integer of 1329 bits; {_FINITE}"),
    ("priors.rho", math.inf, f"is inf; {_FINITE}"),
    ("limits.flops", math.nan, f"is nan; {_FINITE}"),
    ("temperature_start", math.nan, f"is nan; {_FINITE}"),
    ("budgets", (math.inf,), f"is inf; {_FINITE}"),
    ("data.mixture", (math.nan, 1.0), f"is nan; {_FINITE}"),
    ("ranges.gamma", (0.0, math.inf), f"is inf; {_FINITE}"),
    ("ranges.tau", (math.inf, math.inf), f"is inf; {_FINITE}"),
    (
      "temperature_end",
      1e-320,
      "is 1e-320; use 0, or a number of at least 1.2e-38 as float32 has it",
    ),
    ("temperature_end", 1e-30, "is 1e-30; use 1e-06 or more"),
    ("seed", -1, "is -1; use 0 or more"),
    ("seed", 2**63, f"is {2**63}; use an integer of at most 64 bits"),
    ("seed", 2**40, f"is {2**40}; use 0 to 4294967295"),
    ("evaluation.seed", -1, "is -1; use 0 or more"),
    (
      "evaluation.seed",
      2**70,
      f"is {2**70}; use an integer of at most 64 bits",
    ),
    ("batch", 2**30, "is 1073741824; use 0 to 65536"),
    ("steps", 2**40, f"is {2**40}; use 0 to 2147483647"),
    ("knots", 1e11, "must be int, got 100000000000.0 (float)"),
    ("knots", 10**11, "is 100000000000; use 0 to 100"),
    ("penalty", 0.0, "is 0; use a number above 0, such as 4.0"),
    ("start_decay", 1.5, "is 1.5; use a number from 0 to 1"),
    ("whole_from", 2.0, "is 2.0; use a number from 0 to 1"),
    (
      "budgets",
      (16.0000001, 16.0000002),
      "has 16.0000001 and 16.0000002, which would share the file name 16; let"
      " them differ in the first six digits",
    ),
    ("budgets", (1.0,) * 2000, "has 2000 entries; use at most 1000"),
    (
      "data.directory",
      "a\0b",
      "is 'a\\x00b'; use Unicode text without the character NUL; rename a file",
    ),
    (
      "model",
      "\ud83d",
      "is '\\ud83d'; use Unicode text without the character NUL; rename a file",
    ),
    (
      "data.directory",
      "x" * 300,
      f"is {naming.quoted('x' * 300)}; use names of at most 255 bytes and paths"
      " of at most 4096",
    ),
    (
      "evaluation.presets",
      ("pool",) * 2,
      "is ('pool', 'pool'); give each once",
    ),
  ],
  ids=str,
)
def test_values_that_no_search_can_use(name, value, fault):
  assert _faults(name, value) == [fault]


def test_topologies_that_are_no_names():
  values = _values("compile.py", "tiny")
  values["topologies"] = ("v5e:2x2", "v5p:2x2x2*2", "v5e", "v5e:4x4*99999999")
  with pytest.raises(settings.ConfigError) as error:
    settings.build(compile_settings.CompileJob, values)
  assert error.value.faults == tuple(
    f"config.topologies has {name!r}; give names such as 'v5e:4x4', 'v5p:2x2x2'"
    " or, for two slices, 'v5e:4x4*2'"
    for name in ("v5e", "v5e:4x4*99999999")
  )


def test_an_open_end_of_tau_is_no_fault():
  assert _faults("ranges.tau", (0.1, math.inf)) == []


def test_knots_too_near_for_float32():
  values = _values("search.py", "family")
  values |= {"knots": 50, "budgets": (16.0, 16.01)}
  with pytest.raises(settings.ConfigError) as error:
    settings.build(search_settings.SearchJob, values)
  assert error.value.faults == (
    "config.knots is 50, too many between the budgets 16 and 16.01; use fewer,"
    " or budgets that differ more",
  )


@pytest.mark.parametrize(
  "output, fault",
  [
    ("", "one or more printable characters"),
    ("..", "a name that does not start with '.' or start or end with a space"),
    (
      ".lock",
      "a name that does not start with '.' or start or end with a space",
    ),
    ("a/b.safetensors", "a name without '/' and '\\'"),
    ("a\n.safetensors", "one or more printable characters"),
    ("x" * 230 + ".safetensors", "a name of at most 200 bytes"),
    ("run.json", None),
    ("metrics.jsonl", None),
    ("checkpoints", None),
    ("run.safetensors", None),
  ],
)
@pytest.mark.parametrize("task", ["finetune", "pretrain"])
def test_outputs_that_would_replace_files_of_a_run(task, output, fault):
  fault = fault or ("a name that no other file of a run has, such as 'weights'")
  found = _faults("output", output, f"{task}.py", task)
  assert found == [f"is {naming.quoted(output)}; give {fault}"]


def test_messages_stay_short_whatever_is_quoted():
  deep = ()
  for _ in range(500):
    deep = (deep,)
  values = _values("search.py")
  values |= {"start": "x" * 10**6, "steps": "9" * 10**6, "budgets": deep}
  values |= {"y" * 10**6: 1, "free": ("z" * 200,), "seed": 10**5000}
  with pytest.raises(settings.ConfigError) as error:
    settings.build(search_settings.SearchJob, values)
  assert len(str(error.value)) < 3000


# Of a task's check: what depends on data and model.


def _refused(task, changes, tmp_path):
  values = _values(f"{task}.py", "ci")
  for name, value in changes.items():
    _changed(values, name, value)
  with pytest.raises(settings.ConfigError) as error:
    tasks.run(task, values, tmp_path / "w")
  assert not (tmp_path / "w").exists()
  return [fault.removeprefix("config.") for fault in error.value.faults]


def test_more_questions_than_there_are(tmp_path):
  assert _refused(
    "search",
    {"check_questions": 3581, "evaluation.questions": 10_299},
    tmp_path,
  ) == [
    "check_questions is 3581; the validation split of"
    " config.data.suite='tiny' has 3580 questions, use at most so many",
    "evaluation.questions is 10299; the test split of config.data.suite='tiny'"
    " has 10298 questions, use at most so many",
  ]


@pytest.mark.parametrize("task", ["search", "pretrain"])
@pytest.mark.parametrize(
  "shares, fault",
  [
    ((1.0,), "give 2 shares, of mini_suite and easy_vqa"),
    ((1.0, 1.0, 1.0), "give 2 shares, of mini_suite and easy_vqa"),
    ((0.0, 0.0), "give shares of 0 or more, not all 0"),
  ],
)
def test_mixtures_that_are_none(task, shares, fault, tmp_path):
  assert _refused(task, {"data.mixture": shares}, tmp_path) == [
    f"data.mixture is {shares}; {fault}"
  ]


def test_values_that_do_not_fit_those_that_follow_from_the_model():
  cfg = models.tiny_config()
  for changes, fault in (
    (
      {"micro_batch": 5},
      "config.micro_batch is 5, which does not divide batch=24; use a divisor,"
      " or 0 for the whole batch at once",
    ),
    (
      {"check_every": 59},
      "config.check_every is 59, which does not divide steps=60; the last check"
      " of a budget judges its plan",
    ),
    (
      {"knots": 1},
      "config.knots is 1; use 0, or 2 or more",
    ),
  ):
    job = search_settings.SearchJob(**changes)
    with pytest.raises(settings.ConfigError) as error:
      job.for_model(cfg)
    assert error.value.faults == (fault,)


def test_a_search_follows_from_its_model():
  cfg = models.tiny_config()
  job = search_settings.SearchJob().for_model(cfg)
  assert job.budgets == (48.0, 32.0, 16.0, 4.0)
  assert job.sites == tuple(f"decoder.{layer}" for layer in range(5))
  assert (job.batch, job.check_batch, job.evaluation.batch) == (24, 64, 128)
  assert (job.steps, job.check_every, job.save_every) == (60, 60, 60)
  assert job.remat == "none"
  assert job.for_model(cfg) == job
  large = models.llava_1_5_7b()
  job = search_settings.SearchJob(calibration_steps=10).for_model(large)
  assert job.budgets == (192.0, 128.0, 64.0, 16.0)
  assert job.sites == ("decoder.0", "decoder.2", "decoder.8", "decoder.16")
  assert (job.batch, job.check_batch, job.evaluation.batch) == (8, 8, 8)
  assert (job.steps, job.check_every, job.save_every) == (240, 250, 250)
  assert job.remat == "layers"
  given = {"budgets": (5.0,), "sites": ("vision.1",), "steps": 7, "batch": 2}
  given |= {"remat": "products", "check_every": 7}
  job = search_settings.SearchJob(**given).for_model(large)
  assert {name: getattr(job, name) for name in given} == given


def test_fine_tuning_follows_from_its_model():
  job = finetune_settings.FinetuneJob(plan="p.json", steps=50)
  assert job.for_model(models.tiny_config()).check_every == 50
  job = finetune_settings.FinetuneJob(plan="p.json", steps=400)
  assert job.for_model(models.tiny_config()).check_every == 100


def test_a_start_below_what_can_be_reached(tmp_path):
  (fault,) = _refused("search", {"start_multiple": 1e-6}, tmp_path)
  assert fault.startswith(
    "start_multiple is 1e-06, so the search would start from lower limits than"
    " can be reached: smallest reachable layer average is 1"
  )


def test_pretraining_on_data_without_a_train_split(tmp_path):
  assert _refused("pretrain", {"data.suite": "held_out"}, tmp_path) == [
    "data: suite has no train split for pretraining, only validation, test; use"
    " config.data.suite='default'"
  ]


def _table(**changes):
  """A latency table of the shipped model, as JSON."""
  return json.dumps(
    {
      "format": "eos_jax.LatencyTable/1",
      "model": "tiny",
      "device": "cpu",
      "dtype": "float32",
      "jax_version": "0.10",
      "tokens": [1, 500],
      "batches": [1],
      "seconds": [[1e-3, 2e-3]],
      "overhead": [5e-3],
      "vision_rows": [],
      "vision_seconds": [[]],
    }
    | changes
  )


@pytest.mark.parametrize(
  "text, fault",
  [
    (_table(), None),
    (
      _table(seconds=[[0, 0]], overhead=[0]),
      "latency is a share of the dense model's, which is 0; measure a table in"
      " which prefills take time",
    ),
    ("[" * 10**5, "is nested too deeply to be a table"),
    (_table(seconds=[[10**400, 1]]), "expected numbers in 2 axes"),
  ],
  ids=["sound", "zero", "deep", "large"],
)
def test_latency_tables_that_cannot_be_used(text, fault, tmp_path):
  table = tmp_path / "latency.json"
  table.write_text(text)
  values = _values("search.py", "ci")
  values["limits"] |= {"latency": 0.95, "latency_table": str(table)}
  job = settings.build(search_settings.SearchJob, values)
  if fault is None:
    tasks.TASKS["search"].check(job)
    return
  with pytest.raises(settings.ConfigError) as error:
    tasks.TASKS["search"].check(job)
  (found,) = error.value.faults
  assert found.startswith("config.limits.latency") and fault in found
