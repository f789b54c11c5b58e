"""What is compiled and timed: a model's prefill and step, under a plan or none.

All are pure functions of parameters and inputs, and hand back what a server
keeps: a token and the cache. Traces of operators are not among it, so that XLA
drops them.
"""

from collections.abc import Callable
import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from eos_jax import cost, models, ops
from eos_jax.evaluation import evaluator
from eos_jax.models import reduction as reduction_lib
from eos_jax.timing import stopwatch

# Leaves its site the first rows. It reads nothing, compares nothing and moves
# nothing: what shortening costs whatever the operator.
CUT = ops.OperatorSpec(name="cut")


@dataclasses.dataclass(frozen=True)
class Model:
  """A model to be timed.

  Attributes:
    cfg: its shape.
    params: its parameters on the device, as `models.for_inference` has them.
    dtype: name of the dtype of parameters, activations and cache.
    raw: whether images come as 8 bits, as those of "tiny".
  """

  cfg: models.VLMConfig
  params: Any
  dtype: str
  raw: bool = False

  @property
  def shape(self) -> cost.ModelShape:
    """The sizes that the cost model needs."""
    return evaluator.model_shape(self.cfg)

  @property
  def kernels(self) -> dict[str, str]:
    """Names of the attention kernels that encoder and decoder run on."""
    vision = self.cfg.vision.width // self.cfg.vision.heads
    return {
      part: models.attention.choose(
        None, width, self.dtype, devices=jax.device_count()
      )
      for part, width in (
        ("vision", vision),
        ("decoder", self.cfg.decoder.head_dim),
      )
    }


@dataclasses.dataclass(frozen=True)
class Inputs:
  """Images and prompts.

  Attributes:
    batch: see `models.inputs`; one image a row, without padding.
    key: draws the noise of the score "random".
  """

  batch: dict[str, Any]
  key: jax.Array

  @property
  def shown(self) -> dict[str, Any]:
    """What the encoder reads."""
    return {n: v for n, v in self.batch.items() if n in models.inputs.SHOWN}

  @property
  def text(self) -> models.Text:
    """The prompts."""
    return models.inputs.text(self.batch)


def draw(model: Model, *, batch: int, text_tokens: int, seed: int) -> Inputs:
  """Returns random images and prompts; times do not depend on them."""
  shapes = models.inputs.batch_shapes(
    model.cfg,
    batch,
    max_images=1,
    text_length=text_tokens,
    raw=model.raw,
    dtype=model.dtype,
  )
  image_key, text_key, key = jax.random.split(jax.random.key(seed), 3)
  made = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
  del made["loss_mask"]
  values = jax.random.uniform(
    image_key, made["image"].shape, minval=-1.0, maxval=1.0
  )
  if model.raw:
    values = 127.5 * (values + 1)
  made["image"] = values.astype(made["image"].dtype)
  made["tokens"] = jax.random.randint(
    text_key, made["tokens"].shape, 0, model.cfg.decoder.vocab
  )
  made["mask"] = jnp.ones_like(made["mask"])
  made["prompt_length"] = jnp.full((batch,), text_tokens)
  if "present" in made:
    made["present"] = jnp.ones_like(made["present"])
  if "layout" in made:
    made["layout"] = _layout(model.cfg, made["layout"])
  return Inputs(made, key)


def _layout(cfg, like):
  """Every token of the tiles in its order, and after them the newlines."""
  patches = cfg.crops * cfg.vision.tokens
  place = jnp.arange(cfg.tokens)
  index = jnp.minimum(place, patches - 1)[:, None]
  weight = jnp.array([1.0, 0.0, 0.0, 0.0])
  return {
    "index": jnp.broadcast_to(index, like["index"].shape).astype(jnp.int32),
    "weight": jnp.broadcast_to(weight, like["weight"].shape),
    "newline": jnp.broadcast_to(place >= patches, like["newline"].shape),
    "valid": jnp.ones_like(like["valid"]),
  }


def encoder_sites(
  plan: ops.ReductionPlan | None,
) -> tuple[ops.PlannedSite, ...]:
  """The sites of a plan that lie inside the vision encoder."""
  sites = () if plan is None else plan.sites
  return tuple(s for s in sites if ops.site_index(s.site)[0] == "vision")


def cut(plan: ops.ReductionPlan) -> ops.ReductionPlan:
  """A plan of the same counts at the same sites, by `CUT`."""
  sites = tuple(
    ops.PlannedSite(site.site, site.keep, CUT) for site in plan.sites
  )
  return dataclasses.replace(plan, name="cut", sites=sites)


def shortened(seen: models.Seen, tokens: int) -> models.Seen:
  """The first visual rows of what was seen, as if there were no others."""
  state = reduction_lib.map_tokens(seen.state, lambda rows: rows[:, :tokens])
  return models.Seen(seen.visual[:, :tokens], state)


def see(
  cfg: models.VLMConfig, plan: ops.ReductionPlan | None
) -> Callable[..., models.Seen]:
  """Returns `f(params, shown, key)`: the encoder and the projector."""

  def run(params, shown, key):
    seen = models.inputs.see(cfg, params, shown, plan, key=key)
    return models.Seen(seen.visual, seen.state)

  return run


