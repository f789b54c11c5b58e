"""A search finds what was planted, which a guess of equal effort misses."""

import dataclasses
import sys

import numpy as np
import pytest

from eos_jax import search
from tests.search import planted


def _found(problem, seed):
  """Excess over the best plan: of the search, and of guesses; in shares."""
  data = planted.samples(problem, seed)
  counts, gamma, least = planted.best(problem, data)
  policy = planted.searched(problem, data)
  ours = planted.rounded(problem, policy)
  # A step costs about three forward passes.
  guessed = planted.guess(problem, data, seed, 3 * planted.STEPS)
  excess = planted.value(problem, *ours, data) - least
  return excess / problem.scale, (guessed - least) / problem.scale


@pytest.mark.slow
@pytest.mark.parametrize(
  "name, seeds",
  [
    pytest.param("needed early and a little late", 1, marks=pytest.mark.slow),
    *(
      pytest.param(name, 20, marks=pytest.mark.full)
      for name in planted.PROBLEMS
    ),
  ],
)
def test_what_was_planted_is_found(name, seeds, capsys):
  problem = planted.PROBLEMS[name]
  found = np.array([_found(problem, seed) for seed in range(seeds)])
  hits = np.sum(found <= 0.01, axis=0)
  with capsys.disabled():
    print(
      f"\n{name}: within 1 % of the best plan in {hits[0]} of {seeds} seeds,"
      f" guesses of equal effort in {hits[1]}; mean excess"
      f" {100 * found[:, 0].mean():.2f} % and {100 * found[:, 1].mean():.2f} %",
      file=sys.stderr,  # a worker's standard output is not shown
    )
  assert hits[0] >= 0.95 * seeds


@pytest.mark.full
def test_a_slack_limit_pulls_towards_nothing_but_a_two_sided_penalty_does(
  capsys,
):
  slack = planted.PROBLEMS["five tokens matter, slack"]
  data = planted.samples(slack, 0)
  averages = []
  for limit, two_sided in ((16.0, False), (12.0, False), (12.0, True)):
    problem = dataclasses.replace(slack, limit=limit)
    # Tokens have a small price: the best number of them is below the limit.
    policy = planted.searched(
      problem, data, start=7.0, two_sided=two_sided, price=0.2
    )
    counts = search.site_counts(
      search.decode(policy, planted.SPACE), planted.SPACE
    )
    averages.append(float(search.layer_average(counts, planted.SPACE)))
  free, one_sided, pulled = averages
  with capsys.disabled():
    print(
      f"\nlayer average without a limit {free:.3f}, under a slack one of 12"
      f" {one_sided:.3f}, under a two-sided penalty {pulled:.3f}",
      file=sys.stderr,
    )
  assert free < 11.0
  assert one_sided == pytest.approx(free, rel=1e-3)
  assert pulled > free + 1.0
