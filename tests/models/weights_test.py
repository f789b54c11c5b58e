import dataclasses
import json

import jax
import numpy as np
import pytest
import safetensors
import safetensors.numpy

from eos_jax import files, models
from eos_jax.models import loading
from tests.models import small

CFG = small.config()


def test_the_same_parameters_give_the_same_bytes(tmp_path):
  params = small.init(small.config(), jax.random.key(0))
  path, found = tmp_path / "w.safetensors", set()
  for _ in range(8):
    models.weights.save(path, params, small.config())
    found.add(path.read_bytes())
  assert len(found) == 1


@pytest.mark.slow
def test_round_trip_in_half_precision(tmp_path):
  params = small.init(small.config(), jax.random.key(0))
  path = tmp_path / "w.safetensors"
  models.weights.save(path, params, small.config())
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


@pytest.mark.slow
def test_another_models_weights_are_refused_with_every_difference(tmp_path):
  path = tmp_path / "w.safetensors"
  cfg = small.config()
  params = small.init(cfg, jax.random.key(0))
  models.weights.save(path, params, cfg)
  wide = small.init(small.config(mlp=40, tied=True), jax.random.key(0))
  with pytest.raises(ValueError) as error:
    models.weights.load(path, wide)
  text = str(error.value)
  assert "unexpected decoder.head.out.kernel" in text
  assert "decoder.blocks.down.kernel has shape (3, 24, 16), expected" in text


def test_what_has_no_shape_is_compared_too(tmp_path):
  path, cfg = tmp_path / "w.safetensors", small.config(rope_theta=100.0)
  params = small.init(cfg, jax.random.key(0))
  models.weights.save(path, params, cfg)
  models.weights.load(path, params, cfg)
  other = small.config(rope_theta=100.0, rope_axes=(1, 2))
  with pytest.raises(ValueError) as error:
    models.weights.load(path, params, other)
  assert str(error.value).endswith(
    "does not fit the model config:\n"
    "  config decoder.rope_axes is [] there and [1, 2] here"
  )


def test_fields_that_are_younger_than_a_file_had_their_defaults(tmp_path):
  path, cfg = tmp_path / "w.safetensors", small.config()
  params = small.init(cfg, jax.random.key(0))
  models.weights.save(path, params, cfg)
  with safetensors.safe_open(str(path), framework="numpy") as file:
    config = json.loads(file.metadata()["config"])
  del config["projector_activation"], config["decoder"]["qkv_bias"]
  del config["vision"]["post_norm"]
  safetensors.numpy.save_file(
    models.weights.flatten(params),
    path,
    metadata={"config": json.dumps(config)},
  )
  models.weights.load(path, params, cfg)
  other = dataclasses.replace(cfg, projector_activation="gelu_exact")
  with pytest.raises(ValueError) as error:
    models.weights.load(path, params, other)
  assert str(error.value).endswith(
    ":\n  config projector_activation is 'gelu' there and 'gelu_exact' here"
  )


def test_truncated_file_is_refused(tmp_path):
  params = small.init(small.config(), jax.random.key(0))
  path = tmp_path / "w.safetensors"
  models.weights.save(path, params, small.config())
  path.write_bytes(path.read_bytes()[:-100])
  with pytest.raises(ValueError, match="missing or truncated"):
    models.weights.load(path, params)


def _shapes():
  return jax.tree.map(
    lambda leaf: np.zeros(leaf.shape, np.float32), loading.shapes(CFG)
  )


def test_numbers_that_are_none_and_whole_numbers_are_refused(tmp_path):
  path, params = tmp_path / "w.safetensors", _shapes()
  table = models.weights.flatten(params)
  table["decoder.embed"][3, 4] = np.nan
  table["vision.blocks.q.kernel"][0, 1, :2] = np.inf
  table["projector.fc1.kernel"] = table["projector.fc1.kernel"].astype(np.int32)
  safetensors.numpy.save_file(table, path)
  with pytest.raises(ValueError) as error:
    models.weights.load(path, params)
  assert str(error.value).split("\n")[1:] == [
    "  decoder.embed has 1 of 512 numbers that are NaN or infinite",
    "  projector.fc1.kernel has dtype int32, expected a floating-point one",
    "  vision.blocks.q.kernel has 2 of 768 numbers that are NaN or infinite",
  ]


@pytest.mark.parametrize("value", [np.nan, -np.inf, 1e6])
def test_what_float16_cannot_hold_is_not_written(tmp_path, value):
  path, params = tmp_path / "w.safetensors", _shapes()
  params["decoder"]["embed"][0, 0] = value
  fault = "decoder.embed has 1 of 512 numbers"
  with pytest.raises(files.NotFinite, match=fault):
    models.weights.save(path, params, CFG)
  assert not path.exists()


@pytest.mark.parametrize("config", ["{", "[1]", "3", "[" * 9999])
def test_a_config_that_is_none_is_refused(tmp_path, config):
  path, params = tmp_path / "w.safetensors", _shapes()
  table = models.weights.flatten(params)
  safetensors.numpy.save_file(table, path, metadata={"config": config})
  with pytest.raises(ValueError, match=r"w.safetensors.*\n  its config is"):
    models.weights.load(path, params, CFG)


@pytest.mark.slow
def test_weights_as_they_are_read_can_be_closed_over():
  cfg = small.config()
  params = jax.device_get(small.params(cfg))  # NumPy's, as from a file
  image, text = small.pictures(1), small.text(1)

  def answer(params, image, text):
    return models.generate(cfg, params, image, text, steps=2, stop=(0,))

  closed = jax.jit(lambda *given: answer(params, *given))
  np.testing.assert_array_equal(
    closed(image, text), jax.jit(answer)(params, image, text)
  )
