"""Cases of operators that act in the decoder, on its input or on its cache."""

import jax
import jax.numpy as jnp
import numpy as np

from eos_jax import ops
from tests.golden import common

presets = ops.presets


def _fastv(params, arrays):
  hidden, start, visual = arrays["in_hidden_states"], params["sys"], params["N"]
  batch, length, _ = hidden.shape
  # The origin ranks by the first sample and cuts all samples alike.
  row = arrays["in_attention"][0, :, -1, start : start + visual].mean(0)
  rank = min(params["rank"], visual)
  outs = [
    common.reduce(
      hidden[b, start : start + visual],
      presets.FASTV,
      rank,
      last_row_previous=row,
    )
    for b in range(batch)
  ]
  kept = start + np.asarray(outs[0].index)
  behind = np.arange(start + visual, length)
  index = np.concatenate([np.arange(start), kept, behind])
  stays = np.zeros((batch, length), bool)
  stays[:, index] = True
  return {
    "out_scores": row,
    "out_keep_index": index,
    "out_hidden_kept": np.stack(
      [
        np.concatenate(
          [hidden[b, :start], out.tokens.x, hidden[b, start + visual :]]
        )
        for b, out in enumerate(outs)
      ]
    ),
    "out_position_ids": index[None],
    "out_mask_variant_keep": stays,
  }


def _raters(params, arrays):
  hidden = arrays["in_hidden_states"][0]
  start = params["pre"] + params["N"]
  raters, share = ops.signals.text_raters(
    jnp.asarray(hidden[params["pre"] : start]), jnp.asarray(hidden[start:])
  )
  return {
    "out_m_v_t": share[None],
    "out_rater_index_in_text": np.flatnonzero(raters),
  }


class _SparseLayer:
  """What SparseVLM reads from the attention of a layer."""

  def __init__(self, params, arrays):
    first, visual = params["pre"], params["N"]
    text = first + visual
    attention = jnp.asarray(
      arrays["in_attention"][0, :, text:, first : first + visual]
    )
    chosen = np.zeros(attention.shape[1], bool)
    chosen[arrays["in_rater_index_in_text"]] = True
    self.scores = ops.signals.rater_rows(attention, jnp.asarray(chosen))
    rows = ops.signals.head_mean(attention)[np.flatnonzero(chosen)]
    self.rank = None
    if params["version"] == "rank":
      number, rank = ops.count.rank(
        rows, scale=params["scale"], bias=params["bias"]
      )
      self.number, self.rank = int(number), int(rank)
      # All of them stay where their number is the rank.
      self.recycles = self.number < visual
    elif params["version"] == "topk":
      tabled = ops.count.SPARSEVLM_1_5[params["retain"]]
      place = (2, 6, 15).index(params["layer"])
      self.number = min(tabled[place], visual - 1)
      self.recycles = True
    else:
      raise ValueError(f"version is {params['version']!r}, not rank or topk")


def _select(params, arrays):
  layer = _SparseLayer(params, arrays)
  x = np.zeros((params["N"], 1), np.float32)  # no feature is read
  out = common.reduce(
    x,
    presets.SPARSEVLM_2_0,
    max(layer.number, 1),
    count=layer.number,
    rater_rows=layer.scores,
  )
  stays = np.zeros(params["N"], bool)
  stays[np.asarray(out.index)[common.rows_there(out)]] = True
  result = {
    "out_keep_mask": stays[None],
    "out_recycle_flag": layer.recycles,
    "out_scores": layer.scores[None],
    "out_n_kept": stays.sum(),
  }
  if layer.rank is not None:
    result["out_rank"] = np.array([layer.rank])
  return result


def _cluster(params, arrays):
  clusters = params["clusters"]
  # Everything is dropped and comes back.
  spec = presets.SPARSEVLM.replace(kappa=0.0, recycle=1.0)
  return {
    "out_merged": np.stack(
      [
        common.reduce(
          x, spec, clusters, rater_rows=np.zeros(len(x)), noise=noise
        ).tokens.x
        for x, noise in zip(arrays["in_x"], arrays["in_noise"], strict=True)
      ]
    )
  }


