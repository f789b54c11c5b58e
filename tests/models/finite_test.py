"""Numbers that are not finite are found and named wherever they turn up."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from eos_jax import files, models
from eos_jax.models import finite, partition
from tests.models import small


def test_faults_name_the_value():
  values = {
    "loss": jnp.float32(jnp.nan),
    "parts": [np.float64(1e300), jnp.bfloat16(-jnp.inf)],
    "count": 3,
    "right": jnp.array([True]),
  }
  assert list(finite.faults(values)) == ["loss is nan", "parts.1 is -inf"]
  assert not list(finite.faults({"a": 1.0, "b": jnp.arange(3)}))


def test_names_of_sharded_arrays_with_keys_and_integers():
  cut = partition.batch_sharding(partition.make_mesh())
  whole = jax.device_put(jnp.arange(16.0), cut)
  tree = {"a": whole, "b": whole.at[15].set(jnp.inf), "k": jax.random.key(0)}
  tree |= {"n": jnp.int32(1), "c": [jnp.bfloat16(jnp.nan)]}
  assert finite.names(tree) == ["b", "c.0"]


@pytest.mark.parametrize("value", [jnp.nan, jnp.inf, 1e6])
def test_parameters_that_float16_cannot_hold_are_not_written(tmp_path, value):
  params = small.init(small.config(), jax.random.key(0))
  kernel = params["decoder"]["head"]["out"]["kernel"]
  params["decoder"]["head"]["out"]["kernel"] = kernel.at[0, 0].set(value)
  path = tmp_path / "w.safetensors"
  with pytest.raises(files.NotFinite) as error:
    models.weights.save(path, params, small.config())
  assert str(error.value) == (
    f"parameters cannot be written to {path} in float16:\n"
    f"  decoder.head.out.kernel has 1 of {kernel.size:,} numbers that are NaN"
    " or infinite"
  )
  assert not path.exists()


def test_weights_with_nan_or_integers_are_refused(tmp_path):
  params = small.init(small.config(), jax.random.key(0))
  path = tmp_path / "w.safetensors"
  models.weights.save(path, params, small.config())
  table = safetensors.numpy.load_file(path)
  table["decoder.embed"][3, 1] = np.nan
  table["projector.fc1.bias"] = table["projector.fc1.bias"].astype(np.int32)
  safetensors.numpy.save_file(table, path)
  with pytest.raises(ValueError) as error:
    models.weights.load(path, params)
  assert str(error.value) == (
    f"weights file {path} does not fit the model config:\n"
    "  decoder.embed has 1 of 512 numbers that are NaN or infinite\n"
    "  projector.fc1.bias has dtype int32, expected a floating-point one"
  )


@pytest.mark.slow
def test_answers_by_logits_that_are_not_finite_have_no_tokens():
  cfg = small.config()
  params = small.init(cfg, jax.random.key(0))
  bad = jax.tree.map(lambda x: x, params)
  kernel = params["decoder"]["head"]["out"]["kernel"]
  bad["decoder"]["head"]["out"]["kernel"] = kernel.at[0, 0].set(jnp.nan)
  for tree, whole in ((params, True), (bad, False)):
    ids = models.generate(
      cfg, tree, small.pictures(2), small.text(2), steps=3, stop=()
    )
    assert np.all((np.asarray(ids) == models.NO_TOKEN) == (not whole))
