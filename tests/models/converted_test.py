"""Converted checkpoints: written on some devices, restored on others."""

import functools
import json
import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eos_jax.models import converted, families, loading, partition
from eos_jax.training import checkpoint
from tests import command
from tests.models import checkpoints


def _mesh(*shape):
  """A mesh over some of the devices."""
  devices = np.array(jax.devices()[: np.prod(shape)]).reshape(shape)
  return jax.sharding.Mesh(devices, partition.AXES)


def _place(mesh):
  return functools.partial(partition.param_shardings, mesh)


def _converted(root, *, mesh=None, dtype=None):
  """A converted checkpoint, its parameters, and its source."""
  source = checkpoints.write(root / "source", checkpoints.weights(), shards=2)
  (source / "tokenizer.json").write_text("{}", encoding="utf-8")
  _, params = loading.load(
    source, dtype=dtype, shardings=None if mesh is None else _place(mesh)
  )
  (root / "out").mkdir()
  converted.save(root / "out", source, params)
  return root / "out", params, source


@pytest.fixture(scope="module")
def written(tmp_path_factory):
  """A folder that nobody changes, and what is in it."""
  out, params, _ = _converted(tmp_path_factory.mktemp("converted"))
  return out, params


_NAME = families.describe(checkpoints.CONFIG).cfg.name


def _copy(written, tmp_path):
  return shutil.copytree(written[0], tmp_path / "copy")


def _refusal(folder):
  with pytest.raises(checkpoint.CheckpointError) as error:
    converted.restore(folder)
  return str(error.value)


@pytest.mark.full
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32, jnp.float16])
def test_other_devices_restore_the_same_numbers(tmp_path, dtype):
  folder, params, source = _converted(
    tmp_path, mesh=_mesh(1, 4, 2), dtype=dtype
  )
  described = loading.inspect(source).description
  shutil.rmtree(source)
  place = _place(_mesh(1, 2, 1))
  found, restored = converted.restore(folder, shardings=place)
  assert found == described
  assert jax.tree.map(lambda leaf: leaf.sharding, restored) == place(restored)
  for got, want in zip(
    jax.tree.leaves(restored), jax.tree.leaves(params), strict=True
  ):
    assert got.dtype == dtype
    np.testing.assert_array_equal(got, want)


@pytest.mark.slow
def test_without_shardings_all_goes_to_the_default_device(written):
  folder, params = written
  _, restored = converted.restore(str(folder))
  assert jax.tree.structure(restored) == jax.tree.structure(params)
  for got, want in zip(
    jax.tree.leaves(restored), jax.tree.leaves(params), strict=True
  ):
    assert got.devices() == {jax.devices()[0]}
    np.testing.assert_array_equal(got, want)


def test_config_and_tokenizer_go_with_it(written):
  folder, _ = written
  text = (folder / "config.json").read_text(encoding="utf-8")
  assert json.loads(text) == checkpoints.CONFIG
  assert (folder / "tokenizer.json").read_text(encoding="utf-8") == "{}"
  assert not list(folder.glob("*.safetensors*"))
  assert not list(folder.glob("*.part"))


def test_a_head_that_differs_from_the_embedding_is_kept(tmp_path):
  config = checkpoints.CONFIG | {"tie_word_embeddings": True}
  source = checkpoints.write(tmp_path / "a", checkpoints.weights(), config)
  found, params = loading.load(source)
  assert not found.cfg.decoder.tied
  (tmp_path / "out").mkdir()
  converted.save(tmp_path / "out", source, params)
  described, restored = converted.restore(tmp_path / "out")
  assert described == found
  jax.tree.map(np.testing.assert_array_equal, restored, params)


def test_parameters_that_are_no_numbers_are_named(tmp_path):
  source = checkpoints.write(tmp_path / "a", checkpoints.weights())
  _, params = loading.load(source)
  params["decoder"]["embed"] = params["decoder"]["embed"].at[3, 2].set(jnp.nan)
  (tmp_path / "out").mkdir()
  converted.save(tmp_path / "out", source, params)
  assert _refusal(tmp_path / "out").startswith(
    f"{tmp_path / 'out' / converted.PARAMETERS} has numbers that are NaN or"
    " infinite in decoder.embed, expected none; "
  )


def test_what_was_not_finished_is_no_conversion(written, tmp_path):
  folder = _copy(written, tmp_path)
  (folder / converted.MARK).unlink()
  assert not converted.finished(folder)
  assert _refusal(folder) == (
    f"{folder} holds no finished conversion: it has no converted.json; run"
    " --config=configs/convert.py with this --workdir to its end"
  )


def test_what_an_earlier_conversion_left_is_replaced(
  written, tmp_path, monkeypatch
):
  folder, params = _copy(written, tmp_path), written[1]
  twice = jax.tree.map(lambda leaf: 2 * leaf, params)

  def stop(*_):
    raise KeyboardInterrupt

  with monkeypatch.context() as patched:
    patched.setattr(converted, "sums", stop)  # the last but one thing done
    with pytest.raises(KeyboardInterrupt):
      converted.save(folder, written[0], twice)
  assert (folder / converted.PARAMETERS).exists()
  assert not converted.finished(folder)
  # A name under which Orbax has a folder that is not complete.
  part = folder / f"{converted.PARAMETERS}.orbax-checkpoint-tmp-1"
  part.mkdir()
  converted.save(folder, written[0], twice)
  assert not part.exists()
  _, restored = converted.restore(folder)
  jax.tree.map(np.testing.assert_array_equal, restored, twice)


