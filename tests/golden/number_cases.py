"""Cases of relaxations: soft top-k, and DiffRate's learned numbers."""

import jax
import jax.numpy as jnp
import numpy as np

from eos_jax import ops


def _soft_top_k(params, arrays):
  def mask(scores):
    kept, _ = ops.soft_top_k(
      scores, jnp.zeros_like(scores), params["k"], temperature=1.0
    )
    return jnp.exp(kept)

  value, pullback = jax.vjp(
    jax.jit(jax.vmap(mask)), jnp.asarray(arrays["in_scores"])
  )
  return {
    "out_soft_mask": value,
    "out_vjp": pullback(jnp.asarray(arrays["in_cotangent"]))[0],
    "out_soft_mask_sum": jnp.sum(value, 1),
  }


def _proxy(params, arrays):
  tokens, step = params["patches"], params.get("granularity", 1)
  logits = jnp.asarray(arrays["in_selected_probability"])
  current = params.get("token_number")

  def number(logits):
    return ops.count.learned(logits, tokens=tokens, granularity=step)[0]

  def mask(logits):
    kept, share = ops.count.learned(logits, tokens=tokens, granularity=step)
    return ops.count.learned_mask(share, kept, current)

  value, pullback = jax.vjp(mask, logits)
  return {
    "out_candidates": ops.count.candidates(tokens, step).astype(np.float32),
    "out_kept_token_number": int(number(logits)),
    "out_token_probability": ops.count.learned(
      logits, tokens=tokens, granularity=step
    )[1],
    "out_token_mask": value,
    "out_vjp_mask": pullback(jnp.asarray(arrays["in_cotangent"]))[0],
    "out_grad_kept_number": jax.grad(number)(logits),
  }


CASES = {"soft_topk": _soft_top_k, "diffrate_proxy": _proxy}
