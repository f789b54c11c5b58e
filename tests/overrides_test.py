"""The command line: one pass that separates, converts and lists faults."""

import math

import pytest

from eos_jax import main


def _config():
  return {
    "task": "search",
    "names": ("p",),
    "best": False,
    "steps": 3,
    "rate": 1.0,
    "path": "q",
    "data": {"suite": "tiny"},
  }


def _overridden(*argv):
  """The fields that arguments change, and the arguments that are left."""
  others, overrides = main._split(["main", *argv])
  config = _config()
  for name, values in overrides.items():
    assert not main._override(config, name, values)
  changed = {n: v for n, v in config.items() if v != _config()[n]}
  return changed, others[1:]


@pytest.mark.parametrize(
  "argv, changed",
  [
    ("--config.steps=4", {"steps": 4}),
    ("--config.steps 4", {"steps": 4}),
    ("--config.steps -4", {"steps": -4}),
    ("-config.steps=0x10", {"steps": 16}),
    ("--config.steps=4 --config.steps=5", {"steps": 5}),
    ("--config.rate 1e-3", {"rate": 1e-3}),
    ("--config.rate=-2", {"rate": -2.0}),
    ("--config.rate=1e400", {"rate": math.inf}),  # refused by the settings
    ("--config.best", {"best": True}),
    ("--config.best True", {"best": True}),
    ("--config.best --config.steps 4", {"best": True, "steps": 4}),
    ("--config.best --noconfig.best", {}),
    ("--config.best=1 --config.best=false", {}),
    ("--config.path=", {"path": ""}),
    ("--config.path=a=b", {"path": "a=b"}),
    ("--config.names=x", {"names": ("x",)}),
    ("--config.names=x --config.names=y", {"names": ("x", "y")}),
    ("--config.names=('x','y')", {"names": ("x", "y")}),
    ("--config.names=()", {"names": ()}),
    ("--config.names=(8,)", {"names": (8,)}),
    ("--config.data.suite default", {"data": {"suite": "default"}}),
  ],
)
def test_overrides(argv, changed):
  assert _overridden(*argv.split()) == (changed, [])


def test_other_arguments_are_left():
  assert _overridden(
    *("--config", "configs/search.py", "--config.best", "--workdir", "runs/x"),
    *("--config.path", "a\nb", "more", "--configs.steps=1"),
  ) == (
    {"best": True, "path": "a\nb"},
    [
      *("--config", "configs/search.py", "--workdir", "runs/x"),
      *("more", "--configs.steps=1"),
    ],
  )


@pytest.mark.parametrize(
  "arg, fault",
  [
    ("--config.stepz=1", "config.stepz is unknown; did you mean 'steps'?"),
    (
      "--config.steps.first=1",
      "config.steps.first is unknown; it is a single value that has no fields",
    ),
    ("--config.steps", "config.steps must be int; give --config.steps=VALUE"),
    (
      "--noconfig.path",
      "config.path must be str; give --config.path=VALUE",
    ),
    ("--config.steps=1.5", "config.steps must be int, got '1.5'"),
    ("--config.rate=fast", "config.rate must be float, got 'fast'"),
    ("--config.best=maybe", "config.best must be bool, got 'maybe'"),
    ("--config.names=(1,", "config.names must be tuple, got '(1,'"),
    (
      "--config.data={}",
      "config.data must be a group of fields, got '{}'; set one of"
      " config.data.suite",
    ),
  ],
)
def test_overrides_that_do_not_fit(arg, fault):
  _, overrides = main._split([arg])
  ((name, values),) = overrides.items()
  config = _config()
  assert main._override(config, name, values) == fault
  assert config == _config()
