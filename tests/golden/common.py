"""What several cases need: running a spec, and layers with stored weights."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from eos_jax import ops

_hard = jax.jit(ops.reduce_hard, static_argnames=("spec", "keep"))


def reduce(
  x: Any,
  spec: ops.OperatorSpec,
  keep: int,
  *,
  count: Any = None,
  size: Any = None,
  image: Any = None,
  **signals: Any,
) -> ops.Reduced:
  """`ops.reduce_hard` on arrays of one example."""
  tokens = ops.token_set(
    jnp.asarray(x), image=None if image is None else jnp.asarray(image)
  )
  if size is not None:
    tokens = ops.TokenSet(
      **{**vars(tokens), "size": jnp.asarray(size, jnp.float32)}
    )
  arrays = {
    n: v if n in ("grid", "images") else jnp.asarray(v)
    for n, v in signals.items()
  }
  return _hard(
    tokens,
    ops.Signals(**arrays),
    spec.params(),
    spec=spec,
    keep=keep,
    count=count,
  )


def rows_there(out: ops.Reduced) -> np.ndarray:
  """Which output rows are not empty."""
  return np.asarray(out.tokens.log_mass) > ops.LOG_ZERO / 2


def members(out: ops.Reduced) -> np.ndarray:
  """`[K, V]` 0 or 1: which input rows an output row is made of."""
  rows = np.asarray(ops.source_map(out))
  return (rows[None] == np.arange(len(out.index))[:, None]).astype(np.float32)


def stack(results: list[dict[str, Any]]) -> dict[str, np.ndarray]:
  """Results of the samples of a batch, with a leading batch axis."""
  return {
    name: np.stack([np.asarray(result[name]) for result in results])
    for name in results[0]
  }


def layer_norm(x, scale, bias, eps):
  """Layer norm over the last axis."""
  mean = jnp.mean(x, -1, keepdims=True)
  variance = jnp.mean((x - mean) ** 2, -1, keepdims=True)
  return (x - mean) / jnp.sqrt(variance + eps) * scale[None] + bias[None]


class Block:
  """A timm vision transformer block with stored weights, one example."""

  def __init__(self, arrays, heads: int, *, eps: float):
    self._w = {
      name.removeprefix("in_w."): jnp.asarray(value)
      for name, value in arrays.items()
      if name.startswith("in_w.")
    }
    self._heads, self._eps = heads, eps

  def _norm(self, x, name):
    w = self._w
    return layer_norm(x, w[f"{name}.weight"], w[f"{name}.bias"], self._eps)

  def _dense(self, x, name):
    return x @ self._w[f"{name}.weight"].T + self._w[f"{name}.bias"][None]

  def attention(self, x, size=None):
    """Returns branch output, attention `[H, N, N]`, head-mean keys `[N, d]`."""
    rows, width = x.shape
    qkv = self._dense(self._norm(x, "norm1"), "attn.qkv")
    qkv = qkv.reshape(rows, 3, self._heads, width // self._heads)
    q, k, v = qkv.transpose(1, 2, 0, 3)
    logits = q @ k.transpose(0, 2, 1) * (width // self._heads) ** -0.5
    if size is not None:
      logits += jnp.log(size)[None, None]
    weights = jax.nn.softmax(logits, -1)
    context = (weights @ v).transpose(1, 0, 2).reshape(rows, width)
    return self._dense(context, "attn.proj"), weights, jnp.mean(k, 0)

  def mlp(self, x):
    """Adds the MLP branch."""
    y = self._dense(self._norm(x, "norm2"), "mlp.fc1")
    return x + self._dense(jax.nn.gelu(y, approximate=False), "mlp.fc2")
