"""The parts of a model that training moves, as copies in float32.

In bfloat16 most steps would be smaller than the distance between two numbers.
"""

from typing import Any

import jax
import jax.numpy as jnp

NAMES = ("projector", "decoder")


def parts(params: Any) -> Any:
  """Returns what of a model's parameters, or of their shapes, is trained."""
  return {name: params[name] for name in NAMES}


def copies(params: Any) -> Any:
  """Returns the trained parts in float32.

  Copies: steps reuse the memory of their state, and the model is needed as it
  was.
  """
  return jax.tree.map(
    lambda leaf: jnp.array(leaf, jnp.float32, copy=True), parts(params)
  )


def merged(params: Any, trained: Any) -> Any:
  """Returns a model with trained parts, in the dtypes that it computes in.

  Gradients reach `trained` in float32. None: the model as it is.
  """
  if trained is None:
    return params
  cast = jax.tree.map(
    lambda leaf, like: leaf.astype(like.dtype), trained, parts(params)
  )
  return {**params, **cast}