def prefill(
  cfg: models.VLMConfig, plan: ops.ReductionPlan | None, *, room: int
) -> Callable[..., tuple[jax.Array, models.Cache]]:
  """Returns `f(params, seen, text)`: the decoder up to its first token.

  The likeliest token of each sample, and the cache with `room` further slots.
  """

  def run(params, seen, text):
    logits, cache, _ = models.prefill(cfg, params, seen, text, plan, room=room)
    return jnp.argmax(logits, axis=-1).astype(jnp.int32), cache

  return run


def step(
  cfg: models.VLMConfig,
) -> Callable[..., tuple[jax.Array, models.Tail]]:
  """Returns `f(params, cache, token)`: the next token, and the cache's tail.

  The rest of the cache does not change, and would be copied as an output.
  """

  def run(params, cache, token):
    mask = jnp.ones((token.shape[0], 1), bool)
    logits, cache = models.advance(cfg, params, token[:, None], mask, cache)
    return jnp.argmax(logits, axis=-1).astype(jnp.int32), cache.tail

  return run


class Pipeline:
  """A model's programs under one plan for one batch, compiled.

  The encoder and the decoder are programs of their own, as in a server that
  asks several questions about a picture. Each is waited for.

  Attributes:
    seconds: what compiling "see", "prefill" and "step" took.
    kv_bytes: "segments": of all arrays that prefill's cache really holds;
      "tail": of the room for decoded tokens.
  """

  def __init__(
    self,
    model: Model,
    inputs: Inputs,
    plan: ops.ReductionPlan | None,
    *,
    steps: int,
    dense: "Pipeline | None" = None,
  ):
    """Compiles.

    Args:
      model: the model.
      inputs: a batch.
      plan: the reduction; None = dense.
      steps: tokens to decode after the first one; 0 = none.
      dense: of the same model and inputs; a plan without sites in the encoder
        shares its encoder.
    """
    cfg, params = model.cfg, model.params
    self._params, self._inputs, self._steps = params, inputs, steps
    if dense is not None and not encoder_sites(plan):
      self._see, self.seconds = dense._see, {}
    else:
      self._see = stopwatch.compiled(
        see(cfg, plan), params, inputs.shown, inputs.key
      )
      self.seconds = {"see": self._see.seconds}
    self._prefill = stopwatch.compiled(
      prefill(cfg, plan, room=steps), params, self._see.call(), inputs.text
    )
    self.seconds["prefill"] = self._prefill.seconds
    token, cache = self._prefill.call()
    self.kv_bytes = {
      "segments": _bytes(cache.segments),
      "tail": _bytes(cache.tail),
    }
    if steps:
      self._step = stopwatch.compiled(step(cfg), params, cache, token)
      self.seconds["step"] = self._step.seconds

  def run(self, clock: stopwatch.Clock) -> dict[str, float]:
    """Reads the batch and decodes once; the seconds of its parts.

    Returns:
      "see", "prefill" and "first_token", which is both; with steps also
      "step", the mean of one, and "end_to_end".
    """
    begin = clock()
    seen = jax.block_until_ready(self._see.call())
    looked = clock()
    token, cache = jax.block_until_ready(
      self._prefill.program(self._params, seen, self._inputs.text)
    )
    first = clock()
    found = {
      "see": looked - begin,
      "prefill": first - looked,
      "first_token": first - begin,
    }
    if not self._steps:
      return found
    for _ in range(self._steps):
      token, tail = jax.block_until_ready(
        self._step.program(self._params, cache, token)
      )
      cache = dataclasses.replace(cache, tail=tail)
    end = clock()
    found["step"] = (end - first) / self._steps
    found["end_to_end"] = end - begin
    return found


def _bytes(tree):
  return sum(leaf.nbytes for leaf in jax.tree.leaves(tree))


def shallow(model: Model, *, blocks: int, layers: int) -> Model:
  """The same model with its first encoder blocks and decoder layers only."""
  cfg, params = model.cfg, dict(model.params)
  for part, number in (("vision", blocks), ("decoder", layers)):
    config = dataclasses.replace(getattr(cfg, part), layers=number)
    cfg = dataclasses.replace(cfg, **{part: config})
    first = params[part]["blocks"][:number]
    params[part] = params[part] | {"blocks": first}
  return dataclasses.replace(model, cfg=cfg, params=params)


def small_sighted(model: Model, side: int) -> Model:
  """The same model for pictures of `side` x `side` patches."""
  vision = dataclasses.replace(
    model.cfg.vision, image_size=side * model.cfg.vision.patch_size
  )
  params = dict(model.params["vision"])
  if "position" in params["embed"]:
    count = vision.tokens + vision.class_token
    rows = params["embed"]["position"][:count]
    params["embed"] = params["embed"] | {"position": rows}
  return dataclasses.replace(
    model,
    cfg=dataclasses.replace(model.cfg, vision=vision),
    params=model.params | {"vision": params},
  )


def text_length(model: Model, text_tokens: int) -> int:
  """Tokens of the sequence that are not visual: the prefix, and the prompt."""
  return len(model.cfg.prefix) + text_tokens
