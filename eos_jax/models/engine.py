"""Answering batches of prompts: compiled once, streamed, turn after turn."""

from collections.abc import Callable, Sequence
import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from eos_jax import ops
from eos_jax.array_typing import Array, Bool, Float, Int, Shaped
from eos_jax.models import blocks, generation, sequence, tiles, vlm
from eos_jax.models import cache as cache_lib
from eos_jax.models import config as config_lib
from eos_jax.models import reduction as reduction_lib

# Called after each step with the number of the step and, for each sample, its
# new token, None where the sample has ended.
OnToken = Callable[[int, list[int | None]], None]


@dataclasses.dataclass(frozen=True)
class Talk:
  """A batch of conversations.

  Attributes:
    cache: all that has been read and said, but for `pending`.
    logits: `[B, vocab]` of the coming token, None once a reply has used them.
    pending: `[B]` last tokens of the reply, which the cache does not hold yet;
      None before the first reply.
    room: slots that the cache still has.
    keys: `[B]` random keys of the samples.
    drawn: tokens that have been drawn for each.
  """

  cache: cache_lib.Cache
  logits: Float[Array, "B vocab"] | None
  pending: Int[np.ndarray, "B"] | None
  room: int
  keys: Shaped[Array, "B"]
  drawn: int


class Engine:
  """A model that answers, densely or under plans.

  Prefill is compiled once for each bucket of prompt lengths (and batch size and
  plan), the step once whatever the bucket.

      talk = engine.begin(images, prompts, plan=plan)
      talk, replies = engine.reply(talk)
      talk = engine.say(talk, further_prompts)
  """

  def __init__(
    self,
    cfg: config_lib.VLMConfig,
    params: Any,
    *,
    stop: Sequence[int],
    buckets: Sequence[int] = (32, 64, 128),
    room: int = 128,
    kernel: str | None = None,
  ):
    """Takes a model.

    Args:
      cfg: shape of the model.
      params: its parameters, of either form (`models.for_inference`).
      stop: ids that end a reply.
      buckets: prompt lengths that prompts are padded to.
      room: tokens after the first prompts that a talk has room for; later
        prompts count with their padding.
      kernel: of attention (`attention.KERNELS`); None = the backend's best.
    """
    if not buckets or min(buckets) < 1 or room < 1:
      raise ValueError(
        f"buckets={tuple(buckets)} and room={room} must be 1 or more; give at"
        " least one bucket."
      )
    self._cfg, self._params = cfg, vlm.for_inference(params)
    self._stop, self._room = tuple(stop), room
    self._buckets, self._kernel = tuple(sorted(buckets)), kernel
    self._prefill = jax.jit(self._prefill_fn, static_argnames="plan")
    self._step = jax.jit(self._step_fn, static_argnames="sampling")
    self._choose = jax.jit(generation.choose, static_argnames="sampling")
    self._extend = jax.jit(self._extend_fn)

  @property
  def compilations(self) -> dict[str, int]:
    """How many programs have been compiled, by what they do."""
    return {
      "prefill": self._prefill._cache_size(),
      "step": self._step._cache_size(),
      "turn": self._extend._cache_size(),
    }

  def begin(
    self,
    image: Float[Array, "B *I height width 3"],
    prompts: Sequence[Sequence[int]],
    *,
    plan: ops.ReductionPlan | None = None,
    slots: Int[np.ndarray, "B I"] | None = None,
    valid: Bool[np.ndarray, "B I V"] | None = None,
    layout: tiles.Layout | None = None,
    seed: int | Sequence[int] = 0,
  ) -> Talk:
    """Reads pictures and prompts; visual tokens are selected here, once.

    Args:
      image: pictures, normalised as for `vision.encode`, one or I a sample.
      prompts: ids of each sample's prompt, without the model's prefix; lengths
        may differ.
      plan: how visual tokens are reduced; None = not at all.
      slots: number of prompt tokens in front of each picture, not decreasing
        along a row; None = all pictures come first.
      valid: False on tokens that are padding, see `models.see`.
      layout: how tiles become tokens, likewise.
      seed: of sampling, and of the score "random"; one for each sample makes
        its draws independent of its batch.

    Raises:
      ValueError: a prompt is longer than the greatest bucket, numbers of
        samples differ, or the plan is not one of this model.
    """
    reduction_lib.check(plan, self._cfg)
    if len(prompts) != len(image):
      raise ValueError(
        f"there are {len(prompts)} prompts for {len(image)} samples; give one"
        " prompt for each."
      )
    tokens, mask = self._padded(prompts)
    keys = _keys(seed, len(prompts))
    logits, cache = self._prefill(
      self._params, image, tokens, mask, slots, valid, layout, keys, plan=plan
    )
    return Talk(cache, logits, None, self._room, keys, 0)

  def reply(
    self,
    talk: Talk,
    *,
    steps: int | None = None,
    sampling: generation.Sampling = generation.GREEDY,
    on_token: OnToken | None = None,
  ) -> tuple[Talk, list[list[int]]]:
    """The next reply of each sample.

    Args:
      talk: after `begin` or `say`.
      steps: most tokens of a reply; None = as many as there is room for.
      sampling: how tokens are chosen.
      on_token: called after each step.

    Returns:
      The talk, and the ids of each reply, its stop token included.

    Raises:
      ValueError: nothing was said since the last reply, or there is no room.
    """
    if talk.logits is None:
      raise ValueError("the last word was a reply; `say` something first.")
    steps = talk.room + 1 if steps is None else steps
    self._check_room(talk, steps - 1)
    token = self._choose(
      talk.logits,
      sampling=sampling,
      keys=generation.at_step(talk.keys, talk.drawn),
    )
    replies: list[list[int]] = [[] for _ in range(len(token))]
    ended = np.zeros(len(replies), bool)
    last, cache, room = np.asarray(token), talk.cache, talk.room
    for index in range(steps):
      if index:
        tail, token = self._step(
          self._params,
          cache,
          last,
          ~ended,
          talk.keys,
          talk.drawn + index,
          sampling=sampling,
        )
        cache = dataclasses.replace(cache, tail=tail)
        last, room = np.where(ended, last, np.asarray(token)), room - 1
      for sample in np.flatnonzero(~ended):
        replies[sample].append(int(last[sample]))
      if on_token is not None:
        on_token(
          index,
          [
            None if gone else int(new)
            for new, gone in zip(last, ended, strict=True)
          ],
        )
      ended |= np.isin(last, self._stop)
      if ended.all():
        break
    return Talk(cache, None, last, room, talk.keys, talk.drawn + steps), replies

  def say(self, talk: Talk, prompts: Sequence[Sequence[int]]) -> Talk:
    """Reads a further turn of each sample; nothing is selected again.

    Args:
      talk: after `reply`.
      prompts: ids of the turn, the whole text since the reply's last token.

    Raises:
      ValueError: `reply` first, a prompt is too long, or there is no room.
    """
    if talk.pending is None or talk.logits is not None:
      raise ValueError("the prompts have no reply yet; `reply` first.")
    if len(prompts) != len(talk.pending):
      raise ValueError(
        f"there are {len(prompts)} prompts for {len(talk.pending)} samples;"
        " give one for each."
      )
    whole = [
      [int(last), *prompt]
      for last, prompt in zip(talk.pending, prompts, strict=True)
    ]
    tokens, mask = self._padded(whole)
    self._check_room(talk, tokens.shape[1])
    logits, tail = self._extend(self._params, talk.cache, tokens, mask)
    return dataclasses.replace(
      talk,
      cache=dataclasses.replace(talk.cache, tail=tail),
      logits=logits,
      pending=None,
      room=talk.room - tokens.shape[1],
    )

  def _prefill_fn(
    self, params, image, tokens, mask, slots, valid, layout, keys, plan
  ):
    text = sequence.Text(
      tokens=tokens,
      mask=mask,
      prompt_length=jnp.sum(mask, axis=1),
      slots=slots,
    )
    seen = vlm.see(
      self._cfg,
      params,
      image,
      plan,
      valid=valid,
      layout=layout,
      key=keys,
      kernel=self._kernel,
    )
    logits, cache, _ = generation.prefill(
      self._cfg, params, seen, text, plan, room=self._room, kernel=self._kernel
    )
    extra = self._buckets[-1] - tokens.shape[1]
    segments = cache_lib.padded(cache.segments, extra)
    return logits, dataclasses.replace(cache, segments=segments)

  def _extend_fn(self, params, cache, tokens, mask):
    logits, cache = generation.advance(self._cfg, params, tokens, mask, cache)
    return logits, cache.tail  # an output that is an input would be copied

  def _step_fn(self, params, cache, last, going, keys, index, sampling):
    logits, tail = self._extend_fn(params, cache, last[:, None], going[:, None])
    keys = generation.at_step(keys, index)
    return tail, generation.choose(logits, sampling, keys)

  def _padded(self, prompts):
    longest = max(len(prompt) for prompt in prompts)
    fitting = [size for size in self._buckets if size >= longest]
    if not fitting:
      raise ValueError(
        f"a prompt has {longest} tokens, the greatest bucket is"
        f" {self._buckets[-1]}; make the engine with a greater one."
      )
    tokens = np.zeros((len(prompts), fitting[0]), np.int32)
    mask = np.zeros(tokens.shape, bool)
    for row, prompt in enumerate(prompts):
      blocks.check_ids(prompt, self._cfg.decoder.vocab, f"prompt {row}")
      tokens[row, : len(prompt)] = prompt
      mask[row, : len(prompt)] = True
    return tokens, mask

  def _check_room(self, talk, wanted):
    if wanted > talk.room:
      raise ValueError(
        f"the cache has room for {talk.room} more tokens, {wanted} are wanted;"
        f" make the engine with more room than {self._room}, or ask for fewer"
        " steps."
      )


def _keys(seed, samples):
  """A random key for each sample."""
  if isinstance(seed, int):
    return jax.random.split(jax.random.key(seed), samples)
  if len(seed) != samples:
    raise ValueError(
      f"there are {len(seed)} seeds for {samples} samples; give one for each,"
      " or one for all."
    )
  return jax.vmap(jax.random.key)(jnp.asarray(seed))
