import jax
import numpy as np
import pytest

from eos_jax import models
from tests.models import small


def test_round_trip_in_half_precision(tmp_path):
  params = small.init(small.config(), jax.random.key(0))
  path = tmp_path / "w.safetensors"
  models.weights.save(path, params, {"seed": "0"})
  loaded = models.weights.load(path, params)
  for got, want in zip(
    jax.tree.leaves(loaded), jax.tree.leaves(params), strict=True
  ):
    assert got.dtype == want.dtype
    np.testing.assert_array_equal(got, np.float16(want).astype(np.float32))
  assert models.weights.fingerprint(loaded) == models.weights.fingerprint(
    models.weights.load(path, params)
  )
  assert models.weights.fingerprint(loaded) != models.weights.fingerprint(
    params
  )


def test_another_models_weights_are_refused_with_every_difference(tmp_path):
  path = tmp_path / "w.safetensors"
  models.weights.save(path, small.init(small.config(), jax.random.key(0)), {})
  wide = small.init(small.config(mlp=40, tied=True), jax.random.key(0))
  with pytest.raises(ValueError) as error:
    models.weights.load(path, wide)
  text = str(error.value)
  assert "unexpected decoder.head.out.kernel" in text
  assert "decoder.blocks.down.kernel has shape (3, 24, 16), expected" in text


def test_truncated_file_is_refused(tmp_path):
  params = small.init(small.config(), jax.random.key(0))
  path = tmp_path / "w.safetensors"
  models.weights.save(path, params, {})
  path.write_bytes(path.read_bytes()[:-100])
  with pytest.raises(ValueError, match="missing or truncated"):
    models.weights.load(path, params)
