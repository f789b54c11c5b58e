"""Answers, token by token, against a cache whose visual tokens were reduced.

Tokens are selected once, at prefill. `answer` runs prefill and decoding in one
compiled program, for evaluation; `eos_jax.models.engine` does the same step by
step, for streaming.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from eos_jax import ops
from eos_jax.array_typing import Array, Bool, Float, Int, Shaped
from eos_jax.models import cache as cache_lib
from eos_jax.models import config as config_lib
from eos_jax.models import decoder, sequence, vlm
from eos_jax.models import reduction as reduction_lib


@dataclasses.dataclass(frozen=True)
class Sampling:
  """How the next token is chosen.

  Attributes:
    temperature: of the softmax; 0 takes the likeliest token.
    top_p: draw among the likeliest tokens that hold this share of the
      probability together (nucleus sampling, https://arxiv.org/abs/1904.09751).
  """

  temperature: float = 0.0
  top_p: float = 1.0

  def __post_init__(self):
    faults = []
    if not 0 <= self.temperature < float("inf"):
      faults.append(f"temperature is {self.temperature}, use a number >= 0")
    if not 0 < self.top_p <= 1:
      faults.append(f"top_p is {self.top_p}, use a share in (0, 1]")
    if faults:
      raise ValueError("Sampling is not valid: " + "; ".join(faults))


GREEDY = Sampling()

# In place of a token: the logits that it is chosen by are not finite.
NO_TOKEN = -1


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Answer:
  """A generated answer.

  Attributes:
    ids: `[B, M]` tokens; the first stop token fills the rest of a row. From
      `NO_TOKEN` on a row means nothing.
    trace: the operator's result at each site, by site name.
  """

  ids: Int[Array, "B M"]
  trace: dict[str, ops.Reduced]


def choose(
  logits: Float[Array, "B vocab"],
  sampling: Sampling,
  keys: Shaped[Array, "B"] | None = None,
) -> Int[Array, "B"]:
  """The next token of each sample.

  Args:
    logits: float32.
    sampling: how to choose.
    keys: one random key a sample, so that a sample's draws do not depend on
      its batch; may be None if the temperature is 0.
  """
  if sampling.temperature == 0:
    return jnp.argmax(logits, axis=-1).astype(jnp.int32)
  if keys is None:
    raise ValueError(
      f"temperature is {sampling.temperature}, but there are no keys to draw"
      " with; give one for each sample, or use temperature 0"
    )
  logits = _nucleus(logits / sampling.temperature, sampling.top_p)
  return jax.vmap(jax.random.categorical)(keys, logits).astype(jnp.int32)


def _nucleus(logits, share):
  """Hides all but the likeliest tokens that hold a share together."""
  if share == 1:
    return logits
  ordered = jnp.sort(logits, axis=-1, descending=True)
  chance = jax.nn.softmax(ordered, axis=-1)
  ahead = jnp.cumsum(chance, axis=-1) - chance
  inside = jnp.where(ahead < share, ordered, jnp.inf)
  least = jnp.min(inside, axis=-1, keepdims=True)  # the first is always in
  return jnp.where(logits >= least, logits, -jnp.inf)


def prefill(
  cfg: config_lib.VLMConfig,
  params: Any,
  seen: vlm.Seen,
  text: sequence.Text,
  reduction: reduction_lib.Reduction = None,
  *,
  room: int,
  kernel: str | None = None,
) -> tuple[Float[Array, "B vocab"], cache_lib.Cache, dict[str, ops.Reduced]]:
  """Runs the prompts, reducing on the way.

  Args:
    cfg: shape of the model.
    params: tree from `models.init`.
    seen: from `models.see`, under the same reduction.
    text: prompts, `mask` True on the prompt only.
    reduction: None, a plan or a soft reduction.
    room: slots of the cache for later tokens.
    kernel: of attention (`attention.KERNELS`); None = the best of the backend.

  Returns:
    Logits of the first token of the answers, the cache, the trace of all sites.
  """
  out = vlm.run(cfg, params, seen, text, reduction, kernel=kernel)
  logits = decoder.logits(cfg.decoder, params["decoder"], out.last)
  cache = cache_lib.start(out.segments, room=room)
  return logits, cache, seen.trace | out.trace


def advance(
  cfg: config_lib.VLMConfig,
  params: Any,
  tokens: Int[Array, "B T"],
  mask: Bool[Array, "B T"],
  cache: cache_lib.Cache,
) -> tuple[Float[Array, "B vocab"], cache_lib.Cache]:
  """Runs further tokens, one or a whole turn; see `cache.extend`.

  Returns:
    Logits after the last real token of each sample, and the cache. A sample
    without a real token has logits without a meaning.
  """
  hidden, cache = cache_lib.extend(
    cfg.decoder, params["decoder"], tokens, mask, cache
  )
  columns = jnp.arange(mask.shape[1])[None]
  last = jnp.max(jnp.where(mask, columns, 0), axis=1)
  hidden = jnp.take_along_axis(hidden, last[:, None, None], axis=1)[:, 0]
  return decoder.logits(cfg.decoder, params["decoder"], hidden), cache


def answer(
  cfg: config_lib.VLMConfig,
  params: Any,
  seen: vlm.Seen,
  text: sequence.Text,
  reduction: reduction_lib.Reduction = None,
  *,
  steps: int,
  stop: tuple[int, ...],
  sampling: Sampling = GREEDY,
  keys: Shaped[Array, "B"] | None = None,
  kernel: str | None = None,
) -> Answer:
  """Answers of at most `steps` tokens, in one program.

  Args:
    cfg: shape of the model.
    params: tree from `models.init`.
    seen: from `models.see`, under the same reduction.
    text: prompts, `mask` True on the prompt only.
    reduction: None, a plan or a soft reduction.
    steps: most tokens M to generate.
    stop: ids that end an answer; the first fills the rest of its row.
    sampling: how tokens are chosen.
    keys: one random key a sample, for sampling.
    kernel: of attention (`attention.KERNELS`); None = the best of the backend.
  """
  logits, cache, trace = prefill(
    cfg, params, seen, text, reduction, room=steps - 1, kernel=kernel
  )
  first = _checked(logits, choose(logits, sampling, at_step(keys, 0)))
  fill = stop[0] if stop else 0
  tokens = jnp.full((first.shape[0], steps), fill, jnp.int32)
  tokens = tokens.at[:, 0].set(first)

  def unfinished(carry):
    index, _, _, done = carry
    return (index < steps) & ~jnp.all(done)

  def step(carry):
    index, tokens, cache, done = carry
    last = jax.lax.dynamic_slice_in_dim(tokens, index - 1, 1, axis=1)
    logits, cache = advance(cfg, params, last, ~done[:, None], cache)
    token = choose(logits, sampling, at_step(keys, index))
    token = jnp.where(done, fill, _checked(logits, token))
    tokens = jax.lax.dynamic_update_index_in_dim(tokens, token, index, 1)
    return index + 1, tokens, cache, done | is_stop(token, stop)

  start = (jnp.int32(1), tokens, cache, is_stop(first, stop))
  return Answer(jax.lax.while_loop(unfinished, step, start)[1], trace)


def _checked(logits, token):
  """Replaces tokens whose logits have NaN or infinity by `NO_TOKEN`."""
  # The greatest is NaN if one is; vocabularies may be masked by -inf.
  return jnp.where(jnp.isfinite(jnp.max(logits, axis=-1)), token, NO_TOKEN)


def generate(
  cfg: config_lib.VLMConfig,
  params: Any,
  image: Float[Array, "B *I height width 3"],
  text: sequence.Text,
  reduction: reduction_lib.Reduction = None,
  *,
  steps: int,
  stop: tuple[int, ...],
  valid: Bool[Array, "B I V"] | None = None,
  key: Array | None = None,
  kernel: str | None = None,
) -> Int[Array, "B M"]:
  """Greedy `answer` to what `see` makes of the pictures; arguments as there."""
  seen = vlm.see(
    cfg, params, image, reduction, valid=valid, key=key, kernel=kernel
  )
  out = answer(
    cfg, params, seen, text, reduction, steps=steps, stop=stop, kernel=kernel
  )
  return out.ids


def at_step(keys: Any, index: Any) -> Any:
  """The keys of one step; None where there are none."""
  if keys is None:
    return None
  return jax.vmap(jax.random.fold_in, in_axes=(0, None))(keys, index)


def is_stop(token: Int[Array, "B"], stop: tuple[int, ...]) -> Bool[Array, "B"]:
  """Where a token ends its answer."""
  return jnp.isin(token, jnp.asarray(stop, jnp.int32))
