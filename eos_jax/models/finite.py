"""Finds numbers that are not finite, so that a run can end and name them."""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def faults(values: Any) -> Iterator[str]:
  """Yields a text for each array with numbers that are not finite.

  Args:
    values: pytree of small arrays; it waits for those on devices.
  """
  for path, leaf in jax.tree_util.tree_flatten_with_path(values)[0]:
    array = np.asarray(leaf)
    if not jnp.issubdtype(array.dtype, jnp.floating):
      continue
    wrong = array[~np.isfinite(array.astype(np.float64))]
    if wrong.size:
      name = jax.tree_util.keystr(path, simple=True, separator=".")
      yield f"{name or 'value'} is {wrong.flat[0]:g}"


def names(tree: Any) -> list[str]:
  """Returns the arrays of a state that have numbers that are not finite.

  Args:
    tree: pytree of arrays on any devices, also of several processes.
  """
  leaves = {
    jax.tree_util.keystr(path, simple=True, separator="."): leaf
    for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]
    if jnp.issubdtype(jnp.result_type(leaf), jnp.floating)
  }
  return [name for name, fine in _finite(leaves).items() if not bool(fine)]


@jax.jit
def _finite(leaves: dict[str, Any]) -> dict[str, jax.Array]:
  return {name: jnp.all(jnp.isfinite(leaf)) for name, leaf in leaves.items()}
