"""Slow NumPy versions of the operators, one loop per sentence of their text.

Written from the descriptions, in float64, without the stages of `eos_jax.ops`:
what these and the library agree on is not an accident of shared code.
"""

import math

import numpy as np


def cosine(a, b):
  return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))


def standardise(values):
  return (values - values.mean()) / math.sqrt(values.var() + 1e-12)


def uniqueness(x, order):
  """Minus the greatest cosine to a better token, 1 for the best token."""
  values = np.ones(len(x))
  for j in range(len(x)):
    for k in range(len(x)):
      better = order[k] > order[j] or (order[k] == order[j] and k < j)
      if better:
        values[j] = min(values[j], -cosine(x[j], x[k]))
  return values


def top(scores, count):
  """Indices of the best, ascending; ties to the lowest index."""
  order = sorted(range(len(scores)), key=lambda i: (-scores[i], i))
  return sorted(order[:count])


def unique_scores(x, class_row):
  order = 0.01 * standardise(class_row)
  return standardise(order + 0.99 * standardise(uniqueness(x, order)))


def prune(x, class_row, count):
  kept = top(unique_scores(x, class_row), count)
  return x[kept], kept


def reweight(x, class_row, count, rho):
  """Features times 1 + rho w; log w for the attention bias."""
  scores = unique_scores(x, class_row)
  kept = top(scores, count)
  weight = 1 / (1 + np.exp(-scores[kept]))
  return x[kept] * (1 + rho * weight)[:, None], kept, np.log(weight)


def shares(x, kept, j, tau):
  """Softmax over the kept tokens of cosine / tau, for one removed token."""
  logits = np.array([cosine(x[j], x[k]) for k in kept]) / tau
  weights = np.exp(logits - logits.max())
  return weights / weights.sum()


def merge(x, kept, tau, gamma=1.0):
  """Weighted mean of a kept token (1) and what the removed ones send it."""
  total, weight = x[kept].copy(), np.ones(len(kept))
  for j in range(len(x)):
    if j not in kept:
      part = gamma * shares(x, kept, j, tau)
      total += part[:, None] * x[j]
      weight += part
  return total / weight[:, None], weight


def torus_distance(a, b, rows, columns):
  """Squared distance of two cells on a grid whose borders are joined."""
  vertical, across = abs(a[0] - b[0]), abs(a[1] - b[1])
  vertical = min(vertical, rows - vertical)
  across = min(across, columns - across)
  return vertical**2 + across**2


def spread_order(rows, columns):
  """Farthest points on a torus, from (rows // 3, columns // 3) on.

  Of equally far cells the one of least sum of 1 / distance^2, then the first.
  """
  picks = [(rows // 3, columns // 3)]
  cells = [(r, c) for r in range(rows) for c in range(columns)]
  while len(picks) < len(cells):
    ranked = []
    for cell in cells:
      if cell not in picks:
        far = [torus_distance(cell, pick, rows, columns) for pick in picks]
        ranked.append((-min(far), round(sum(1 / d for d in far), 9), cell))
    picks.append(min(ranked)[2])
  return [r * columns + c for r, c in picks]


def pool(x, rows, columns, cell_rows, cell_columns):
  """Mean of adaptive cells; a token shared by n cells counts 1/n in each."""
  cells = []
  for i in range(cell_rows):
    for j in range(cell_columns):
      top_row = i * rows // cell_rows
      bottom = math.ceil((i + 1) * rows / cell_rows)
      left = j * columns // cell_columns
      right = math.ceil((j + 1) * columns / cell_columns)
      cells.append(
        [
          r * columns + c
          for r in range(top_row, bottom)
          for c in range(left, right)
        ]
      )
  shared = np.zeros(rows * columns)
  for cell in cells:
    shared[cell] += 1
  size = np.array([sum(1 / shared[j] for j in cell) for cell in cells])
  y = np.array([sum(x[j] / shared[j] for j in cell) for cell in cells])
  return y / size[:, None], size


def tome(x, keys, size, count, protect):
  """One bipartite step; returns features, sizes and members of each row."""
  total = len(x)
  even, odd = list(range(0, total, 2)), list(range(1, total, 2))
  edges = []
  for a in even:
    if a < protect:
      continue
    best = max(
      ((cosine(keys[a], keys[b]), -b) for b in odd if b >= protect),
    )
    edges.append((best[0], a, -best[1]))
  edges.sort(key=lambda edge: (-edge[0], edge[1]))
  removed = edges[: total - count]
  groups = {j: [j] for j in range(total)}
  for _, a, b in removed:
    groups[b].append(a)
    del groups[a]
  stay = [a for _, a, _ in edges[total - count :]]
  if protect:
    stay.sort()
  order = list(range(min(protect, total))) + stay
  order += [b for b in odd if b >= protect]
  y, sizes = [], []
  for row in order:
    weight = sum(size[j] for j in groups[row])
    y.append(sum(size[j] * x[j] for j in groups[row]) / weight)
    sizes.append(weight)
  return np.array(y), np.array(sizes), order, [groups[row] for row in order]
