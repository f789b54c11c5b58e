"""The task that converts: what it says, refuses, and leaves behind."""

import json
import runpy
import signal
import subprocess
import time

import jax
import numpy as np
import pytest

from eos_jax import main, tasks
from eos_jax.models import converted, families, fits, loading
from tests import command
from tests.models import checkpoints


def _config(source, **changes):
  path = command.ROOT / "configs" / "convert.py"
  config = runpy.run_path(path)["get_config"]().to_dict()
  assert config.pop("task") == "convert"
  assert set(changes) <= set(config)
  return config | {"model": str(source)} | changes


def _refusal(source, path, **changes):
  with pytest.raises(main.EXPECTED) as error:
    tasks.run("convert", _config(source, **changes), path)
  return str(error.value)


@pytest.fixture
def source(tmp_path):
  return checkpoints.write(tmp_path / "src", checkpoints.weights(), shards=2)


def _same(got, want):
  jax.tree.map(np.testing.assert_array_equal, got, want)


# Of sizes that no published model has.
_NAME = families.describe(checkpoints.CONFIG).cfg.name


@pytest.mark.slow
def test_a_conversion_says_what_it_takes_and_is_done_once(
  source, tmp_path, capsys
):
  config = _config(source, mesh=(1, 4, 2), dtype="bfloat16")
  out = tmp_path / "out"
  tasks.run("convert", config, out)
  said = capsys.readouterr()
  lines = said.out.splitlines()
  assert lines[:3] == [
    f"model {_NAME} of the family llava_1_5",
    "parameters: 9,136 (decoder 6,896, projector 416, vision 1,824), in"
    " bfloat16 17.8 KiB",
    "mesh: data 1, fsdp 4, tensor 2; a device holds 4.5 KiB of parameters",
  ]
  assert lines[3].startswith("memory: ") and lines[3].endswith("; fits")
  assert lines[-2] == f"done: {out} holds {_NAME} in bfloat16. It is read by"
  assert "reading: 100%" in said.err
  _, want = loading.load(source, dtype="bfloat16")
  _same(converted.restore(out)[1], want)
  before = command.read_all(out)
  tasks.run("convert", config, out)
  assert capsys.readouterr().out == (
    f"nothing to do: {out} holds {_NAME} in bfloat16, and all of its files"
    " are as they were written\n"
  )
  assert command.read_all(out) == before


@pytest.mark.full
def test_a_finished_folder_that_was_changed_is_told(source, tmp_path):
  tasks.run("convert", _config(source), tmp_path / "out")
  (tmp_path / "out" / "config.json").write_text("{}", encoding="utf-8")
  assert _refusal(source, tmp_path / "out").splitlines()[1:] == [
    "  config.json has other contents"
  ]


@pytest.mark.full
def test_one_that_was_stopped_is_done_again(source, tmp_path, monkeypatch):
  out = tmp_path / "out"

  def stop(*_):
    raise KeyboardInterrupt

  with monkeypatch.context() as patched:
    patched.setattr(converted, "sums", stop)  # the mark is not written yet
    with pytest.raises(KeyboardInterrupt):
      tasks.run("convert", _config(source), out)
  assert not converted.finished(out)
  tasks.run("convert", _config(source), out)
  _same(converted.restore(out)[1], loading.load(source)[1])


def test_a_model_that_does_not_fit_is_refused_before_it_is_read(
  source, tmp_path, monkeypatch, capsys
):
  room = fits.Room("TPU v5 lite", 2**15, 2**30)
  monkeypatch.setattr(fits, "room", lambda: room)
  monkeypatch.setattr(loading, "load", None)
  # Whole on every device; by default it would be cut over all eight.
  assert _refusal(source, tmp_path / "out", mesh=(8, 1, 1)).startswith(
    f"{_NAME} in float32 does not fit: each device needs 35.7 KiB (parameters"
    " 35.7 KiB), and the host 6.0 KiB; 32.0 KiB of each TPU v5 lite and"
  )
  assert capsys.readouterr().out.endswith("; does not fit\n")


