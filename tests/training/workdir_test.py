"""Who may use a directory, and what it says when it may not."""

import json
import os
import socket

import pytest

from eos_jax.training import workdir

CONFIG = {"steps": 60, "data": {"suite": "tiny", "directory": ""}}


def _open(path, task="search", config=CONFIG, **options):
  with workdir.opened(path, task, config, **options):
    (path / "metrics.jsonl").touch()


def test_a_run_is_described_and_taken_up_again(tmp_path, capsys):
  _open(tmp_path / "a" / "b")
  run = workdir.read(tmp_path / "a" / "b")
  assert (run["task"], run["config"]) == ("search", CONFIG)
  assert "jax" in run["versions"]
  _open(tmp_path / "a" / "b")
  assert not capsys.readouterr().out


def test_other_settings_are_refused_with_all_changes(tmp_path):
  _open(tmp_path)
  edited = {"steps": 61, "data": {"suite": "tiny", "directory": "/d"}, "new": 1}
  with pytest.raises(workdir.WorkdirError) as error:
    _open(tmp_path, config=edited)
  assert str(error.value).endswith(
    "belongs to a run with other settings; choose another directory, or"
    " restore these:\n"
    "  config.data.directory: '' before, '/d' now\n"
    "  config.new: 'absent' before, 1 now\n"
    "  config.steps: 60 before, 61 now"
  )


def test_resumable_changes_are_taken_over(tmp_path):
  _open(tmp_path)
  edited = {**CONFIG, "data": {"suite": "tiny", "directory": "/d"}}
  _open(tmp_path, config=edited, resumable={"config.data.directory"})
  assert workdir.read(tmp_path)["config"] == edited
  edited = {**CONFIG, "data": {"suite": "default", "directory": "/e"}}
  _open(tmp_path, config=edited, resumable={"config.data"})
  with pytest.raises(workdir.WorkdirError, match="config.steps: 60 before"):
    _open(tmp_path, config={**edited, "steps": 1}, resumable={"config.data"})


def test_a_config_may_change_before_anything_is_computed(tmp_path):
  with workdir.opened(tmp_path, "search", CONFIG):
    pass
  _open(tmp_path, config={**CONFIG, "steps": 61})
  assert workdir.read(tmp_path)["config"]["steps"] == 61


def test_one_run_at_a_time(tmp_path):
  with workdir.opened(tmp_path, "search", CONFIG):
    with pytest.raises(workdir.WorkdirError, match="in use by another process"):
      _open(tmp_path)
  _open(tmp_path)


def test_a_damaged_description_is_named(tmp_path):
  _open(tmp_path)
  (tmp_path / "run.json").write_text('{"format": ')
  with pytest.raises(workdir.WorkdirError, match=r"run.json cannot be read"):
    _open(tmp_path)
  (tmp_path / "run.json").write_text("[" * 100_000)
  with pytest.raises(workdir.WorkdirError, match="nested too deeply"):
    _open(tmp_path)
  (tmp_path / "run.json").write_text("{}")
  with pytest.raises(workdir.WorkdirError, match="has not the format"):
    _open(tmp_path)


def test_other_versions_are_told(tmp_path, capsys):
  _open(tmp_path)
  path = tmp_path / "run.json"
  path.write_text(path.read_text().replace('"jax": "', '"jax": "9'))
  _open(tmp_path)
  assert "was begun with other versions (jax 9" in capsys.readouterr().out


@pytest.mark.parametrize(
  "change, reason",
  [
    ({"task": None}, "task is None, expected str"),
    ({"config": [1]}, r"config is \[1\], expected dict"),
  ],
)
def test_a_description_without_a_field_is_named(tmp_path, change, reason):
  _open(tmp_path)
  path = tmp_path / "run.json"
  path.write_text(json.dumps(json.loads(path.read_text()) | change))
  with pytest.raises(workdir.WorkdirError, match=reason):
    _open(tmp_path)


def test_versions_that_are_lost_are_said_and_do_not_end_a_run(tmp_path, capsys):
  _open(tmp_path)
  path = tmp_path / "run.json"
  run = json.loads(path.read_text())
  del run["versions"]
  path.write_text(json.dumps(run))
  _open(tmp_path)
  assert "was begun with other versions (eos_jax None -> " in (
    capsys.readouterr().out
  )


def test_files_in_place_of_folders_are_listed_and_the_reverse(tmp_path):
  _open(tmp_path)
  (tmp_path / "plans").touch()
  (tmp_path / "vision").mkdir()
  (tmp_path / "vision" / "checkpoints").symlink_to("nowhere")
  (tmp_path / "examples" / "16.npz").mkdir(parents=True)
  os.mkfifo(tmp_path / "evaluation.jsonl")
  with pytest.raises(workdir.WorkdirError) as error:
    _open(tmp_path)
  assert sorted(str(error.value).splitlines()[1:]) == [
    "  evaluation.jsonl is no file",
    "  examples/16.npz is no file",
    "  plans is no folder",
    "  vision/checkpoints is no folder",
  ]


def test_what_the_system_refuses_inside_is_named(tmp_path):
  with pytest.raises(workdir.WorkdirError) as error:
    with workdir.opened(tmp_path, "search", CONFIG):
      open(tmp_path / "missing" / "x", encoding="utf-8")
  assert f"{tmp_path}/missing/x cannot be read or written (No such" in str(
    error.value
  )
  with pytest.raises(OSError, match="elsewhere"):
    with workdir.opened(tmp_path, "search", CONFIG):
      open("/elsewhere", encoding="utf-8")


@pytest.mark.parametrize("kind", ["link", "dangling", "pipe", "socket", "dir"])
def test_a_lock_is_a_file_and_nothing_else(tmp_path, kind):
  run, lock, other = (
    tmp_path / "run",
    tmp_path / "run" / ".lock",
    tmp_path / "thesis.tex",
  )
  run.mkdir()
  other.write_text("years of work")
  if kind == "link":
    lock.symlink_to(other)
  elif kind == "dangling":
    lock.symlink_to(tmp_path / "made")
  elif kind == "pipe":
    os.mkfifo(lock)
  elif kind == "socket":
    with socket.socket(socket.AF_UNIX) as made:
      made.bind(str(lock))
  else:
    lock.mkdir()
  with pytest.raises(workdir.WorkdirError) as error:
    _open(run)
  assert str(error.value).startswith(f"{lock} is no regular file")
  assert other.read_text() == "years of work"
  assert sorted(os.listdir(tmp_path)) == ["run", "thesis.tex"]
  assert os.listdir(run) == [".lock"]


def test_what_is_in_a_lock_is_kept(tmp_path):
  (tmp_path / "run").mkdir()
  (tmp_path / "thesis.tex").write_text("years of work")
  (tmp_path / "run" / ".lock").hardlink_to(tmp_path / "thesis.tex")
  _open(tmp_path / "run")
  assert (tmp_path / "thesis.tex").read_text() == "years of work"


@pytest.mark.parametrize(
  "name, fault",
  [("a\0b", "holds a NUL character"), ("a\udcff", "is not in UTF-8")],
)
def test_paths_that_cannot_be_written_down_are_refused(tmp_path, name, fault):
  with pytest.raises(workdir.WorkdirError) as error:
    _open(tmp_path / name)
  assert f"{fault}; choose another directory" in str(error.value)
  assert str(error.value).isascii()
  assert not list(tmp_path.iterdir())
