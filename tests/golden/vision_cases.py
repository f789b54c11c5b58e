"""Cases of operators that act in the vision encoder or on its output."""

import math

import jax.numpy as jnp
import numpy as np

from eos_jax import ops
from tests.golden import common

presets = ops.presets


def _tome(params, arrays):
  size = arrays.get("in_size") if params.get("sized", True) else None
  results = []
  for b in range(arrays["in_x"].shape[0]):
    one = None if size is None else size[b, :, 0]
    results.append(
      _tome_one(params, arrays["in_metric"][b], arrays["in_x"][b], one)
    )
  return {
    **common.stack(results),
    "out_r_effective": results[0]["out_r_effective"],
  }


def _tome_spec(params, *, class_token):
  """ToMe for the special tokens of a case, and how many they are."""
  class_token = params.get("class_token", class_token)
  distilled = params.get("distill_token", False)
  if distilled and not class_token:
    select = "bipartite_distilled"
    return presets.TOME.replace(select=select, protect=0), 1
  special = int(class_token) + int(distilled)
  return presets.TOME.replace(protect=special), special


def _tome_keep(params, tokens, special):
  """Rows that the origin leaves: r is cut to what one step can merge."""
  least = ops.bipartite_minimum(tokens, protect=special)
  return min(max(tokens - params["r"], least), tokens)


def _tome_one(params, metric, x, size):
  tokens = x.shape[0]
  if "k" in params:
    # Groups of one: the origin returns its input.
    step = max(params["k"], 1)
    spec, keep = presets.TOME_KTH.replace(stride=step), tokens // step
    moved = keep * (step - 1)
    if step == 1:
      spec = presets.TOME.replace(protect=0)
  else:
    spec, special = _tome_spec(params, class_token=False)
    keep = _tome_keep(params, tokens, special)
    moved = tokens - keep
  out = common.reduce(x, spec, keep, size=size, keys=metric)
  # Other modes of merging are other settings of the same operator.
  plain = spec.replace(alpha="one", beta="one")
  mean = common.reduce(x, plain, keep, keys=metric)
  total = common.reduce(x, plain.replace(eta=0.0), keep, keys=metric)
  member = common.members(out)
  greatest = np.where(member[..., None] > 0, x[None], -np.inf).max(1)
  result = {
    "out_merged_mean": mean.tokens.x,
    "out_merged_sum": total.tokens.x,
    "out_merged_amax": greatest,
    "out_unmerged_from_mean": _unmerged(params, mean, moved),
    "out_wavg_x": out.tokens.x,
    "out_wavg_size": out.tokens.size[:, None],
    "out_source": member,
    "out_r_effective": moved,
  }
  return result | _tome_edges(params, out, metric)


