import pathlib

import pytest

from eos_jax.training import settings

ROOT = pathlib.Path(__file__).parents[2]


def _load(name, arg=""):
  path = ROOT / "configs" / name
  space: dict = {}
  exec(compile(path.read_text(), str(path), "exec"), space)
  return space["get_config"](arg)


@pytest.mark.parametrize("arg", ["", "ci"])
def test_shipped_configs_build(arg):
  values = _load("pretrain.py", arg).to_dict()
  values.pop("task")
  assert settings.build(settings.PretrainSettings, values).seed == 0
  values = _load("search.py", arg).to_dict()
  for name in ("task", "weights_path"):
    values.pop(name)
  evaluation = values.pop("evaluation")
  chosen = settings.build(settings.SearchSettings, values)
  assert chosen.steps % chosen.check_every == 0
  assert settings.build(settings.EvaluationSettings, evaluation).questions > 0


def test_unknown_variant_is_refused():
  with pytest.raises(ValueError, match="variant 'huge' is unknown"):
    _load("search.py", "huge")


def test_every_fault_is_listed_at_once():
  with pytest.raises(ValueError) as error:
    settings.build(
      settings.StageSettings,
      {
        "steps": "ten",
        "batch": 2.5,
        "learning_rat": 1.0,
        "warmup": 1,
        "weight_decay": 0,
      },
    )
  text = str(error.value)
  assert "config.learning_rat is unknown" in text
  assert "config.steps must be int, got 'ten'" in text
  assert "config.batch must be int, got 2.5" in text
  assert "config.learning_rate is missing" in text


def test_check_interval_that_does_not_divide_the_steps_is_refused():
  values = _load("search.py").to_dict()
  for name in ("task", "weights_path", "evaluation"):
    values.pop(name)
  values["check_every"] = values["steps"] - 1
  with pytest.raises(ValueError, match="does not divide steps"):
    settings.build(settings.SearchSettings, values)
