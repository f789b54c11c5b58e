"""Cases with parameters that no stored case has, against a slow reference."""

import itertools
import json

import numpy as np
import pytest

from tests.golden import parameters, runner, slow


def _inputs(operator, params, seed):
  """Random arrays for a case; ties and near ties do not occur."""
  rng = np.random.default_rng(seed)
  draw = lambda *shape: rng.normal(size=shape).astype(np.float32)
  batch, tokens = params["B"], params["N"]
  if operator == "tome":
    arrays = {
      "in_metric": draw(batch, tokens, 6),
      "in_x": draw(batch, tokens, 4),
    }
    if params["sized"]:
      sizes = rng.integers(1, 5, (batch, tokens, 1))
      arrays["in_size"] = sizes.astype(np.float32)
    return arrays
  if operator == "diffrate_merge":
    return {"in_x": draw(batch, tokens, 6), "in_y": draw(batch, tokens, 3)}
  return {
    "in_hidden_states": draw(batch, tokens + 1, 6),
    "in_desired_layer_q": draw(batch, tokens + 1, 6),
    "in_desired_layer_k": draw(batch, tokens + 1, 6),
  }


def _tome_cases():
  """All that the origin allows, on an odd and an even number of tokens."""
  flags = itertools.product((False, True), repeat=3)
  for (class_token, distilled, sized), tokens in itertools.product(
    flags, (13, 14)
  ):
    most = (tokens - class_token - distilled) // 2
    for r in (-1, 0, 1, 3, most, most + 4):
      yield {
        "B": 1,
        "N": tokens,
        "r": r,
        "sized": sized,
        **({"class_token": True} if class_token else {}),
        **({"distill_token": True} if distilled else {}),
      }
  for k, tokens, sized in itertools.product(
    (0, 1, 2, 3, 4, 5, 13), (13, 15), (False, True)
  ):
    yield {"B": 2, "N": tokens, "k": k, "sized": sized}


def _prumerge_cases(plus):
  name = "reduction_ratio" if plus else "ratio"
  sizes = (576,) if plus else (40, 64)
  for ratio, tokens in itertools.product((1 / 16, 0.125, 0.25, 0.5), sizes):
    yield {"B": 2, "N": tokens, "plus": plus, "adaptive": False, name: ratio}


def _diffrate_cases():
  for class_token, kept in itertools.product((True, False), (2, 5, 11, 12)):
    yield {"B": 2, "N": 12, "kept": kept, "class_token": class_token}


CASES = [("tome", params) for params in _tome_cases()]
CASES += [("prumerge", params) for params in _prumerge_cases(False)]
CASES += [("prumerge_plus", params) for params in _prumerge_cases(True)]
CASES += [("diffrate_merge", params) for params in _diffrate_cases()]

# One of each kind in every run; each takes a second to compile.
QUICK = [
  ("tome", {"B": 2, "N": 13, "r": 0, "sized": True}),
  ("tome", {"B": 1, "N": 14, "r": 3, "distill_token": True, "sized": False}),
  ("tome", {"B": 1, "N": 15, "k": 4, "sized": True}),
  (
    "prumerge",
    {"B": 1, "N": 40, "plus": False, "adaptive": False, "ratio": 0.25},
  ),
  ("diffrate_merge", {"B": 1, "N": 12, "kept": 5, "class_token": False}),
]


def _folder(path, cases):
  """Cases as a folder of recorded ones, the slow reference for the origin."""
  described = {}
  for seed, (operator, params) in enumerate(cases):
    arrays = _inputs(operator, params, seed)
    outputs = slow.REFERENCES[operator](params, arrays)
    (path / operator).mkdir(exist_ok=True)
    file = f"{operator}/{seed:03}.npz"
    np.savez(path / file, **arrays, **outputs)
    described.setdefault(operator, {"cases": []})["cases"].append(
      {"file": file, "params": params}
    )
  text = json.dumps({"operators": described})
  (path / "manifest.json").write_text(text, encoding="utf-8")
  return path


def _faults(folder):
  return [
    (outcome.operator, outcome.file, outcome.faults)
    for outcome in runner.run_all(folder)
    if outcome.faults
  ]


@pytest.mark.slow
def test_one_case_of_each_kind(tmp_path):
  assert _faults(_folder(tmp_path, QUICK)) == []


@pytest.mark.full
def test_every_combination_that_the_origins_allow(tmp_path):
  assert len(CASES) == 144
  assert _faults(_folder(tmp_path, CASES)) == []


@pytest.mark.parametrize(
  "operator, params",
  [
    (name, {**dict(QUICK)[name], "unheard_of": 1})
    for name in ("tome", "prumerge", "diffrate_merge")
  ],
)
def test_a_parameter_that_is_not_known_is_a_failure(tmp_path, operator, params):
  folder = _folder(tmp_path, [(operator, params)])
  ((_, _, faults),) = _faults(folder)
  assert faults == ("parameters are not known here: unheard_of",)


def test_each_operator_says_which_parameters_it_reads():
  assert set(parameters.COMPUTED) == set(runner.CASES)