def _sparse_layer(params, arrays):
  layer = _SparseLayer(params, arrays)
  hidden = arrays["in_layer_output"][0]
  first, visual = params["pre"], params["N"]
  x = hidden[first : first + visual]
  scores = np.asarray(layer.scores)
  best = np.argsort(-scores, kind="stable")
  stays = np.zeros(visual, bool)
  stays[best[: layer.number]] = True
  dropped = np.flatnonzero(~stays)
  clusters = ops.count.clusters(len(dropped)) if layer.recycles else 0
  recycled = (int(0.3 * len(dropped)) + 1) if layer.recycles else 0
  # The origin hands out its noise in the order of falling scores.
  order = [j for j in best if not stays[j]][:recycled]
  noise = np.zeros(visual, np.float32)
  noise[order] = arrays["in_noise_pool"][:recycled]
  total = layer.number + clusters
  spec = presets.SPARSEVLM.replace(kappa=layer.number / total)
  out = common.reduce(x, spec, total, rater_rows=scores, noise=noise)
  kept = np.asarray(out.index)[: layer.number]
  mask = np.zeros(visual, bool)
  mask[kept] = True
  sequence = [hidden[:first], out.tokens.x, hidden[first + visual :]]
  sequence = np.concatenate(sequence)
  outside = np.arange(first + visual, len(hidden))
  return {
    "out_hidden_out": sequence[None],
    # The preset renumbers.
    "out_position_ids_out": np.arange(len(sequence))[None],
    "out_keep_mask": mask[None],
    "out_scores": scores[None],
    "out_n_visual_out": total,
    "out_n_clusters": clusters,
    "out_n_recycle_candidates": recycled,
    "out_recycle_index_among_dropped": np.searchsorted(dropped, order),
    "out_select_index": np.concatenate(
      [np.arange(first), first + kept, outside]
    )[None],
    "out_recycle_flag": layer.recycles,
    "out_rank": layer.rank,
  }


def _last_prompt_row(params, arrays, b, row):
  """Head-mean attention of one row with the coming layer's weights."""
  x = jnp.asarray(arrays["in_features"][b])
  heads, width = params["H"], x.shape[1]
  normed = x * jax.lax.rsqrt(jnp.mean(x**2, -1, keepdims=True) + 1e-5)
  normed *= jnp.asarray(arrays["in_rms_weight"])[None]
  position = jnp.asarray(arrays["in_position_ids"][b], jnp.float32)
  half = width // heads // 2
  turn = position[:, None] * (10_000.0 ** (-jnp.arange(half) / half))[None]
  cos, sin = jnp.cos(turn)[:, None], jnp.sin(turn)[:, None]

  def project(weight):
    y = (normed @ jnp.asarray(weight).T).reshape(-1, heads, 2, half)
    a, c = y[:, :, 0], y[:, :, 1]
    return jnp.concatenate([a * cos - c * sin, c * cos + a * sin], -1)

  query, keys = project(arrays["in_wq"])[row], project(arrays["in_wk"])
  logits = jnp.einsum("hd,nhd->hn", query, keys) * (2 * half) ** -0.5
  sees = jnp.asarray(arrays["in_attention_mask"][b])
  sees &= jnp.arange(len(x)) <= row
  logits = jnp.where(sees[None], logits, -jnp.inf)
  return ops.signals.head_mean(jax.nn.softmax(logits, -1))


def _pyramiddrop(params, arrays):
  features, mask = arrays["in_features"], arrays["in_attention_mask"]
  kept = []
  for b in range(len(features)):
    first, visual = params["image_pos"][b], params["cur_tokens"][b]
    length = int(mask[b].sum())
    if first < 0:
      kept.append(np.arange(length))
      continue
    counts = ops.count.pyramid(
      params["image_tokens"][b], tuple(params["ratios"])
    )
    row = _last_prompt_row(
      params, arrays, b, params["prompt_len"][b] + visual - 1
    )
    out = common.reduce(
      features[b, first : first + visual],
      presets.PYRAMIDDROP,
      counts[params["stage"]],
      last_row=row[first : first + visual],
    )
    kept.append(
      np.concatenate(
        [
          np.arange(first),
          first + np.asarray(out.index),
          np.arange(first + visual, length),
        ]
      )
    )
  longest = max(len(rows) for rows in kept)
  shape = (len(features), longest)
  result = {
    "out_features_out": np.zeros((*shape, features.shape[2]), np.float32),
    "out_attention_mask_out": np.zeros(shape, bool),
    "out_position_ids_out": np.zeros(shape, int),
    "out_kept_index": np.full(shape, -1),
  }
  for b, rows in enumerate(kept):
    result["out_features_out"][b, : len(rows)] = features[b, rows]
    result["out_attention_mask_out"][b, : len(rows)] = True
    result["out_position_ids_out"][b, : len(rows)] = np.arange(len(rows))
    result["out_kept_index"][b, : len(rows)] = rows
  return result


