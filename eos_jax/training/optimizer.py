"""Optimisers of model parameters."""

from typing import Any

import jax
import optax


def adamw(
  *,
  learning_rate: float,
  warmup: int,
  steps: int,
  weight_decay: float,
  clip: float = 1.0,
) -> optax.GradientTransformation:
  """AdamW with linear warm-up, cosine decay to 1 % and gradient clipping.

  Decay acts on matrices only, never on biases, norms and single embeddings.

  Args:
    learning_rate: peak.
    warmup: steps to the peak.
    steps: length of the whole schedule.
    weight_decay: decoupled decay.
    clip: largest global gradient norm.
  """
  schedule = optax.warmup_cosine_decay_schedule(
    0.0, learning_rate, warmup, steps, 0.01 * learning_rate
  )
  return optax.chain(
    optax.clip_by_global_norm(clip),
    optax.adamw(
      schedule, b2=0.98, weight_decay=weight_decay, mask=_is_matrix_tree
    ),
  )


def _is_matrix_tree(params: Any) -> Any:
  def decays(path, leaf):
    name = str(path[-1].key)
    return leaf.ndim >= 2 and name in ("kernel", "embed")

  return jax.tree_util.tree_map_with_path(decays, params)
