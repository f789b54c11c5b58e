"""The proxies against figures of the papers' own code."""

import json
import pathlib

import pytest

from eos_jax import cost

_FILE = pathlib.Path(__file__).parents[1] / "goldens/flops_proxy/cases.json"
_CASES = json.loads(_FILE.read_text(encoding="utf-8"))["cases"]


@pytest.mark.parametrize("case", _CASES, ids=[c["id"] for c in _CASES])
def test_published_figures(case):
  given, expected = case["input"], case["expected"]
  sizes = dict(width=given["hidden"], mlp=given["ffn"])
  layers, text = given["layers"], given["text_tokens"]
  full = text + given["visual_tokens"]
  removed = round((1 - given["keep_ratio"]) * given["visual_tokens"])
  early = given["prune_after_layer"]
  pruned = [full] * early + [full - removed] * (layers - early)
  all_tokens = cost.two_matrix_proxy([full] * layers, **sizes)
  kept_tokens = cost.two_matrix_proxy(pruned, **sizes)
  assert all_tokens == expected["fastv_divprune_full_flops"]
  assert kept_tokens / 1e12 == pytest.approx(
    expected["fastv_divprune_pruned_tflops"], rel=1e-12
  )
  assert 100 * kept_tokens / all_tokens == pytest.approx(
    expected["fastv_divprune_ratio_percent"], rel=1e-12
  )
  lengths = [text + n for n in given["schedule"]]
  assert (
    cost.gated_proxy(lengths, **sizes)
    == expected["sparsevlm_pdrop_schedule_flops"]
  )
  assert cost.layer_average(given["schedule"]) == pytest.approx(
    expected["equal_tokens"], rel=1e-12
  )
