"""Gradients of micro-batches."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eos_jax import search


def _loss(weights, batch, key):
  del key
  error = batch["x"] @ weights - batch["y"]
  return jnp.mean(error**2), {"error": error, "mean": jnp.mean(error)}


def _batch(rows=12):
  x, y = jax.random.split(jax.random.key(0))
  return {
    "x": jax.random.normal(x, (rows, 3)),
    "y": jax.random.normal(y, (rows,)),
  }


@pytest.mark.slow
@pytest.mark.parametrize("micro_batch", [1, 4, 12])
def test_the_mean_of_micro_batches_is_that_of_the_batch(micro_batch):
  weights, key = jnp.arange(3.0), jax.random.key(1)
  grads, aux = search.mean_grad(_loss)(weights, _batch(), key)
  split = jax.jit(search.mean_grad(_loss, micro_batch))
  found, means = split(weights, _batch(), key)
  np.testing.assert_allclose(found, grads, rtol=1e-5)
  np.testing.assert_allclose(means["mean"], aux["mean"], rtol=1e-5, atol=1e-6)
  assert means["error"].shape == (micro_batch,)


def test_every_micro_batch_draws_anew():
  def loss(weights, batch, key):
    drawn = jax.random.normal(key, ())
    return jnp.sum(weights) * drawn, {"drawn": drawn, "squared": drawn**2}

  batch, key = jnp.zeros((6, 1)), jax.random.key(0)
  _, aux = search.mean_grad(loss, 2)(jnp.zeros(2), batch, key)
  # Equal draws would have no variance.
  assert float(aux["squared"] - aux["drawn"] ** 2) > 1e-3


def test_micro_batches_have_to_fill_the_batch():
  with pytest.raises(
    ValueError, match="12 rows is no multiple of micro_batch=5"
  ):
    search.mean_grad(_loss, 5)(jnp.zeros(3), _batch(), jax.random.key(0))
