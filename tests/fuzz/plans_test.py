"""Plan files that were edited or damaged: refused by one message, or sound.

What is accepted survives a round trip, and runs on a small model in its hard
form without a value that is not finite.
"""

import dataclasses
import json
import random

import jax
import numpy as np
import pytest

from eos_jax import models, ops
from eos_jax.evaluation import evaluator
from eos_jax.ops import needs, types
from eos_jax.tasks import common
from eos_jax.training import settings
from tests import campaign
from tests.models import small

SEED = 37
CFG = small.config()
# Of one decoder site, of several, of the encoder, with clusters, of cells.
PRESETS = ("hybrid", "merge", "tome", "sparsevlm", "pool", "prumerge", "dart")
_CHOICES = {
  **types.CHOICES,
  **{name: tuple(known) for name, known in needs.known_kernels().items()},
}
_NUMBERS = (0, 1, -1, 0.3, 1.0, 5, 1e4, 1e5, 1e38, 1e39, 1e308, 10**400)
# Of a message, with the path of the file and every choice that there is.
_LONGEST = 3000


def _plans():
  """Texts of sound plans."""
  for name in PRESETS:
    for limit in (8, 12):
      yield evaluator.preset_plan(CFG, ops.PRESETS[name], limit).to_json()


def _other_choice(data, draw):
  """Another name, number or count in a field of an operator."""
  site = draw.choice(data["sites"])
  spec = draw.choice((site, data["operator"]))
  kind = draw.choice(("choice", "number", "count", "score", "place"))
  if kind == "choice":
    field = draw.choice(sorted(set(_CHOICES) - {"scores"}))
    value = draw.choice(_CHOICES[field])
  elif kind == "number":
    field = draw.choice(
      sorted(
        f.name
        for f in dataclasses.fields(types.OperatorParams)
        if f.name not in ("pi", "omega")
      )
    )
    value = draw.choice(_NUMBERS)
  elif kind == "count":
    field = draw.choice(("stride", "neighbours", "protect", "fused"))
    value = draw.randint(0, 5)
  elif kind == "score":
    field = "scores"
    known = (data["operator"] | site)["scores"]
    value = [draw.choice(_CHOICES["scores"]) for _ in known]
  else:
    site["keep"] = draw.randint(1, CFG.tokens)
    site["site"] = draw.choice(CFG.sites)
    return f"{site['site']} keeps {site['keep']}"
  spec[field] = value
  return f"{field} = {value!r}"[:80]


def _damage(text, draw):
  """One change of a plan file, and its name."""
  kind = draw.choice(("edit", "edit", "choice", "choice", "bytes", "text"))
  if kind == "bytes":
    return campaign.damaged(text.encode(), draw)
  if kind == "text":
    name = draw.choice(("utf-8-sig", "utf-16", "utf-32", "nest", "twice"))
    if name == "nest":
      return name, text.replace("[]", "[" * 10**5 + "]" * 10**5, 1).encode()
    if name == "twice":
      return name, text.replace("{", '{"name": "other",', 1).encode()
    return name, text.encode(name)
  data = json.loads(text)
  if kind == "choice":
    return _other_choice(data, draw), json.dumps(data).encode()
  name, data = campaign.edited(data, draw)
  return name, json.dumps(data).encode()


def _read(path, data):
  """The plan, or None where it is refused as it should be."""
  path.write_bytes(data)
  try:
    return common.fitting_plan(CFG, str(path), "config.plan")
  except settings.ConfigError as error:
    assert len(str(error)) < _LONGEST, error
    for fault in error.faults:
      assert fault.startswith(f"config.plan: {path}"), fault
      str(error).encode()
    return None


def _campaign(path, draws):
  """Names and plans of what was accepted among so many changes."""
  draw, texts, accepted = random.Random(SEED), list(_plans()), []
  for number in range(draws):
    name, data = _damage(draw.choice(texts), draw)
    plan = _read(path, data)
    if plan is None:
      continue
    assert ops.ReductionPlan.from_json(plan.to_json()) == plan, name
    accepted.append((f"{number}: {name}", plan))
  assert len(accepted) < draws, "nothing was refused"
  return accepted


def test_edited_plans_are_refused_or_round_trip(tmp_path):
  assert _campaign(tmp_path / "plan.json", 30)


@pytest.mark.full
def test_edited_plans_that_are_accepted_run_finitely(tmp_path):
  params, image, text = small.params(CFG), small.pictures(2), small.text(2)
  key = jax.random.key(0)
  for name, plan in _campaign(tmp_path / "plan.json", 500):
    out = small.apply(CFG, params, image, text, plan, key=key)
    assert np.all(np.isfinite(out.logits)), name
    assert out.logits.shape[0] == 2
    assert models.reduction.check(plan, CFG) is None