def _unmerged(params, mean, moved):
  """The origin's unmerge, with its fault under a distillation token.

  It takes the first rows for the set A and the others for B, although the
  merge has put the distillation token, the first of B, behind the class token.
  """
  if not moved or not params.get("distill_token"):
    # The k-th variant has lost what is behind its last whole group.
    tokens = len(mean.assignment)
    step = max(params.get("k", 1), 1)
    return ops.unreduce(mean.tokens.x, mean)[: tokens // step * step]
  rows = np.asarray(ops.source_map(mean))
  of_a = [k for k, j in enumerate(np.asarray(mean.index)) if j % 2 == 0]
  of_b = [k for k, j in enumerate(np.asarray(mean.index)) if j % 2]
  taken = np.empty(len(of_a) + len(of_b), int)
  taken[of_a + of_b] = np.arange(len(taken))
  return np.asarray(mean.tokens.x)[taken[rows]]


def _tome_edges(params, out, metric):
  """Indices of the published code: inside A = 0, 2, 4, .., B = 1, 3, 5, .."""
  index = np.asarray(out.index)
  rows = np.asarray(ops.source_map(out))
  tokens = len(rows)
  if "k" in params:
    step = max(params["k"], 1)
    whole = tokens // step * step
    gone = [j for j in range(whole) if j % step != step - 1]
    return {"out_dst_idx": index[rows[gone]] // step}
  gone = np.setdiff1d(np.arange(tokens), index)
  target = index[rows[gone]]
  unit = metric / np.linalg.norm(metric, axis=-1, keepdims=True)
  closeness = np.sum(unit[gone] * unit[target], -1)
  order = np.argsort(-closeness, kind="stable")
  stay = index[index % 2 == 0]
  return {
    "out_src_idx": gone[order] // 2,
    "out_dst_idx": target[order] // 2,
    "out_unm_idx": stay // 2,
  }


def _tome_block(params, arrays):
  block = common.Block(arrays, params["H"], eps=1e-6)
  results = []
  for b, x in enumerate(jnp.asarray(arrays["in_x"])):
    size = jnp.ones(x.shape[0])
    if params.get("sized", True) and "in_size" in arrays:
      size = jnp.asarray(arrays["in_size"][b, :, 0])
    weighted = params["prop_attn"] and params.get("sized", True)
    branch, _, keys = block.attention(x, size if weighted else None)
    spec, special = _tome_spec(params, class_token=True)
    keep = _tome_keep(params, x.shape[0], special)
    out = common.reduce(x + branch, spec, keep, size=size, keys=keys)
    results.append(
      {
        "out_attn_out": branch,
        "out_metric": keys,
        "out_x_out": block.mlp(out.tokens.x),
        "out_size_out": out.tokens.size[:, None],
        "out_source": common.members(out),
      }
    )
  return common.stack(results)


def _evit(params, arrays):
  block = common.Block(arrays, params["H"], eps=1e-5)
  results = []
  for x in jnp.asarray(arrays["in_x"]):
    branch, weights, _ = block.attention(x)
    row = jnp.mean(weights[:, 0], 0)
    patches, fuse = x.shape[0] - 1, int(params["fuse"])
    left = ops.count.evit(patches, params["keep_rate"])
    fuse = fuse if left < patches else 0
    # Where nothing is removed the origin does not sort either.
    order = "score" if left < patches else "raster"
    spec = presets.EVIT.replace(fused=fuse, order=order)
    out = common.reduce(x + branch, spec, 1 + left + fuse, class_row=row)
    results.append(
      {
        "out_x_out": block.mlp(out.tokens.x),
        "out_kept_index": np.asarray(out.index)[1 : left + 1] - 1,
        "out_cls_attention": row[1:],
        "out_n_tokens": left + fuse,
      }
    )
  return {**common.stack(results), "out_n_tokens": results[0]["out_n_tokens"]}


def _visionzip(params, arrays):
  dominant, contextual = params["dominant_num"], params["contextual_num"]
  spec = presets.VISIONZIP.replace(kappa=dominant / (dominant + contextual))
  results = []
  for b in range(arrays["in_hidden_states"].shape[0]):
    row = arrays["in_attention"][b, :, 0].sum(0)
    out = common.reduce(
      arrays["in_hidden_states"][b],
      spec,
      1 + dominant + contextual,
      class_row=row,
      vision_keys=arrays["in_metric"][b],
    )
    kept = np.asarray(out.index)[: 1 + dominant]
    best = kept[1:][np.argsort(-row[kept[1:]], kind="stable")]
    results.append(
      {
        "out_tokens": out.tokens.x,
        "out_all_indices": np.concatenate([[0], best]),
      }
    )
  return common.stack(results)


def _prumerge(params, arrays):
  hidden = arrays["in_hidden_states"]
  batch, rows, _ = hidden.shape
  tokens = rows - 1
  keys = arrays["in_desired_layer_k"]
  row = np.stack(
    [
      ops.signals.full_width_row(
        jnp.asarray(arrays["in_desired_layer_q"][b, 0]), jnp.asarray(keys[b])
      )[1:]
      for b in range(batch)
    ]
  )
  if params["adaptive"]:
    number, share = ops.count.outliers(jnp.asarray(row))
    number, share = int(number), float(share)
  else:
    share = _fixed_ratio(params)
    number = int(tokens * share)
  best = np.argsort(-row, axis=1, kind="stable")[:, :number]
  run = _prumerge_duplicated if _duplicates(params) else _prumerge_one
  results = [
    run(params, hidden[b, 1:], keys[b, 1:], row[b], number)
    for b in range(batch)
  ]
  return {
    "out_tokens": np.stack(results),
    "out_cls_attention": row,
    "out_outlier_ratio": share,
    "out_n_topk": number,
    "out_topk_index": best,
  }


def _fixed_ratio(params):
  """Share of the tokens in the fixed mode, the origin's 1/8 by default."""
  given = [params[n] for n in ("ratio", "reduction_ratio") if n in params]
  if len(given) > 1:
    raise ValueError("both ratio and reduction_ratio are given")
  return given[0] if given else 1 / 8


def _duplicates(params):
  return params["plus"] and not params["adaptive"]


def _prumerge_one(params, x, keys, row, number):
  tokens = x.shape[0]
  spec, extra, signals = presets.PRUMERGE, 0, {}
  if params["plus"]:
    first = np.zeros(tokens, bool)
    first[np.argsort(-row, kind="stable")[:number]] = True
    extra = ops.count.raster_rows(
      jnp.asarray(first), jnp.int32(number), tokens=tokens
    )
    extra, side = int(extra), math.isqrt(tokens)
    kappa = number / (number + extra)
    spec = presets.PRUMERGE_PLUS.replace(kappa=kappa)
    signals = {"grid": (side, tokens // side)}
  out = common.reduce(
    x, spec, number + extra + 1, class_row=row, vision_keys=keys, **signals
  )
  return out.tokens.x


def _prumerge_duplicated(params, x, keys, row, number):
  """The fixed mode of PruMerge+, with its duplicated centres.

  For a ratio of 1/8 positions 4, 12, 20, .. become centres whether they are
  kept already or not.
  The published complement then lacks as many unselected tokens, the first
  ones, as there are duplicates, and a duplicate is a neighbour of its twin.
  That is no point of the operator space: the gathering is written out here.
  """
  tokens, step = x.shape[0], int(1 / _fixed_ratio(params))
  best = np.argsort(-row, kind="stable")[:number]
  centres = np.concatenate([best, np.arange(step // 2, tokens - 1, step)])
  left = np.setdiff1d(np.arange(tokens), centres)
  left = left[len(centres) + len(left) - tokens :]
  unit = keys / np.linalg.norm(keys, axis=-1, keepdims=True)
  rows = []
  for place, centre in enumerate(centres):
    others = np.concatenate([np.delete(centres, place), left])
    near = np.argsort(-(unit[others] @ unit[centre]), kind="stable")[:32]
    chosen = others[near]
    rows.append(x[centre] + row[chosen] @ x[chosen])
  rows.append(row[left] @ x[left])
  return np.stack(rows)


def _diffrate_merge(params, arrays):
  kept = params["kept"]
  protect = int(params.get("class_token", True))
  spec = presets.DIFFRATE.replace(delta=0.0, protect=protect)
  results = []
  for x, y in zip(arrays["in_x"], arrays["in_y"], strict=True):
    tokens = x.shape[0]
    order = -np.arange(tokens, dtype=np.float32)  # sorted by importance
    out = common.reduce(x, spec, kept, class_row=order)
    rows = np.asarray(ops.source_map(out))
    gone = np.arange(kept, tokens)
    unit = x / np.linalg.norm(x, axis=-1, keepdims=True)
    member = common.members(out)
    results.append(
      {
        "out_merged_mean": out.tokens.x,
        "out_merged_sum_y": member @ y,
        "out_similarity_max": np.sum(unit[gone] * unit[rows[gone]], -1),
        "out_dst_idx": rows[gone],
        "out_source": member,
        "out_uncompressed": ops.unreduce(out.tokens.x, out),
      }
    )
  return common.stack(results)


def _diffrate_block(params, arrays):
  block = common.Block(arrays, params["H"], eps=1e-6)
  pruned, merged = params["prune_kept"], params["merge_kept"]
  results = []
  for x, size in zip(
    jnp.asarray(arrays["in_x"]), jnp.asarray(arrays["in_size"]), strict=True
  ):
    size, tokens = size[:, 0], x.shape[0]
    branch, weights, _ = block.attention(x, size)
    row = jnp.mean(weights[:, 0], 0)
    gone, moving = tokens - merged, pruned - merged
    share = 1.0 if moving == gone else max(moving - 0.5, 0) / gone
    spec = presets.DIFFRATE.replace(recycle=share)
    out = common.reduce(x + branch, spec, merged, size=size, class_row=row)
    results.append(
      {
        "out_x_out": block.mlp(out.tokens.x),
        "out_size_out": out.tokens.size[:, None],
        "out_source": common.members(out),
      }
    )
  return common.stack(results)


def _pooling(params, arrays):
  side = math.isqrt(params["N"])
  block = int((params["N"] / params["tokens"]) ** 0.5)
  spec = presets.MATRYOSHKA.replace(stride=block)
  keep = (side // block) ** 2
  return {
    "out_pooled": np.stack(
      [
        common.reduce(x, spec, keep, grid=(side, side)).tokens.x
        for x in arrays["in_x"]
      ]
    )
  }


CASES = {
  "tome": _tome,
  "tome_block": _tome_block,
  "evit": _evit,
  "visionzip": _visionzip,
  "prumerge": _prumerge,
  "prumerge_plus": _prumerge,
  "diffrate_merge": _diffrate_merge,
  "diffrate_block": _diffrate_block,
  "pooling": _pooling,
}
