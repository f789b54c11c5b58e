import pathlib

import pytest

from eos_jax.training import search_settings, settings

ROOT = pathlib.Path(__file__).parents[2]


def _load(name, arg=""):
  path = ROOT / "configs" / name
  space: dict = {}
  exec(compile(path.read_text(), str(path), "exec"), space)
  return space["get_config"](arg)


def _values(name, arg=""):
  values = _load(name, arg).to_dict()
  values.pop("task")
  return values


@pytest.mark.parametrize("arg", ["", "family", "fast", "ci"])
def test_shipped_configs_build(arg):
  if arg in ("", "ci"):
    chosen = settings.build(
      settings.PretrainSettings, _values("pretrain.py", arg)
    )
    assert chosen.seed == 0
  job = settings.build(search_settings.SearchJob, _values("search.py", arg))
  assert job.steps % job.check_every == 0
  assert job.evaluation.questions > 0


def test_faults_of_a_search_for_all_budgets():
  values = _values("search.py")
  values |= {
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
    " with --config=configs/benchmark.py:latency and give its JSON file",
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
  values["evaluation"]["batch"] = 0
  with pytest.raises(settings.ConfigError) as error:
    settings.build(search_settings.SearchJob, values)
  assert (
    str(error.value)
    == """\
the config has faults:
  config.learning_rat is unknown; did you mean 'learning_rate'?
  config.budgets must be a tuple, got 48
  config.steps must be int, got 'ten' (str)
  config.learning_rate is missing
  config.data.suite is 'heldout'; did you mean 'held_out'?
  config.evaluation.batch is 0; use 1 or more
  config.evaluation.presets has 'tomme'; did you mean 'tome'?"""
  )


def test_impossible_values_are_listed_at_once():
  values = _values("search.py")
  values |= {
    "mode": "frosen",
    "start": "nonsense",
    "free": ("where", "transfers"),
    "budgets": (16.0, 16.0, -1.0),
    "weights": (0.0, 0.0),
    "check_every": values["steps"] - 1,
    "penalty": -1.0,
    "learning_rate": 0.0,
    "temperature_start": 0.0005,
  }
  with pytest.raises(settings.ConfigError) as error:
    settings.build(search_settings.SearchJob, values)
  text = "\n".join(error.value.faults)
  assert len(error.value.faults) == 10
  for part in (
    "config.mode is 'frosen'; did you mean 'frozen'?",
    "config.start is 'nonsense'; use one of csp, dart,",
    "config.free has 'transfers'; did you mean 'transfer'?",
    "config.budgets is (16.0, 16.0, -1.0); give positive numbers",
    "config.budgets is (16.0, 16.0, -1.0); give each once",
    "config.weights is (0.0, 0.0); give shares of 0 or more, not all 0",
    "config.check_every is 59, which does not divide steps=60",
    "config.penalty is -1.0; use 0 or more",
    "config.learning_rate is 0.0; use a number above 0",
    "config.temperature_start is 0.0005; use temperature_end=0.001 or more",
  ):
    assert part in text


def test_what_may_change_between_starts():
  assert settings.harmless(search_settings.SearchJob) == {
    "config.data.directory",
    "config.keep",
    "config.log_every",
    "config.mesh",
    "config.remat",
    "config.save_every",
    "config.trace_steps",
    "config.weights_path",
    "config.evaluation",
  }
  job = settings.build(search_settings.SearchJob, _values("search.py"))
  bound = settings.binding(job)
  assert bound["data"] == {"suite": "held_out"}
  assert "evaluation" not in bound and "steps" in bound