def _dart(params, arrays):
  states = arrays["in_last_layer_state"][0]
  keys = arrays["in_key_states"][0].transpose(1, 0, 2)
  keys = keys.reshape(len(states), -1)
  first, visual = params["pre"], params["N"]
  place = np.arange(len(states))
  in_picture = (place >= first) & (place < first + visual)
  pivots, text_pivots = params["p_img"], params["p_txt"]
  rows = np.asarray(
    ops.signals.dart_pivots(
      jnp.asarray(keys),
      jnp.asarray(in_picture),
      jnp.asarray(place >= first + visual),
      pivots=pivots,
      text_pivots=text_pivots,
    )
  )
  budget = params.get("max_num")
  if budget is None:
    budget = visual * (1 - params["reduction_ratio"])
  budget = int(budget)
  keep = ops.count.dart(budget, pivots=pivots, text_pivots=text_pivots)
  visits = _set_order(rows)
  out = common.reduce(
    states[in_picture],
    presets.DART.replace(kappa=pivots / keep),
    keep,
    keys=keys[in_picture],
    states=states[in_picture],
    pivots=states[visits],
  )
  return {
    "out_retained_sorted": first + np.asarray(out.index),
    "out_image_pivots": rows[:pivots],
    "out_text_pivots": rows[pivots:],
    "out_pivot_visit_order": visits,
    "out_k_per_pivot": budget // (pivots + text_pivots),
  }


def _set_order(rows):
  """The accident that the origin's loop runs over: a set of Python ints."""
  return np.array(list({int(row) for row in rows}))


def _divprune(params, arrays):
  x = arrays["in_visual"]
  keep = int(round(params["ratio"] * len(x)))
  out = common.reduce(x, presets.DIVPRUNE, keep)
  ordered = presets.DIVPRUNE.replace(order_second="score")
  return {
    "out_pick_order": common.reduce(x, ordered, keep).index,
    "out_kept_sorted": out.index,
    "out_n_kept": keep,
  }


def _globalcom2(params, arrays):
  scores, features = arrays["in_cls_attention"], arrays["in_features"]
  side, crops = params["side"], (params["gh"], params["gw"])
  retention = params.get("retention", 0.25)
  shares = ops.count.crop_shares(
    jnp.asarray(scores[0]),
    side=side,
    crops=crops,
    retention=retention,
    temperature=params.get("tau", 10.0),
  )
  there = _unpadded(params, side, crops)
  rows, columns = np.flatnonzero(there.any(1)), np.flatnonzero(there.any(0))
  guide = np.zeros(there.shape, np.float32)
  guide[np.ix_(rows, columns)] = ops.signals.crop_guide(
    jnp.asarray(scores[0]), side=side, shape=(len(rows), len(columns))
  )
  by_crop = lambda canvas: (
    canvas.reshape(crops[0], side, crops[1], side)
    .transpose(0, 2, 1, 3)
    .reshape(-1, side * side)
  )
  valid, guide = by_crop(there), by_crop(guide)
  # One example: the thumbnail is image 0, padding is not among its tokens.
  inside = np.concatenate([np.ones((1, side * side), bool), valid])
  image = np.repeat(np.arange(len(inside)), side * side)
  flat = inside.reshape(-1)
  counts = [int(side * side * retention)]
  counts += [
    int(n * share) for n, share in zip(valid.sum(1), shares, strict=True)
  ]
  out = common.reduce(
    features.reshape(-1, features.shape[2])[flat],
    presets.GLOBALCOM2,
    max(sum(counts), 1),
    count=jnp.array(counts),
    image=image[flat],
    images=len(inside),
    class_row=scores.reshape(-1)[flat],
    guide=np.concatenate([np.zeros(side * side), guide.reshape(-1)])[flat],
  )
  index = np.asarray(out.index)[common.rows_there(out)]
  kept = [
    index[image[flat][index] == i] - np.flatnonzero(image[flat] == i)[0]
    if (image[flat] == i).any()
    else np.zeros(0, int)
    for i in range(len(inside))
  ]
  best = kept[0][np.argsort(-scores[0][kept[0]], kind="stable")]
  result = {
    "out_scales": shares,
    # The origin leaves the thumbnail in the order of its scores.
    "out_thumbnail_index": best,
    "out_thumbnail_tokens": features[0][best],
    "out_crops_tokens": _written_back(params, arrays, kept[1:], valid),
    "out_crop_dims_wh": [_extent(one, side) for one in valid],
    "out_crop_n_kept": [len(rows) for rows in kept[1:]],
  }
  for place, one in enumerate(kept[1:]):
    result[f"out_crop{place}_kept_sorted"] = one
    result[f"out_crop{place}_global_scores"] = guide[place][valid[place]]
  return result


