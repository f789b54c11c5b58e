"""Gradients of a batch that is too large to differentiate at once."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax


def mean_grad(
  loss_fn: Callable[[Any, Any, Any], tuple[Any, Any]], micro_batch: int = 0
) -> Callable[[Any, Any, Any], tuple[Any, Any]]:
  """Gradient by the first argument of `loss_fn(variables, batch, key)`.

  With micro-batches, one after the other, memory is that of one of them. The
  gradient is the mean of theirs: that of the whole batch if the loss is a mean
  over rows. Where it is a mean over something of which rows have different
  numbers, such as the tokens of their answers, each micro-batch counts alike.

  Args:
    loss_fn: returns the loss and a tree of further results.
    micro_batch: rows of a micro-batch; 0 = the whole batch at once. On several
      devices a multiple of those that the rows are cut over: each device takes
      part in each micro-batch with rows of its own.

  Returns:
    A function of the same arguments: the gradient and the further results, both
    the mean over the micro-batches. Each of these has a key of its own.

  Raises:
    ValueError: (by the function) micro-batches do not fill the batch.
  """
  gradient = jax.grad(loss_fn, has_aux=True)
  if not micro_batch:
    return gradient

  def part(variables, batch, key, rows):
    return gradient(variables, batch, jax.random.fold_in(key, rows[0]))

  def mean(variables, batch, key):
    size = jax.tree.leaves(batch)[0].shape[0]
    if size % micro_batch:
      raise ValueError(
        f"a batch of {size} rows is no multiple of micro_batch={micro_batch};"
        " use a divisor"
      )
    split = optax.microbatch(
      part, (1, 3), micro_batch, optax.microbatching.AccumulationType.MEAN
    )
    return split(variables, batch, key, jnp.arange(size))

  return mean
