"""Recorded cases from slow NumPy versions of the published code.

Written from the published rules, in float64 with loops, without the library:
they stand for what the origin gives on parameters that no stored case has.
Each function takes the inputs and the parameters of a case of its operator in
a manifest, and returns the `out_` arrays.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np


def _unit(x):
  return x / np.linalg.norm(x, axis=-1, keepdims=True)


def _stacked(run, *batches):
  """Outputs of `run` on every sample of a batch."""
  results = [run(*sample) for sample in zip(*batches, strict=True)]
  return {name: np.stack([r[name] for r in results]) for name in results[0]}


class _Groups:
  """Output rows as lists of input rows, the target of each group first."""

  def __init__(self, groups: list[list[int]], tokens: int):
    self.groups, self.tokens = groups, tokens

  def outputs(self, x, size):
    """What the origin's merging modes give for these groups."""
    mean = [x[group].mean(0) for group in self.groups]
    weighted = [
      (x[group] * size[group]).sum(0) / size[group].sum()
      for group in self.groups
    ]
    source = np.zeros((len(self.groups), self.tokens), np.float32)
    for row, group in enumerate(self.groups):
      source[row, group] = 1
    return {
      "out_merged_mean": np.array(mean),
      "out_merged_sum": np.array([x[group].sum(0) for group in self.groups]),
      "out_merged_amax": np.array([x[group].max(0) for group in self.groups]),
      "out_wavg_x": np.array(weighted),
      "out_wavg_size": np.array([size[group].sum(0) for group in self.groups]),
      "out_source": source,
    }


