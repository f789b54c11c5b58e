"""Attention of the dense parts, by the best kernel of the backend.

`attend` is what blocks call; `row_attention` and `received` give the attention
probabilities that operators score tokens by, without a map of the sequence.
"""

import jax
from jax.extend import backend as backend_lib
import jax.numpy as jnp

from eos_jax.array_typing import Array, Bool, Float, Int
from eos_jax.models import attention_kernels, layers, target

KERNELS = {
  "cpu": attention_kernels.cpu,
  "cudnn": attention_kernels.cudnn,
  "tpu": attention_kernels.tpu,
  "xla": attention_kernels.xla,
}
# These take neither `order` nor `groups`.
FUSED = frozenset({"cudnn", "tpu"})
_DEFAULTS = {"cpu": "cpu", "cuda": "cudnn", "gpu": "cudnn", "tpu": "tpu"}
# So few chunks are unrolled: a loop halves the speed of XLA's CPU backend.
_UNROLL = 8


def default_kernel(backend: str | None = None) -> str:
  """The kernel made for a backend, whatever the shapes.

  Args:
    backend: name of a JAX platform; None: the default backend of the process.

  Returns:
    "cpu", "cudnn" (CUDA) or "tpu"; "xla" on other backends.
  """
  if backend is None:
    backend = target.platform()
    # "gpu" is the name of AMD's platform as well.
    version = backend_lib.get_backend().platform_version
    if backend == "gpu" and "cuda" not in version:
      return "xla"
  return _DEFAULTS.get(backend, "xla")


def supported(
  kernel: str, q_shape: tuple[int, ...], k_shape: tuple[int, ...], dtype
) -> str:
  """Why a kernel cannot serve queries and keys, or "" where it can.

  Args:
    kernel: one of `KERNELS`.
    q_shape: `(B, H, Q, d)`.
    k_shape: `(B, G, N, d)`.
    dtype: of queries, keys and values.

  Returns:
    The reason as a sentence, or "".
  """
  if kernel not in KERNELS:
    return f"kernel={kernel!r} is not one of {sorted(KERNELS)}."
  heads, width, groups = q_shape[1], q_shape[3], k_shape[1]
  dtype = jnp.dtype(dtype)
  if heads % groups:
    return f"{heads} query heads are not a multiple of {groups} key heads."
  if kernel == "cudnn":
    if dtype not in (jnp.bfloat16, jnp.float16):
      return f"cudnn takes bfloat16 or float16, not {dtype.name}."
    limit = attention_kernels.CUDNN_HEAD_DIM
    if width % 8 or width > limit:
      return f"cudnn takes head_dim a multiple of 8 up to {limit}, not {width}."
  if kernel == "tpu" and dtype not in (jnp.bfloat16, jnp.float32):
    return f"tpu takes bfloat16 or float32, not {dtype.name}."
  return ""


def choose(
  backend: str | None, head_dim: int, dtype, *, devices: int = 1
) -> str:
  """The fastest kernel that can serve a model; known before any array is.

  A fused kernel that cannot take the model's dtype or head size gives way to
  "xla", which needs memory for all scores: float32 or head_dim > 128 on CUDA,
  float16 on TPU. So does "tpu" where the compiler spreads a computation over
  devices, which it cannot do with Pallas kernels. A caller that wants to know
  compares with `default_kernel`.

  Args:
    backend: name of a JAX platform; None: the default backend of the process.
    head_dim: features of a head.
    dtype: of queries, keys and values.
    devices: that the compiler spreads one computation over; 1 also inside
      `jax.shard_map`.

  Returns:
    A name of `KERNELS`.
  """
  kernel = default_kernel(backend)
  shape = (1, 1, 1, head_dim)
  if supported(kernel, shape, shape, dtype) or (
    kernel == "tpu" and devices > 1
  ):
    return "xla"
  return kernel