def test_a_disk_that_is_too_small(source, tmp_path, monkeypatch):
  usage = type("Usage", (), {"free": 2**10})
  monkeypatch.setattr(tasks.convert.shutil, "disk_usage", lambda _: usage)
  assert _refusal(source, tmp_path / "out") == (
    "the config has faults:\n  the parameters take 35.7 KiB in float32, and"
    f" 1.0 KiB of the disk are free at {tmp_path / 'out'}; free some space, or"
    " choose another --workdir"
  )


def test_settings_that_do_not_fit(source, tmp_path):
  out = tmp_path / "out"
  assert _refusal("", out, dtype="float8") == (
    "the config has faults:\n"
    "  config.model is empty; give the folder of a checkpoint\n"
    "  config.dtype is 'float8'; did you mean 'float32'?"
  )
  assert _refusal(source, out, mesh=(8, 1)) == (
    "the config has faults:\n"
    "  config.mesh is (8, 1); give the devices along data, fsdp and tensor,"
    " such as (1, 8, 1), or () for the default"
  )
  (source / "model.safetensors.index.json").unlink()
  assert _refusal(source, out, mesh=(1, 3, 1)).splitlines() == [
    "the config has faults:",
    f"  config.model: {source} has neither model.safetensors nor"
    " model.safetensors.index.json; give the folder of a checkpoint",
    "  config.mesh: mesh shape {'data': 1, 'fsdp': 3, 'tensor': 1} needs 3"
    " devices, but 8 are present; let the product of the axes be the number of"
    " devices.",
  ]
  assert not out.exists()


def test_a_mesh_that_does_not_divide_the_parameters(tmp_path):
  config = json.loads(json.dumps(checkpoints.CONFIG))
  config["text_config"]["vocab_size"] = 32
  source = checkpoints.write(tmp_path / "s", checkpoints.weights(), config)
  said = _refusal(source, tmp_path / "out", mesh=(1, 1, 8))
  assert "config.mesh: these parameters cannot be sharded over" in said


@pytest.mark.full
def test_another_model_needs_another_folder(source, tmp_path):
  out = tmp_path / "out"
  tasks.run("convert", _config(source), out)
  tasks.run("convert", _config(source, mesh=(1, 4, 2)), out)  # all the same
  other = checkpoints.write(tmp_path / "other", checkpoints.weights())
  said = _refusal(other, out, dtype="float16")
  assert "belongs to a run with other settings" in said
  assert "config.dtype: '' before, 'float16' now" in said
  assert "config.model: " in said


@pytest.mark.slow
def test_the_command_line(source, tmp_path):
  out = tmp_path / "out"
  path = f"--config.model={source}"
  done = command.run(out, path, config="convert")
  assert done.returncode == 0, done.stderr[-3000:]
  assert "mesh: data 1, fsdp 1, tensor 1; a device holds 35.7" in done.stdout
  _same(converted.restore(out)[1], loading.load(source)[1])


@pytest.mark.full
def test_a_killed_conversion_looks_unfinished_and_can_be_done_again(
  source, tmp_path
):
  path, whole = f"--config.model={source}", 0
  for turn, begun in enumerate(
    ("run.json", "config.json", "parameters*", "parameters", "converted.json*")
  ):
    out = tmp_path / f"out{turn}"
    process = subprocess.Popen(
      **command.options(out, path, config="convert"),
      stdout=subprocess.DEVNULL,
      stderr=subprocess.DEVNULL,
    )
    while process.poll() is None and not list(out.glob(begun)):
      time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    process.wait()
    whole += converted.finished(out)
    if not converted.finished(out):
      with pytest.raises(main.EXPECTED, match="no finished conversion"):
        converted.restore(out)
      tasks.run("convert", _config(source), out)
    _same(converted.restore(out)[1], loading.load(source)[1])
  assert whole < turn
