"""What searches and fine-tuning minimise: the task, and alignment."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from eos_jax import models, ops


def task_loss(
  cfg: models.VLMConfig,
  params: Any,
  batch: dict[str, jax.Array],
  reduction: models.Reduction,
  *,
  align: bool = False,
  labels: bool = True,
  teacher: Any = None,
  seen: models.Seen | None = None,
  remat: str = "none",
) -> tuple[jax.Array, dict[str, jax.Array]]:
  """Cross-entropy of the answers under a reduction.

  Args:
    cfg: shape of the model.
    params: its parameters.
    batch: questions, one a row (see `models.inputs`).
    reduction: acts in the model.
    align: also run the unreduced model, and measure how far hidden states at
      the text positions are from its own, relative to their size.
    labels: False = the loss is 0 and the alignment one of the prompt's
      positions, which know nothing of the answer.
    teacher: parameters of the unreduced model; None = `params`.
    seen: the pictures as `models.see` leaves them under this reduction; None
      = encode those of the batch.
    remat: what the backward pass of the decoder computes again, of
      `models.REMAT`.

  Returns:
    The loss, and "exact" `[B]` (all answer tokens right), "alignment" and
    (relaxed reductions) "indecision".
  """
  text = models.inputs.text(batch)
  if seen is None:
    seen = models.inputs.see(cfg, params, batch, reduction)
  out = models.read(cfg, params, seen, text, reduction, remat=remat)
  target, weight = batch["tokens"][:, 1:], batch["loss_mask"][:, 1:]
  logits = out.logits[:, :-1]
  cross = optax.softmax_cross_entropy_with_integer_labels(logits, target)
  loss = jnp.sum(cross * weight) / jnp.maximum(jnp.sum(weight), 1)
  wrong = weight & (jnp.argmax(logits, -1) != target)
  aux = {"exact": 1.0 - jnp.any(wrong, axis=1).astype(jnp.float32)}
  if isinstance(reduction, models.SoftReduction):
    masses = [_masses(cfg, out.trace[site], site) for site in reduction.sites]
    aux["indecision"] = _indecision(masses)
  if align:
    if teacher is not None or reduces_vision(reduction.sites):
      seen = models.inputs.see(cfg, teacher or params, batch)
    whole = models.read(cfg, teacher or params, seen, text)
    where = batch["mask"]
    if not labels:
      slots = jnp.arange(where.shape[1])[None]
      where &= slots < batch["prompt_length"][:, None]
    aux["alignment"] = alignment(out.hidden, whole.hidden, where)
  return loss if labels else jnp.zeros(()), aux


def _masses(cfg, reduced, site):
  """Log masses `[P, V]` of all pictures of a batch after a site."""
  found = reduced.tokens.log_mass
  if site.startswith("vision."):  # its class token cannot leave
    found = found[:, int(cfg.vision.class_token) :]
  return found.reshape(-1, cfg.tokens)


def _indecision(masses):
  """How far the masses are from 0 and 1, mean over the sites."""
  # Tokens that a picture does not have stay without mass.
  there = masses[0] > ops.LOG_ZERO / 2
  before, total = jnp.where(there, 0.0, ops.LOG_ZERO), 0.0
  for after in masses:
    total += ops.indecision(after, before)
    before = after
  return total / len(masses)


def reduces_vision(sites: tuple[str, ...]) -> bool:
  """Whether some of the sites lie inside the vision encoder."""
  return any(site.startswith("vision.") for site in sites)


def alignment(
  hidden: jax.Array, target: jax.Array, mask: jax.Array
) -> jax.Array:
  """Mean squared distance to `target`, relative to the latter's mean square.

  No gradient flows into `target`.
  """
  target = jax.lax.stop_gradient(target).astype(jnp.float32)
  weight = mask[..., None].astype(jnp.float32)
  distance = jnp.sum(jnp.square(hidden - target) * weight)
  return distance / jnp.maximum(jnp.sum(jnp.square(target) * weight), 1e-6)
