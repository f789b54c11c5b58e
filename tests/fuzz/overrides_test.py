"""Odd values in every field of every config: refused by one fault, or sound.

Settings are built and checked in this process, which is all that a run does
before it makes its directory.
"""

import math
import os
import pathlib
import random
import runpy

import jax
import numpy as np
import pytest

import eos_jax
from eos_jax import files, tasks
from eos_jax.tasks import opening
from eos_jax.tasks import search as search_task
from eos_jax.training import search as search_lib
from eos_jax.training import search_settings, settings
from tests import campaign, command
from tests.data.benchmarks import minis
from tests.models import tiny_families

SEED = 36
_ODD = {
  bool: (None, 1, "True", "", ()),
  int: (
    *(-1, 0, 1, 2, 3, 7, 1000, 2**16, 2**31, 2**32, 2**63, -(2**63), 10**30),
    *(1e11, 0.5, math.nan, True, "1", None, (1,)),
  ),
  float: (
    *(math.nan, math.inf, -math.inf, -1.0, 0.0, -0.0, 1, 0.3, 1.0, 2.5, 1e30),
    *(1e39, 1e308, 1e-30, 1e-320, 10**400, 1e-6, True, "1.0", None, (1.0,)),
  ),
  str: (
    *("", ".", "..", "../x", "/", "/proc/x/y", "/dev/null", "a/b", "run.json"),
    *("x" * 300, "x/" * 3000, "\0", "\ud83d", "\n", "=1", "tiny", "prune"),
    *("x.safetensors", "decoder.0", "\u2028", 3, None, ("a",), "y" * 10**6),
  ),
  tuple: (
    *((), (0,), (-1,), (1, 1), (1, 2, 3), (1.5,), (math.nan,), (math.inf,)),
    *((1e400, 1.0), (16.0000001, 16.0000002), (1e-30, 1e30), (0.5, 0.5)),
    *((0.0, 1e5), (10**400,), ("x",), ("",), ("../x", "prune"), ("\0",)),
    *((None,), ((),), ({},), ("tome", "tome"), (2**40, 2), (1,) * 2000),
    *("x", 1, None, {}, [1.0], ("decoder.0",), ("decoder.9",), (8.0, 16.0)),
  ),
  dict: (None, 3, "x", (), {}, {"x": 1}),
}


def _short(arg, name="search"):
  path = command.ROOT / "configs" / f"{name}.py"
  config = runpy.run_path(str(path))["get_config"](arg).to_dict()
  return config.pop("task"), config


def _changed(base, changes):
  """A config with dotted changes, and what it is for."""
  task, config = base
  for name, value in changes.items():
    _set(config, name, value)
  return task, config


def _set(config, name, value):
  *groups, field = name.split(".")
  for group in groups:
    config = config[group]
  assert field in config, name
  config[field] = value


def _shipped():
  """Configs of the shipped model that can run, with their tasks."""
  root = pathlib.Path(eos_jax.__file__).parent
  plan = str(root / "models" / "plans" / "tiny_16.json")
  return [
    _short("ci"),
    _short(""),
    _short("family"),
    _changed(_short("ci", "evaluate"), {"plans": (plan,)}),
    _changed(_short("ci", "finetune"), {"plan": plan}),
    _short("ci", "pretrain"),
    _changed(_short("ci", "timing"), {"plans": (plan,)}),
    _short("tiny", "compile"),
    _short("", "report"),
  ]


def _family(root):
  """Configs of a model family that can run, with their tasks."""
  model = str(tiny_families.write("llava_1_5", root / "model"))
  data = tiny_families.instructions(root / "data", 40)
  minis.write("chartqa", root / "benchmarks" / "chartqa")
  named = {"model": model, "dtype": "float32"}
  searched = {
    **named,
    "data.path": str(data),
    "data.text_length": 160,
    "budgets": (3.0,),
    "sites": ("decoder.0",),
    "start": "merge",
  }
  asked = {
    **named,
    "data.path": str(root / "benchmarks"),
    "data.names": ("chartqa",),
    "budgets": (4.0,),
  }
  return [
    _changed(_short(""), searched),
    _changed(_short("", "evaluate"), asked),
    _changed(_short("", "convert"), {"model": model}),
    _changed(_short("tiny", "compile"), {"model": model}),
  ]


def _field(config, draw):
  """The dotted name and the value of a random field or group."""
  names = files.flat(config)
  groups = [name for name, value in config.items() if isinstance(value, dict)]
  if not names or (groups and draw.random() < 0.05):
    return (draw.choice(groups), {}) if groups else ("x", None)
  name = draw.choice(sorted(names))
  return name, names[name]


def _tried(task, config):
  """The job, or None where it is refused as it should be."""
  try:
    job = settings.build(tasks.TASKS[task].settings, config)
    tasks.TASKS[task].check(job)
  except settings.ConfigError as error:
    assert error.faults and len(str(error)) < 5000
    str(error).encode()
    return None
  return job


def _check_sound(job, where):
  """Refuses values that no run could use."""
  for name, value in files.flat(settings.binding(job)).items():
    values = value if isinstance(value, tuple) else (value,)
    for one in values:
      if isinstance(one, float) and "tau" not in name:
        assert math.isfinite(np.float32(one)), where
      if name.endswith("seed"):
        np.random.default_rng(one)
        jax.random.key(one)
  if isinstance(job, search_settings.SearchJob):
    found = opening.opened(job)
    job = job.for_model(found.cfg)
    problem = search_task._make_problem(found, None, job)
    if job.trains_model:
      return
    state = search_lib.first_state(problem)
    for leaf in jax.tree.leaves(state.variables):
      assert np.all(np.isfinite(leaf)), where
    for step in (0, job.steps):
      heat = search_lib.temperature_at(job, step)
      assert 0 < float(heat) < math.inf, where


def _campaign(bases, draws):
  """Counts of refused and accepted changes."""
  draw, counts = random.Random(SEED), {"refused": 0, "accepted": 0}
  for number in range(draws):
    task, base = draw.choice(bases)
    config = {**base}
    name, value = _field(config, draw)
    odd = draw.choice(_ODD[type(value)] if value is not None else (1,))
    if draw.random() < 0.2:
      odd = draw.choice(campaign.ODD_VALUES)
    config = _copied(config)
    *groups, field = name.split(".")
    inner = config
    for group in groups:
      inner = inner[group]
    inner[field] = odd
    where = f"{number}: {task}.{name} = {str(odd)[:60]!r}"
    try:
      job = _tried(task, config)
    except Exception as error:
      raise AssertionError(where) from error
    counts["refused" if job is None else "accepted"] += 1
    if job is not None:
      _check_sound(job, where)
  return counts


def _copied(value):
  if isinstance(value, dict):
    return {name: _copied(inner) for name, inner in value.items()}
  return value


@pytest.fixture
def alone(tmp_path, monkeypatch):
  """An empty working directory, which stays empty."""
  folder = tmp_path / "here"
  folder.mkdir()
  monkeypatch.chdir(folder)
  yield
  assert os.listdir(folder) == []


def test_odd_values_in_the_shipped_configs(alone):
  bases = _shipped()
  for task, config in bases:
    assert _tried(task, config) is not None, task
  assert _campaign(bases, 20)["refused"] > 10


@pytest.mark.full
def test_odd_values_in_all_configs(alone, tmp_path):
  bases = [*_shipped(), *_family(tmp_path / "files")]
  for task, config in bases:
    assert _tried(task, config) is not None, task
  counts = _campaign(bases, 400)
  assert counts["refused"] > 200 and counts["accepted"] > 20