def test_files_that_are_missing_or_cut_short_are_named_together(
  written, tmp_path
):
  folder = _copy(written, tmp_path)
  data = max(
    (folder / converted.PARAMETERS).rglob("d/*"),
    key=lambda path: path.stat().st_size,
  )
  data.write_bytes(data.read_bytes()[:-1])
  (folder / converted.PARAMETERS / "_METADATA").unlink()
  (folder / "tokenizer.json").write_text("{ }", encoding="utf-8")
  assert _refusal(folder).splitlines() == [
    f"{folder} is not as it was when {_NAME} was converted; convert it again"
    " into a new --workdir, or put intact files back:",
    "  tokenizer.json has other contents",
    "  parameters/_METADATA is missing",
    f"  {data.relative_to(folder)} has another size",
  ]


def test_changed_numbers_are_found(written, tmp_path):
  folder = _copy(written, tmp_path)
  for data in (folder / converted.PARAMETERS).rglob("d/*"):
    content = bytearray(data.read_bytes())
    content[len(content) // 2] ^= 1
    data.write_bytes(content)
  said = _refusal(folder)
  path = folder / converted.PARAMETERS
  assert said.startswith((f"{path} cannot be read (", f"{path} is damaged; "))
  assert "convert it again into a new --workdir" in said


def test_numbers_that_orbax_reads_without_a_complaint_are_checked(
  written, tmp_path
):
  folder = _copy(written, tmp_path)
  mark = json.loads((folder / converted.MARK).read_text(encoding="utf-8"))
  for name in ("decoder.embed", "projector.fc1.bias"):
    mark["parameters"][name]["sum"] ^= 1
  (folder / converted.MARK).write_text(json.dumps(mark), encoding="utf-8")
  assert _refusal(folder) == (
    f"{folder / converted.PARAMETERS} is damaged; convert it again into a new"
    " --workdir, or put intact files back. Other numbers than were written are"
    " in decoder.embed, projector.fc1.bias"
  )


def test_parameters_of_another_model_are_refused(written, tmp_path):
  folder = _copy(written, tmp_path)
  mark = json.loads((folder / converted.MARK).read_text(encoding="utf-8"))
  table = mark["parameters"]
  table["decoder.embed"]["shape"] = [33, 16]
  table["decoder.positions"] = table.pop("decoder.norm.scale")
  (folder / converted.MARK).write_text(json.dumps(mark), encoding="utf-8")
  assert _refusal(folder).splitlines()[1:] == [
    "  decoder.embed has shape (33, 16), the model wants (32, 16)",
    "  decoder.norm.scale has shape None, the model wants (16,)",
    "  decoder.positions has shape (16,), the model wants None",
  ]


@pytest.mark.parametrize(
  "text",
  ["{", "[]", "{}", '{"format": "mine"}', '{"format": "eos_jax.Converted/1"}'],
)
def test_a_mark_that_cannot_be_read(tmp_path, text):
  (tmp_path / converted.MARK).write_text(text, encoding="utf-8")
  said = _refusal(tmp_path)
  assert said.startswith(f"{tmp_path / converted.MARK} cannot be read (")
  assert said.endswith("or put intact files back")


def test_sums_tell_places_and_values_however_an_array_is_cut():
  value = jax.random.normal(jax.random.key(0), (8, 12, 4), jnp.bfloat16)
  place = jax.sharding.NamedSharding(
    _mesh(1, 4, 2), jax.sharding.PartitionSpec("fsdp", "tensor")
  )
  sums = converted.sums(
    {
      "value": value,
      "turned": value[::-1],
      "changed": value.at[7, 11, 3].multiply(-1),
    }
  )
  cut = converted.sums({"value": jax.device_put(value, place)})
  bits = np.asarray(value).view(np.uint16).astype(np.uint64).ravel()
  by_hand = (bits * (2 * np.arange(bits.size, dtype=np.uint64) + 1)).sum()
  assert sums["value"] == cut["value"] == by_hand % 2**32
  assert len(set(sums.values())) == 3


@pytest.mark.full
def test_memory_stays_near_that_of_the_parameters(tmp_path):
  """On a CPU parameters are in the host's memory, too: they are taken off."""
  for task in ("write", "measure"):
    done = subprocess.run(
      [sys.executable, "-m", "tests.training.peak_memory", task, str(tmp_path)],
      capture_output=True,
      text=True,
      check=True,
      cwd=command.ROOT,
      env=command.options(tmp_path / "w")["env"],
    )
  found = json.loads(done.stdout)
  beside = {
    name: {
      kind: phase[kind] - found["parameters"]
      for kind in ("anonymous", "resident")
    }
    for name, phase in found["phases"].items()
  }
  print(found["shard"], beside)
  # Two copies of a tensor, and the pages of one file.
  assert beside["load"]["anonymous"] < found["shard"]
  assert beside["load"]["resident"] < 2 * found["shard"]
  # What Orbax may have under way, and the largest table as it is summed up.
  assert beside["save"]["anonymous"] < 1.25e9
  assert beside["restore"]["anonymous"] < 1.25e9
