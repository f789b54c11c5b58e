"""Names and shapes of public models in transformers; see `llava_1_5_test`."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

from eos_jax.models import families, loading
from tests.models import public_configs

pytestmark = pytest.mark.full

PYTHON = os.environ.get("EOS_TORCH_PYTHON", sys.executable)
ORACLE = pathlib.Path(__file__).parent / "shapes_oracle.py"

# Of the state in memory; why they are not read is in the families' tables.
_NORM = {
  f"model.vision_tower.post_layernorm.{kind}" for kind in ("weight", "bias")
}
UNREAD = {
  "llava_onevision_0_5b": _NORM | {"lm_head.weight"},
  "llava_onevision_7b": _NORM,
  "qwen2_vl_2b": {"lm_head.weight"},
}


@pytest.fixture(scope="module")
def told():
  """What transformers says of each model."""
  probe = "import torch, transformers"
  found = subprocess.run([PYTHON, "-c", probe], capture_output=True, text=True)
  if found.returncode:
    reason = found.stderr.strip().split("\n")[-1]
    pytest.skip(f"{PYTHON}: {reason}; EOS_TORCH_PYTHON can name another one")
  configs = {name: m.config for name, m in public_configs.MODELS.items()}
  done = subprocess.run(
    [PYTHON, str(ORACLE)],
    input=json.dumps(configs),
    capture_output=True,
    text=True,
    check=True,
    # Settings of the test process are none of its business.
    env={k: v for k, v in os.environ.items() if k != "PYTHONPATH"},
  )
  return json.loads(done.stdout)


@pytest.mark.parametrize("name", public_configs.MODELS)
def test_names_shapes_and_counts(told, name):
  model, theirs = public_configs.MODELS[name], told[name]
  assert theirs["parameters"] == model.parameters
  found = families.describe(model.config)
  places, faults = loading.match(
    found.table,
    loading.shapes(found.cfg),
    [
      loading.Tensor(tensor, pathlib.Path("memory"), tuple(shape), "F16")
      for tensor, shape in theirs["shapes"].items()
    ],
  )
  assert not faults
  assert theirs["shapes"].keys() - places.keys() == UNREAD.get(name, set())
