"""Tokens are followed through sites by hand, and against the operators."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eos_jax import ops
from eos_jax.evaluation import token_flow
from tests.models import small


def _reduced(index, assignment, position, there=None):
  """What `token_flow` reads of a site's result."""
  there = [1] * len(index) if there is None else there
  tokens = ops.token_set(jnp.zeros((len(index), 1)), valid=jnp.array(there) > 0)
  return ops.Reduced(
    tokens=dataclasses.replace(tokens, position=jnp.array(position)),
    index=jnp.array(index),
    assignment=jnp.array(assignment, jnp.float32),
    scores=jnp.zeros(len(assignment)),
  )


def _lists(trace, tokens):
  owner, left_at = token_flow.follow(trace, tokens)
  return owner.tolist(), left_at.tolist()


@pytest.mark.slow
def test_two_sites_by_hand():
  # Five tokens; 0, 2, 4 stay; 1 goes mostly to 2; 3 is dropped.
  first = _reduced(
    [0, 2, 4],
    [[0, 0, 0], [0.2, 0.8, 0], [0, 0, 0], [0, 0, 0], [0, 0, 0]],
    [0, 2, 4],
  )
  assert _lists({"decoder.0": first}, 5) == ([0, 2, 2, -1, 4], [1, 0, 1, 0, 1])
  # Of rows 0, 2, 4 only 4 stays, and takes up 2 with what it holds.
  second = _reduced([2], [[0.0], [1.0], [0.0]], [4])
  assert _lists({"decoder.0": first, "decoder.2": second}, 5) == (
    [-1, 4, 4, -1, 4],
    [1, 0, 1, 0, 2],
  )


def test_owners_are_tokens_whatever_their_positions():
  # Positions lie in a wider raster; the second row is a cell of 1 and 3.
  mixed = _reduced(
    [2, -1], [[0.6, 0.4], [0, 1.0], [0, 0], [0.1, 0.9]], [40, 41]
  )
  assert _lists({"decoder.0": mixed}, 4) == ([2, 1, 2, 1], [0, 0, 1, 0])


def test_without_sites_all_stay():
  assert _lists({}, 3) == ([0, 1, 2], [0, 0, 0])


def test_rows_of_padding_receive_and_keep_nothing():
  padded = _reduced([1, 0], [[0, 0.9], [0, 0], [0, 0.9]], [1, 0], [1, 0])
  assert _lists({"decoder.0": padded}, 3) == ([-1, 1, -1], [0, 1, 0])


@pytest.mark.slow
def test_it_agrees_with_what_the_operators_keep_and_move():
  features = jax.random.normal(jax.random.key(0), (3, 16, 8))
  signals = ops.Signals(
    class_row=jax.nn.softmax(features[..., 0]), grid=(4, 4), keys=features
  )

  def follow(reduced):
    trace = {"decoder.0": reduced}
    return map(np.asarray, jax.vmap(lambda t: token_flow.follow(t, 16))(trace))

  def run(name, keep):
    spec = ops.PRESETS[name]
    return jax.vmap(
      lambda x, row, keys: ops.reduce_hard(
        ops.token_set(x),
        ops.Signals(class_row=row, grid=(4, 4), keys=keys),
        spec.params(),
        spec=spec,
        keep=keep,
      )
    )(features, signals.class_row, signals.keys)

  pruned = run("prune", 5)
  owner, left_at = follow(pruned)
  for sample in range(3):
    kept = set(np.asarray(pruned.index)[sample].tolist())
    for token in range(16):
      assert (owner[sample, token] == token) == (token in kept)
      assert (owner[sample, token] == -1) == (token not in kept)
      assert left_at[sample, token] == int(token in kept)
  # Merging loses nothing: every token has an owner, and owners' sizes agree.
  merged = run("merge", 5)
  owner, _ = follow(merged)
  assert (owner >= 0).all()
  for sample in range(3):
    positions = np.asarray(merged.tokens.position)[sample].tolist()
    assert set(owner[sample].tolist()) <= set(positions)


@pytest.mark.full
@pytest.mark.parametrize("name", ["prune", "tome"])
def test_it_goes_through_the_encoder(name):
  cfg, spec = small.config(), ops.PRESETS[name]
  plan = ops.ReductionPlan(
    name="test",
    model="small",
    tokens=16,
    layers=3,
    sites=tuple(
      ops.PlannedSite(site, keep, spec)
      for site, keep in (
        ("vision.0", 13),
        ("vision.1", 9),
        ("decoder.0", 6),
        ("decoder.1", 4),
      )
    ),
  )
  out = small.apply(
    cfg, small.params(cfg), small.pictures(2), small.text(2), plan
  )
  owner, left_at = jax.vmap(lambda t: token_flow.follow(t, 16))(out.trace)
  for sample in range(2):
    end = set(np.asarray(out.state.tokens.position)[sample].tolist())
    kept = np.flatnonzero(np.asarray(left_at)[sample] == 4).tolist()
    assert set(kept) == end
    assert np.bincount(np.asarray(left_at)[sample]).tolist() == [3, 4, 3, 2, 4]
    found = np.asarray(owner)[sample]
    assert found[kept].tolist() == kept
    others = np.delete(found, kept)
    assert set(others.tolist()) <= ({-1} if name == "prune" else end)
