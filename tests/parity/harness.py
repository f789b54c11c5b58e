"""Running transformers in a process of its own, and comparing with it.

Set EOS_TORCH_PYTHON to an interpreter with torch 2.13 and transformers 5.23
(`pip install torch transformers`; torchvision is not needed); else the one that
runs the tests is tried.
"""

import dataclasses
import json
import os
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest

from eos_jax import models
from eos_jax.models import loading

PYTHON = os.environ.get("EOS_TORCH_PYTHON", sys.executable)
ORACLE = pathlib.Path(__file__).parent / "oracle.py"
NEW_TOKENS = 32

# Of the largest logit, in float32.
TOLERANCE = 2e-4


@dataclasses.dataclass(frozen=True)
class Case:
  """One random model and a batch for it.

  Attributes:
    family: name of its classes in transformers.
    config: their arguments.
    prompts: ids of each sample, as many image tokens for a picture as it has
      visual tokens.
    counts: visual tokens of the pictures of each sample.
    image: the image token.
    seed: of the weights.
    rename: patterns and replacements for the saved names of tensors.
    max_shard_size: of a file.
  """

  family: str
  config: dict
  prompts: list
  counts: list
  image: int
  seed: int = 0
  rename: tuple = ()
  max_shard_size: str = "1GB"

  def padded(self):
    """Ids `[B, N]`, padded on the left, and their mask, for transformers."""
    longest = max(map(len, self.prompts))
    ids = [[0] * (longest - len(row)) + row for row in self.prompts]
    mask = [[0] * (longest - len(row)) + [1] * len(row) for row in self.prompts]
    return np.array(ids), np.array(mask)

  def parted(self, opening):
    """Prompts without opening and pictures, and where these stand in them."""
    parts = [
      _parted(row[opening:], counts, self.image)
      for row, counts in zip(self.prompts, self.counts, strict=True)
    ]
    return zip(*parts, strict=True)

  def request(self):
    """What the oracle is asked."""
    return {
      "family": self.family,
      "config": self.config,
      "seed": self.seed,
      "rename": self.rename,
      "max_shard_size": self.max_shard_size,
    }


def _parted(row, counts, image):
  ids, slots, place = [], [], 0
  counts = iter(counts)
  while place < len(row):
    if row[place] == image:
      slots.append(len(ids))
      place += next(counts)
    else:
      ids.append(row[place])
      place += 1
  assert next(counts, None) is None
  return ids, slots


def ask(root, cases, inputs, full_size=None, sparse=None):
  """Writes inputs, runs transformers, and returns its answers on configs.

  Args:
    root: a folder for all.
    cases: by name.
    inputs: arguments of the model beside ids and mask, by name of the case.
    full_size: family and config of models whose shapes are asked for.
    sparse: family and config of configs to be filled up.
  """
  probe = "import torch, transformers"
  found = subprocess.run([PYTHON, "-c", probe], capture_output=True, text=True)
  if found.returncode:
    reason = found.stderr.strip().split("\n")[-1]
    pytest.skip(f"{PYTHON}: {reason}; EOS_TORCH_PYTHON can name another one")
  for name, case in cases.items():
    ids, mask = case.padded()
    (root / name).mkdir()
    np.savez(
      root / name / "inputs.npz",
      input_ids=ids,
      attention_mask=mask,
      **inputs[name],
    )
  request = {
    "models": {name: case.request() for name, case in cases.items()},
    "full_size": full_size or {},
    "sparse": sparse or {},
  }
  # Settings of the test process are none of its business.
  env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
  subprocess.run(
    [PYTHON, str(ORACLE), str(root)],
    input=json.dumps(request),
    text=True,
    check=True,
    env=env,
  )
  return json.loads((root / "answer.json").read_text(encoding="utf-8"))


def loaded(folder, room=None):
  """Config and parameters of a model, and what transformers says.

  Args:
    folder: of the case.
    room: changes the config where its shapes are the user's choice.
  """
  found, params = loading.load(folder)
  cfg = room(found.cfg) if room else found.cfg
  return cfg, params, dict(np.load(folder / "expected.npz"))


def slots_of(slots, most, end):
  """Slots `[B, I]`; pictures that are not there are behind everything."""
  return np.array([row + [end] * (most - len(row)) for row in slots], np.int32)


def logit_difference(case, cfg, params, want, image, record_property, **seen):
  """Of all text tokens of a batch padded on the left, over the largest."""
  opening = len(cfg.prefix)
  ids, slots = case.parted(opening)
  longest = max(map(len, ids))
  spare = [longest - len(row) for row in ids]
  tokens = np.array(
    [[0] * pad + row for pad, row in zip(spare, ids, strict=True)]
  )
  mask = np.arange(longest)[None] >= np.array(spare)[:, None]
  behind = [
    [pad + slot for slot in row] for pad, row in zip(spare, slots, strict=True)
  ]
  most = image.shape[1]
  text = models.Text(tokens, mask, slots=slots_of(behind, most, longest))
  apply = jax.jit(models.apply, static_argnums=0)
  got = np.asarray(apply(cfg, params, image, text, **seen).logits)
  worst, largest = 0.0, 0.0
  all_ids, all_mask = case.padded()
  for row in range(len(case.prompts)):
    there = all_mask[row].astype(bool) & (all_ids[row] != case.image)
    expected = want["logits"][row][there][opening:]
    worst = max(worst, np.abs(got[row, mask[row]] - expected).max())
    largest = max(largest, np.abs(expected).max())
  print(f"{worst / largest:.2e} of the largest logit {largest:.3g}")
  record_property("worst", float(worst / largest))
  assert largest > 1
  return worst / largest


def answers(case, cfg, params, want, image, **seen):
  """Greedy continuations of a batch padded on the right, ours and theirs."""
  ids, slots = case.parted(len(cfg.prefix))
  room = max(map(len, ids)) + 2
  engine = models.Engine(cfg, params, stop=(), buckets=(room,), room=NEW_TOKENS)
  slots = slots_of(slots, image.shape[1], room)
  talk = engine.begin(image, ids, slots=slots, **seen)
  _, replies = engine.reply(talk, steps=NEW_TOKENS)
  assert len(set(replies[0])) > 4  # it does not say one thing again and again
  return replies, want["told"].tolist()