def attend(
  q: Float[Array, "B H Q d"],
  k: Float[Array, "B G N d"],
  v: Float[Array, "B G N d"],
  *,
  causal: bool = False,
  lengths: Int[Array, "B"] | None = None,
  key_bias: Float[Array, "B N"] | None = None,
  order: Int[Array, "B N"] | None = None,
  query_order: Int[Array, "B Q"] | None = None,
  groups: Int[Array, "B N"] | None = None,
  kernel: str,
) -> Float[Array, "B Q F"]:
  """Softmax attention, each of G key heads serving H / G query heads.

  Query row i is sequence row N - Q + i: the queries are the last rows of the
  keys' sequence. Softmax statistics are float32 whatever the dtype. A row that
  sees no key has a finite output without meaning. Gradients go to q, k, v and
  key_bias; a hidden key has none.

  Args:
    q: queries.
    k: keys.
    v: values.
    causal: rows see keys up to themselves, in storage order.
    lengths: number of valid keys; the others are padding.
    key_bias: added to the logits of a key; `layers.MASKED` hides it.
    order: logical place of each key where storage order is another one; rows
      see the keys whose place is not after theirs, and `causal` is not read.
      Kernels "cpu" and "xla" only.
    query_order: logical places of the query rows; None: of the last Q keys.
    groups: number of the question a row belongs to, 0 for what all see; a row
      sees its own group and group 0. Kernels "cpu" and "xla" only.
    kernel: one of `KERNELS`, see `choose`.

  Returns:
    The context with heads merged, F = H * d.

  Raises:
    ValueError: the kernel cannot serve these arguments, with the reason.
  """
  queries, keys = q.shape[2], k.shape[2]
  reason = supported(kernel, q.shape, k.shape, q.dtype)
  if reason:
    raise ValueError(f"{reason} `choose` picks a kernel that serves a model.")
  if kernel in FUSED and (order is not None or groups is not None):
    raise ValueError(
      f"kernel {kernel!r} knows no `order` and no `groups`; sort the rows by"
      " their order and set `causal`, or use kernel 'xla'."
    )
  if query_order is not None and order is None:
    raise ValueError("query_order has no meaning without `order`; give both.")
  placed = causal or order is not None or groups is not None
  if queries > keys and placed:
    raise ValueError(
      f"{queries} query rows cannot be the last of {keys} keys; give the keys"
      " of all rows."
    )
  if order is not None and query_order is None:
    query_order = order[:, keys - queries :]
  sight = attention_kernels.Sight(
    causal, lengths, key_bias, order, query_order, groups
  )
  return KERNELS[kernel](q, k, v, sight)


def row_attention(
  q: Float[Array, "B H R d"],
  k: Float[Array, "B G N d"],
  *,
  allowed: Bool[Array, "B #R N"] | None = None,
  key_bias: Float[Array, "B N"] | None = None,
) -> Float[Array, "B R N"]:
  """Attention probabilities of a few query rows, mean over heads.

  Needs memory for `[B, H, R, N]` in float32. Gradients go to q, k and
  key_bias.

  Args:
    q: queries of the chosen rows.
    k: keys of the sequence.
    allowed: keys that a row sees; None: all.
    key_bias: added to the logits of a key; `layers.MASKED` hides it.

  Returns:
    Probabilities in float32, rows sum to 1.
  """
  if allowed is None:
    allowed = jnp.ones((1, 1, k.shape[2]), bool)
  bias = jnp.float32(0.0) if key_bias is None else key_bias[:, None]
  bias = jnp.where(allowed, bias, layers.MASKED)
  return jnp.mean(layers.attention_weights(q, k, bias), axis=1)


def received(
  q: Float[Array, "B H Q d"],
  k: Float[Array, "B G N d"],
  *,
  weights: Float[Array, "B Q"],
  order: Int[Array, "B N"],
  query_order: Int[Array, "B Q"] | None = None,
  key_bias: Float[Array, "B N"] | None = None,
  chunk: int = 128,
) -> Float[Array, "B N"]:
  """Attention that each key receives: mean over heads, weighted sum over rows.

  Runs over chunks of query rows, also backward, and needs memory for
  `[B, H, chunk, N]` in float32. Gradients go to q, k, weights and key_bias.

  Args:
    q: queries of all rows.
    k: keys of the sequence.
    weights: of the query rows in the sum; rows of weight 0 count for nothing.
    order: logical place of each key; a row sees places up to its own.
    query_order: logical places of the query rows; None: of the last Q keys.
    key_bias: added to the logits of a key; `layers.MASKED` hides it.
    chunk: query rows at a time.

  Returns:
    Weighted attention in float32; over keys it sums to the sum of `weights`.
  """
  batch, heads, queries, width = q.shape
  keys = k.shape[2]
  if query_order is None:
    query_order = order[:, keys - queries :]
  bias = jnp.float32(0.0) if key_bias is None else key_bias[:, None]
  chunk = min(chunk, queries)
  count = -(-queries // chunk)
  spare = count * chunk - queries
  # Rows that fill the last chunk have no weight.
  rows = (
    jnp.pad(q, ((0, 0), (0, 0), (0, spare), (0, 0))),
    jnp.pad(query_order, ((0, 0), (0, spare))),
    jnp.pad(weights.astype(jnp.float32), ((0, 0), (0, spare))),
  )
  rows = (
    jnp.moveaxis(rows[0].reshape(batch, heads, count, chunk, width), 2, 0),
    *(jnp.moveaxis(x.reshape(batch, count, chunk), 1, 0) for x in rows[1:]),
  )

  @jax.checkpoint
  def add(total, rows):
    queries, places, share = rows
    allowed = order[:, None] <= places[..., None]
    some = layers.attention_weights(
      queries, k, jnp.where(allowed, bias, layers.MASKED)
    )
    return total + jnp.einsum(
      "bhrn,br->bn",
      some,
      share / heads,
      precision=jax.lax.Precision.HIGHEST,
    ), None

  total = jnp.zeros((batch, keys), jnp.float32)
  unroll = count if count <= _UNROLL else 1
  return jax.lax.scan(add, total, rows, unroll=unroll)[0]