def _unpadded(params, side, crops):
  """Which cells of the joined crops show the picture."""
  width, height = params["original_size"]
  rows, columns = crops[0] * side, crops[1] * side
  there = np.zeros((rows, columns), bool)
  if width / height > columns / rows:
    pad = (rows - int(height * (columns / width))) // 2
    there[pad : rows - pad] = True
  else:
    pad = (columns - int(width * (rows / height))) // 2
    there[:, pad : columns - pad] = True
  return there


def _extent(valid, side):
  cells = np.argwhere(valid.reshape(side, side))
  if not len(cells):
    return (0, 0)
  height, width = np.ptp(cells, axis=0) + 1
  return (width, height)


def _written_back(params, arrays, kept, valid):
  """The origin's layout of kept crop tokens, with its fault.

  Indices into the list of unpadded tokens are taken for cells of the grid, so
  where there is padding tokens land in other cells. Each row of the joined
  crops ends with the newline embedding.
  """
  side, features = params["side"], arrays["in_features"][1:]
  rows = []
  for i in range(params["gh"]):
    for line in range(side):
      for j in range(params["gw"]):
        crop = i * params["gw"] + j
        tokens = features[crop][valid[crop]]
        for index in kept[crop]:
          if index // side == line:
            rows.append(tokens[index])
      rows.append(arrays["in_image_newline"])
  return np.stack(rows)


def _csp(params, arrays):
  logits = arrays["in_attention_logits"][0]
  length = params["L"]
  recent_rows = int(length * params["recent_ratio"])
  cache = int(length * params["hh_ratio"]) + recent_rows
  bias = params.get("kv_recent_bias", 1)
  recent = recent_rows if bias == 1 else int(recent_rows * bias)
  room, cross = cache - recent, params["cross_ratio"]
  numbers = (int(room * (1 - cross)), int(room * cross))
  if cross <= 0:
    numbers = (308, 1)
  place = np.arange(length)
  visual = np.zeros(length, bool)
  for number, start in enumerate(np.atleast_1d(params["image_position"])):
    # Positions are those of one placeholder for each image.
    start = start + 575 * number
    visual |= (place >= start) & (place < start + 576)
  keep = sum(numbers)
  spec = presets.CSP.replace(kappa=numbers[0] / keep)
  results = []
  for head in jnp.asarray(logits):
    own, other = ops.signals.modality_sums(
      head,
      jnp.asarray(visual[-recent_rows:]),
      jnp.asarray(visual),
      recent=recent,
    )
    tags = place[: length - recent, None].astype(np.float32)
    out = common.reduce(tags, spec, keep, self_sums=own, cross_sums=other)
    rows = np.asarray(out.tokens.x)[:, 0].astype(int)
    results.append(
      {
        "out_kept_self_sorted": np.sort(rows[: numbers[0]]),
        "out_kept_cross_sorted": np.sort(rows[numbers[0] :]),
        "out_kept_recent": place[length - recent :],
      }
    )
  return common.stack(results)


CASES = {
  "fastv": _fastv,
  "sparsevlm_raters": _raters,
  "sparsevlm_select": _select,
  "sparsevlm_cluster": _cluster,
  "sparsevlm_layer": _sparse_layer,
  "pyramiddrop": _pyramiddrop,
  "dart": _dart,
  "divprune": _divprune,
  "globalcom2": _globalcom2,
  "csp": _csp,
}
