"""The proxies against figures of the papers' own code."""

import json
import pathlib

import pytest

from eos_jax import cost
from tests.golden import metric_cases

_FILE = pathlib.Path(__file__).parents[1] / "goldens/metrics/flops_proxy.json"
_CASES = json.loads(_FILE.read_text(encoding="utf-8"))["cases"]


@pytest.mark.parametrize("case", _CASES, ids=[c["id"] for c in _CASES])
def test_published_figures(case):
  outcome = metric_cases.run_case("flops_proxy", case)
  assert outcome.faults == ()
  assert outcome.arrays == 5


# VScan, HiDrop and most later tables: visual tokens alone, in units of 1e12.
@pytest.mark.parametrize(
  "tokens, printed",
  [(576, 3.817), (192, 1.253), (128, 0.833), (64, 0.4155), (16, 0.104)],
)
def test_the_figures_of_later_tables(tokens, printed):
  proxy = cost.gated_proxy([tokens] * 32, width=4096, mlp=11008) / 1e12
  assert proxy == pytest.approx(printed, abs=0.0006)


def test_halves_round_to_the_even_number():
  # 0.5 x 5 = 2.5 tokens go: Python takes 2.
  lengths = cost.pruned_lengths(
    visual_tokens=5, text_tokens=3, layers=3, after=1, keep_ratio=0.5
  )
  assert lengths == [8, 6, 6]


@pytest.mark.parametrize("after", [0, 3, 9])
def test_pruning_starts_behind_the_first_layers(after):
  lengths = cost.pruned_lengths(
    visual_tokens=10, text_tokens=1, layers=3, after=after, keep_ratio=0.2
  )
  assert lengths == [11] * min(after, 3) + [3] * max(3 - after, 0)