def _tome_groups(metric, r, class_token, distilled):
  """Groups of the output rows in order, and the origin's indices."""
  tokens = len(metric)
  even, odd = list(range(0, tokens, 2)), list(range(1, tokens, 2))
  unit = _unit(metric)
  best, target = {}, {}
  for a in even:
    for b in odd:
      value = float(unit[a] @ unit[b])
      if class_token and a == 0:
        value = -np.inf
      if distilled and b == 1:
        value = -np.inf
      if a not in best or value > best[a]:
        best[a], target[a] = value, b
  order = sorted(even, key=lambda a: -best[a])
  leaving, staying = order[:r], order[r:]
  if class_token:
    staying = sorted(staying)
  rows = {b: [b] + [a for a in leaving if target[a] == b] for b in odd}
  groups = [[a] for a in staying] + [rows[b] for b in odd]
  if distilled:
    groups = [[staying[0]], rows[1]]
    groups += [[a] for a in staying[1:]] + [rows[b] for b in odd[1:]]
  indices = {
    "out_src_idx": np.array([a // 2 for a in leaving], np.int64),
    "out_dst_idx": np.array([target[a] // 2 for a in leaving], np.int64),
    "out_unm_idx": np.array([a // 2 for a in staying], np.int64),
  }
  return groups, indices, leaving, staying, target


def _unmerged(mean, leaving, staying, target, tokens):
  """The origin's unmerge: the first rows are set A, the others set B."""
  out = np.zeros((tokens, mean.shape[1]))
  kept = len(staying)
  for row, a in enumerate(staying):
    out[a] = mean[row]
  for b in range(1, tokens, 2):
    out[b] = mean[kept + b // 2]
  for a in leaving:
    out[a] = mean[kept + target[a] // 2]
  return out


def tome(params: Mapping[str, Any], arrays: Mapping[str, np.ndarray]):
  """Bipartite matching, or the k-th variant where `k` is given."""
  x = arrays["in_x"].astype(np.float64)
  size = arrays.get("in_size", np.ones((*x.shape[:2], 1))).astype(np.float64)
  metric = arrays["in_metric"].astype(np.float64)
  merged = 0

  def one(metric, x, size):
    nonlocal merged
    tokens = len(x)
    class_token = params.get("class_token", False)
    distilled = params.get("distill_token", False)
    r = params.get("r", 0)
    r = min(r, (tokens - int(class_token) - int(distilled)) // 2)
    if "k" in params and params["k"] > 1:
      return kth(metric, x, size)
    if r <= 0 or "k" in params:
      result = _Groups([[j] for j in range(tokens)], tokens).outputs(x, size)
      return result | {"out_unmerged_from_mean": x}
    merged = r
    groups, indices, *parts = _tome_groups(metric, r, class_token, distilled)
    result = _Groups(groups, tokens).outputs(x, size)
    unmerged = _unmerged(result["out_merged_mean"], *parts, tokens)
    return result | indices | {"out_unmerged_from_mean": unmerged}

  def kth(metric, x, size):
    nonlocal merged
    step, unit = params["k"], _unit(metric)
    targets = [g * step + step - 1 for g in range(len(x) // step)]
    groups, index = [[t] for t in targets], []
    for j in range(len(targets) * step):
      if j % step != step - 1:
        index.append(int(np.argmax([unit[j] @ unit[t] for t in targets])))
        groups[index[-1]].append(j)
    merged = len(index)
    result = _Groups(groups, len(x)).outputs(x, size)
    back, givers = [], iter(index)
    for j in range(len(targets) * step):
      row = j // step if j % step == step - 1 else next(givers)
      back.append(result["out_merged_mean"][row])
    return result | {
      "out_dst_idx": np.array(index, np.int64),
      "out_unmerged_from_mean": np.array(back),
    }

  outputs = _stacked(one, metric, x, size)
  return outputs | {"out_r_effective": np.array(merged)}


def _class_attention(arrays, b):
  query = arrays["in_desired_layer_q"][b, 0].astype(np.float64)
  keys = arrays["in_desired_layer_k"][b].astype(np.float64)
  power = np.exp(keys @ query * len(query) ** -0.5)
  return (power / power.sum())[1:], keys[1:]


def prumerge(params: Mapping[str, Any], arrays: Mapping[str, np.ndarray]):
  """The fixed mode, with duplicated centres where `plus` is set."""
  ratio = params.get("ratio", params.get("reduction_ratio", 1 / 8))
  hidden = arrays["in_hidden_states"].astype(np.float64)[:, 1:]
  samples, tokens, width = hidden.shape
  number = int(tokens * ratio)
  rows, kept, result = [], [], []
  for b in range(samples):
    x = hidden[b]
    attention, keys = _class_attention(arrays, b)
    unit = _unit(keys)
    best = sorted(range(tokens), key=lambda j: -attention[j])[:number]
    centres = list(best)
    if params["plus"]:
      step = int(1 / ratio)
      centres += list(range(step // 2, 575, step))
    left = [j for j in range(tokens) if j not in centres]
    # As many of the first ones are lost as there are duplicates.
    left = left[len(centres) + len(left) - tokens :]
    out = []
    for place, centre in enumerate(centres):
      others = centres[:place] + centres[place + 1 :] + left
      near = sorted(others, key=lambda j: -float(unit[j] @ unit[centre]))[:32]
      out.append(x[centre] + sum(attention[j] * x[j] for j in near))
    out.append(sum((attention[j] * x[j] for j in left), np.zeros(width)))
    rows.append(attention)
    kept.append(best)
    result.append(np.array(out))
  return {
    "out_tokens": np.stack(result),
    "out_cls_attention": np.stack(rows),
    "out_outlier_ratio": np.array(float(ratio)),
    "out_n_topk": np.array(number),
    "out_topk_index": np.array(kept, np.int64).reshape(samples, number),
  }


def diffrate_merge(params: Mapping[str, Any], arrays: Mapping[str, np.ndarray]):
  """Merging of sorted tokens into the first ones, with or without a class."""
  kept, class_token = params["kept"], params.get("class_token", True)

  def one(x, y):
    x, y = x.astype(np.float64), y.astype(np.float64)
    unit = _unit(x)
    groups, index, closest = [[t] for t in range(kept)], [], []
    for j in range(kept, len(x)):
      values = [float(unit[j] @ unit[t]) for t in range(kept)]
      if class_token:
        values[0] = -np.inf
      index.append(int(np.argmax(values)))
      closest.append(max(values))
      groups[index[-1]].append(j)
    out = _Groups(groups, len(x)).outputs(x, np.ones((len(x), 1)))
    mean = out["out_merged_mean"]
    return {
      "out_merged_mean": mean,
      "out_merged_sum_y": np.array([y[group].sum(0) for group in groups]),
      "out_similarity_max": np.array(closest),
      "out_dst_idx": np.array(index, np.int64),
      "out_source": out["out_source"],
      "out_uncompressed": mean[[*range(kept), *index]],
    }

  return _stacked(one, arrays["in_x"], arrays["in_y"])


REFERENCES = {
  "tome": tome,
  "prumerge": prumerge,
  "prumerge_plus": prumerge,
  "diffrate_merge": diffrate_merge,
}
