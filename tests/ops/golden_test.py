"""Results of the operators' own published code (integers exact)."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eos_jax import ops
from tests.ops import forms

_ROOT = pathlib.Path(__file__).parents[1] / "goldens"


def _load(name):
  with np.load(_ROOT / name) as data:
    return dict(data)


def _assert_close(actual, expected):
  scale = np.abs(expected).max()
  np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-5 * scale)


@pytest.mark.parametrize(
  "name, protect, form",
  [
    ("t01_plain", 0, "hard"),
    ("t02_cls", 1, "hard"),
    ("t03_cls_distill", 2, "hard"),
    ("t04_big_cls", 1, "hard"),
    ("t05_r_clamped", 0, "hard"),
    ("t02_cls", 1, "masked"),
  ],
)
def test_tome(name, protect, form):
  data = _load(f"tome/{name}.npz")
  spec = ops.presets.TOME.replace(protect=protect)
  batch, count = data["in_x"].shape[:2]
  keep = count - int(data["out_r_effective"])
  least = ops.bipartite_minimum(count, protect=protect)
  assert keep == max(least, keep)
  if "clamped" in name:
    assert keep == least
  sizes = data.get("in_size", np.ones((batch, count, 1), np.float32))
  for b in range(batch):
    tokens = ops.token_set(jnp.asarray(data["in_x"][b]))
    tokens = ops.TokenSet(
      **{**vars(tokens), "size": jnp.asarray(sizes[b, :, 0])}
    )
    signals = ops.Signals(keys=jnp.asarray(data["in_metric"][b]))
    run = forms.hard if form == "hard" else forms.masked
    out = run(tokens, signals, spec.params(), spec=spec, keep=keep)
    own = np.asarray(out.index)[None, :] == np.arange(count)[:, None]
    member = own.astype(np.float32) + np.asarray(out.assignment) * (~own)
    if form == "masked":
      # Removed rows are there, with mass 0: drop them, in any order.
      there = np.asarray(out.tokens.log_mass) == 0
      removed = np.flatnonzero(~there)
      assert there.sum() == keep
      even = 2 * data["out_src_idx"][b]
      assert sorted(removed.tolist()) == sorted(even.tolist())
      continue
    moving = 2 * data["out_src_idx"][b]
    kept_a = [a for a in out.index.tolist() if a % 2 == 0]
    assert sorted(moving.tolist() + kept_a) == list(range(0, count, 2))
    if protect != 2:
      assert kept_a == (2 * data["out_unm_idx"][b]).tolist()
    else:
      assert sorted(kept_a) == sorted((2 * data["out_unm_idx"][b]).tolist())
    for a, target in zip(moving, data["out_dst_idx"][b], strict=True):
      assert out.index[np.argmax(member[a])] == 2 * target + 1
    stays = np.isin(np.arange(count), moving)[:, None]
    source = np.where(stays, np.asarray(out.assignment), own)
    np.testing.assert_array_equal(source.T, data["out_source"][b])
    _assert_close(out.tokens.x, data["out_wavg_x"][b])
    _assert_close(out.tokens.size, data["out_wavg_size"][b, :, 0])


# Prompt tokens before the picture.
_PICTURE_START = {"t01": 5, "t03_batch": 4}


@pytest.mark.parametrize("name", ["t01", "t03_batch"])
def test_fastv(name):
  data = _load(f"fastv/{name}.npz")
  visual = len(data["out_scores"])
  keep = len(data["out_keep_index"]) - (
    data["in_hidden_states"].shape[1] - visual
  )
  index, start = data["out_keep_index"], _PICTURE_START[name]
  length = data["in_hidden_states"].shape[1]
  attention = data["in_attention"][0].mean(0)[-1]
  spec = ops.presets.FASTV
  signals = ops.Signals(
    last_row_previous=jnp.asarray(attention[start : start + visual])
  )
  for b in range(data["in_hidden_states"].shape[0]):
    hidden = data["in_hidden_states"][b]
    out = forms.hard(
      ops.token_set(jnp.asarray(hidden[start : start + visual])),
      signals,
      spec.params(),
      spec=spec,
      keep=keep,
    )
    kept = np.concatenate(
      [
        np.arange(start),
        start + np.asarray(out.index),
        np.arange(start + visual, length),
      ]
    )
    np.testing.assert_array_equal(kept, index)
    np.testing.assert_array_equal(out.tokens.position, out.index)
    expected = data["out_hidden_kept"][b][start : start + keep]
    _assert_close(out.tokens.x, expected)


@pytest.mark.parametrize("name", ["t01_2x2", "t02_one", "t03_576_144"])
def test_pooling(name):
  data = _load(f"pooling/{name}.npz")
  side = int(data["in_x"].shape[1] ** 0.5)
  keep = data["out_pooled"].shape[1]
  spec = ops.presets.POOL
  pooled = jax.vmap(
    lambda x: (
      forms.hard(
        ops.token_set(x),
        ops.Signals(grid=(side, side)),
        spec.params(),
        spec=spec,
        keep=keep,
      ).tokens
    )
  )(jnp.asarray(data["in_x"]))
  _assert_close(pooled.x, data["out_pooled"])
  np.testing.assert_allclose(pooled.size, side * side / keep, rtol=1e-5)


@pytest.mark.parametrize("name", ["t01", "t02_sharp"])
def test_soft_top_k_of_vision_selector(name):
  data = _load(f"soft_topk/{name}.npz")
  keep = float(np.round(data["out_soft_mask_sum"][0]))

  def mask(scores):
    kept, _ = ops.soft_top_k(
      scores, jnp.zeros_like(scores), keep, temperature=1.0
    )
    return jnp.exp(kept)

  value, pullback = jax.vjp(
    jax.jit(jax.vmap(mask)), jnp.asarray(data["in_scores"])
  )
  _assert_close(value, data["out_soft_mask"])
  _assert_close(pullback(jnp.asarray(data["in_cotangent"]))[0], data["out_vjp"])
