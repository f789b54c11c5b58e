"""Several processes, by JAX's runtime, on one machine."""

import json
import shutil
import signal
import socket
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from eos_jax import models, ops, processes
from tests import command
from tests.models import tiny_families

# Two devices each; what both hold is compared with what NumPy says.
_PIECES = """
import sys
import jax, numpy as np
from eos_jax import processes
from eos_jax.models import partition
index, port = int(sys.argv[1]), sys.argv[2]
where = f"127.0.0.1:{port}"
processes.start(coordinator=where, index=index, count=2, devices=4)
mesh = partition.make_mesh()
cut, everywhere = partition.batch_sharding(mesh), partition.replicated(mesh)
part = processes.share(8)
assert part == {"batch": 4, "process_index": index, "process_count": 2}
rows = np.arange(24.0).reshape(8, 3)
mine = processes.place_share({"x": rows[4 * index : 4 * index + 4]}, cut)
np.testing.assert_array_equal(processes.fetch(mine)["x"], rows)
np.testing.assert_array_equal(processes.fetch(processes.place(rows, cut)), rows)
total = jax.jit(lambda tree: tree["x"].sum())(mine)
assert processes.fetch(total) == rows.sum()
key = processes.place(jax.random.key(3), everywhere)
assert jax.random.key_data(key).tolist() == [0, 3]
assert processes.first() == (index == 0)
across = partition.make_mesh((1, 1, 4))
try:
  processes.place_share(rows, partition.batch_sharding(across))
except ValueError as error:
  assert "keep the tensor axis within" in str(error)
else:
  raise AssertionError("rows that both have were taken")
try:
  processes.share(7)
except ValueError as error:
  assert "cannot be cut over 2 processes" in str(error)
else:
  raise AssertionError("an uneven batch was taken")
assert not processes.stopping(1)
processes.meet("end")
"""


# An array that neither process has whole, saved twice; then one bit of it is
# changed, and metrics are looked at.
_SEALED = """
import pathlib, sys, types
import jax, jax.numpy as jnp, numpy as np
from eos_jax import processes
from eos_jax.models import finite, partition
from eos_jax.training import checkpoint
index, port, root = int(sys.argv[1]), sys.argv[2], pathlib.Path(sys.argv[3])
where = f"127.0.0.1:{port}"
processes.start(coordinator=where, index=index, count=2, devices=4)
mesh = partition.make_mesh()
cut, everywhere = partition.batch_sharding(mesh), partition.replicated(mesh)
rows = np.random.default_rng(0).normal(size=(64, 32)).astype(np.float32)
key = processes.place(jax.random.key(3), everywhere)
def state(step):
  return {"x": processes.place(rows + step, cut), "key": key}
place = types.SimpleNamespace(position=7)
place.seek = lambda position: setattr(place, "position", position)
saver = checkpoint.Checkpointer(root)
for step in (1, 2):
  saver.save(step, state(step), place, {"seed": 1})
saver.close()
processes.meet("saved")
if processes.first():
  for path in (root / "2" / "state").rglob("d/*"):
    changed = bytearray(path.read_bytes())
    if len(changed) < 2000:
      continue  # a table, which has a checksum of its own
    changed[len(changed) // 2] ^= 4
    path.write_bytes(changed)
processes.meet("damaged by hand")
saver = checkpoint.Checkpointer(root)
found, _, step = saver.restore(state(0), place, {"seed": 1})
saver.close()
assert step == 1, step
np.testing.assert_array_equal(processes.fetch(found["x"]), rows + 1)
broken = jax.jit(lambda x: x.at[0, 0].set(jnp.nan))(found["x"])
assert finite.names({"a": broken, "b": found["x"]}) == ["a"]
total = jax.jit(jnp.sum, out_shardings=everywhere)(broken)
assert list(finite.faults({"loss": total})) == ["loss is nan"]
processes.meet("end")
"""


def _port():
  with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    return free.getsockname()[1]


def _run_two(code, *args):
  """Runs a program in two processes of two devices; both have to be well."""
  port = _port()
  made = command.options(command.ROOT / "runs", devices=2, cache="off")
  made |= {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
  made["env"] = made["env"] | {"JAX_ENABLE_COMPILATION_CACHE": "false"}
  running = []
  for index in range(2):
    made["args"] = [sys.executable, "-c", code, str(index), str(port), *args]
    running.append(subprocess.Popen(**made))
  for process in running:
    _, said = process.communicate(timeout=600)
    assert process.returncode == 0, said[-3000:]


@pytest.mark.slow
def test_pieces_of_two_processes():
  _run_two(_PIECES)


@pytest.mark.full
def test_damage_to_arrays_of_two_processes_is_noticed(tmp_path):
  _run_two(_SEALED, str(tmp_path / "checkpoints"))
  assert len(list((tmp_path / "checkpoints.damaged").iterdir())) == 1


@pytest.mark.slow
def test_other_numbers_than_announced_are_refused(tmp_path):
  said = command.error(tmp_path / "run", "--process_count=2")
  assert "--process_count=2, but there are 1" in said
  said = command.error(tmp_path / "run", "--device_count=8")
  assert "--device_count=8, but there are 1" in said
  said = command.error(tmp_path / "run", "--coordinator=localhost:1")
  assert said == (
    "error: --coordinator='localhost:1' needs --process_count, 1 to 65536, got"
    " 0, and a --process_index in 0..0, got -1"
  )
  assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
  "address",
  ["localhost", "localhost:", ":1234", ":abc", ":::", "::1:1234", "[::1]"]
  + ["localhost:0", "localhost:65536", "localhost:-1", "localhost:1e3", "a b:1"]
  + ["localhost:١", "http://localhost:1234", "localhost:1234/", "\0:1", "\n:1"]
  + ["host.invalid:1234", "\udcff:1", "localhost:1\n", "[zz::]:1", "a..b:1"]
  + [f"{'a' * 70}.invalid:1"],
)
def test_addresses_that_would_hang_or_crash_are_refused(address):
  with pytest.raises(processes.LaunchError) as error:
    processes.start(coordinator=address, index=0, count=2)
  said = str(error.value)
  assert said.startswith(f"--coordinator={address!a} ")
  assert "is not HOST:PORT" in said or "cannot be resolved" in said
  assert len(said.splitlines()) == 1


@pytest.mark.parametrize(
  "given, said",
  [
    ({"index": 2, "count": 2}, "--process_index in 0..1, got 2"),
    ({"index": -1, "count": 2}, "--process_index in 0..1, got -1"),
    ({"index": 0, "count": 2**40}, f"1 to 65536, got {2**40}"),
    ({"index": 0, "count": -1}, "1 to 65536, got -1"),
    ({"index": 0, "count": 1, "found": True}, "exclude each other"),
    ({"index": 0, "count": 2, "coordinator": ""}, "--process_index=0 needs"),
  ],
)
def test_numbers_that_cannot_be_are_refused(given, said):
  with pytest.raises(processes.LaunchError) as error:
    processes.start(**{"coordinator": "localhost:1234", **given})
  assert said in str(error.value)


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
def test_a_port_that_is_taken_is_refused(family):
  with socket.socket(family) as taken:
    taken.bind(("", 0))
    taken.listen()
    address = f"localhost:{taken.getsockname()[1]}"
    with pytest.raises(processes.LaunchError) as error:
      processes.start(coordinator=address, index=0, count=2)
  assert str(error.value) == (
    f"--coordinator={address!a} names a port that process 0 cannot listen on"
    " (Address already in use)"
  )


class _Pair:
  """A short search by two processes of two devices each."""

  def __init__(self, root, cache):
    self.root, self.cache, self.workdir = root, cache, root / "run"
    root.mkdir(exist_ok=True)
    self.running = []

  def start(self, *args, **settings):
    """Starts or resumes both."""
    port = _port()
    self.running = []
    for index in range(2):
      made = command.options(
        self.workdir,
        f"--coordinator=127.0.0.1:{port}",
        "--process_count=2",
        f"--process_index={index}",
        "--device_count=4",
        *args,
        cache=self.cache,
        devices=2,
        **settings,
      )
      with open(self.root / f"{index}.txt", "w", encoding="utf-8") as file:
        self.running.append(
          subprocess.Popen(**made, stdout=file, stderr=subprocess.STDOUT)
        )

  def said(self, index):
    """What one has said since it was started."""
    return (self.root / f"{index}.txt").read_text(encoding="utf-8")

  def wait_for(self, path):
    """Waits until a file is there and not empty; both have to be well."""
    while not (path.is_dir() or (path.exists() and path.stat().st_size)):
      for index, process in enumerate(self.running):
        assert process.poll() is None, self.said(index)[-3000:]
      time.sleep(0.01)

  def end(self):
    """Waits for both; their exit codes."""
    return [process.wait(timeout=600) for process in self.running]


def _losses(folder):
  rows = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
  found = [json.loads(row) for row in rows]
  return {row["step"]: row["task"] for row in found if "task" in row}


def _accuracies(folder):
  results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
  return [
    (row["name"], row["limit"], row["scores"].get("accuracy", {}).get("value"))
    for row in results["results"]
  ]


@pytest.mark.full
def test_two_processes_search_as_one_and_stop_as_one(tmp_path, searched):
  """SIGTERM to one, kill -9 of one, another number of processes, and back."""
  data = f"--config.data.directory={searched.root / 'data'}"
  save = "--config.save_every=1"
  pair = _Pair(tmp_path / "pair", searched.cache)
  pair.start(data, save)
  pair.wait_for(pair.workdir / "metrics.jsonl")
  pair.running[1].send_signal(signal.SIGTERM)
  assert pair.end() == [1, 1], pair.said(0)[-3000:]
  told = [pair.said(index).splitlines()[-1] for index in range(2)]
  assert told[0] == told[1]
  assert told[0].startswith("error: stopped at search step ")
  step = int(told[0].split()[5])
  assert 0 < step < 8
  # What both have saved, one process goes on with, on another mesh.
  alone = tmp_path / "alone"
  shutil.copytree(pair.workdir, alone)
  done = command.run(
    alone, data, save, "--config.mesh=(2,2,2)", cache=searched.cache, devices=8
  )
  assert done.returncode == 0, done.stderr[-3000:]
  assert f"resumed at step {step} of 8" in done.stdout
  # Both go on, one is killed; the other cannot go on alone.
  pair.start(data, save)
  pair.wait_for(pair.workdir / "checkpoints" / f"{step + 1}")
  pair.running[1].kill()
  time.sleep(1)
  pair.running[0].kill()
  assert pair.end() == [-signal.SIGKILL] * 2
  pair.start(data, save)
  assert pair.end() == [0, 0], pair.said(0)[-3000:] + pair.said(1)[-3000:]
  assert "resumed at step" in pair.said(0)
  assert not list(pair.workdir.glob("checkpoints/*tmp*"))
  # All are the search of one process that nobody disturbed.
  want = _losses(searched.workdir)
  for folder in (pair.workdir, alone):
    got = _losses(folder)
    assert got.keys() == want.keys()
    np.testing.assert_allclose(
      list(got.values()), list(want.values()), rtol=1e-3, atol=1e-5
    )
    rows = zip(_accuracies(folder), _accuracies(searched.workdir), strict=True)
    for (name, limit, mean), (same_name, same_limit, same_mean) in rows:
      assert (name, limit) == (same_name, same_limit)
      # Of the 32 questions two may be answered otherwise.
      assert mean is None or abs(mean - same_mean) < 0.07


@pytest.mark.full
def test_a_task_for_one_process_says_so(tmp_path, searched):
  pair = _Pair(tmp_path / "pair", searched.cache)
  pair.start("--config=configs/pretrain.py:ci")
  assert pair.end() == [1, 1]
  for index in range(2):
    assert "'pretrain' runs in one process, and there are 2" in pair.said(index)


@pytest.mark.full
@pytest.mark.parametrize("mode", ["frozen", "joint"])
def test_two_processes_search_another_model_as_one(mode, tmp_path):
  """The weights are cut over both."""
  model = tiny_families.write("llava_1_5", tmp_path / "model")
  data = tiny_families.instructions(tmp_path / "data", 40)
  args = (
    f"--config.model={model}",
    f"--config.data.path={data}",
    "--config.data.text_length=160",
    "--config.data.answer_length=4",
    "--config.data.train=0.3",
    "--config.data.validation=0.4",
    "--config.data.test=0.3",
    f"--config.mode={mode}",
    "--config.budgets=(3.0,)",
    "--config.sites=('decoder.0',)",
    "--config.steps=6",
    "--config.batch=8",
    "--config.check_batch=8",
    "--config.evaluation.batch=8",
    "--config.check_every=6",
    "--config.check_questions=8",
    "--config.save_every=2",
    "--config.log_every=1",
    "--config.evaluation.questions=8",
    "--config.evaluation.presets=('prune',)",
    "--config.mesh=(1,4,1)",
  )
  cache = tmp_path / "cache"
  alone = command.run(
    tmp_path / "alone", *args, config="search", cache=cache, devices=4
  )
  assert alone.returncode == 0, alone.stderr[-3000:]
  pair = _Pair(tmp_path / "pair", cache)
  pair.start(*args, config="search")
  assert pair.end() == [0, 0], pair.said(0)[-3000:] + pair.said(1)[-3000:]
  got, want = _losses(pair.workdir), _losses(tmp_path / "alone")
  assert got.keys() == want.keys() and len(got) == 6
  np.testing.assert_allclose(
    list(got.values()), list(want.values()), rtol=1e-3, atol=1e-5
  )
  assert _accuracies(pair.workdir) == _accuracies(tmp_path / "alone")
  if mode == "joint":  # both wrote the weights, and every task reads them
    trained = [
      models.load(str(root / "weights" / "3")).params
      for root in (pair.workdir, tmp_path / "alone")
    ]
    jax.tree.map(
      lambda one, other: np.testing.assert_allclose(one, other, atol=1e-4),
      *trained,
    )


@pytest.mark.full
def test_two_processes_ask_another_model_as_one(tmp_path):
  """Weights cut over both, dense and under a plan."""
  model = tiny_families.write("llava_1_5", tmp_path / "model")
  data = tiny_families.instructions(tmp_path / "data", 40)
  site = ops.PlannedSite("decoder.0", 3, ops.presets.MERGE)
  name = models.open_files(str(model)).cfg.name  # has all of its sizes
  plan = ops.ReductionPlan("mine", name, 16, 3, (site,))
  (tmp_path / "mine.json").write_text(plan.to_json(), encoding="utf-8")
  args = (
    f"--config.model={model}",
    f"--config.data.path={data}",
    "--config.data.answer_length=4",
    f"--config.plans=('{tmp_path / 'mine.json'}',)",
    "--config.presets=()",
    "--config.batch=4",
    "--config.mesh=(1,4,1)",
  )
  cache = tmp_path / "cache"
  alone = command.run(
    tmp_path / "alone", *args, config="evaluate", cache=cache, devices=4
  )
  assert alone.returncode == 0, alone.stderr[-3000:]
  pair = _Pair(tmp_path / "pair", cache)
  pair.start(*args, config="evaluate")
  assert pair.end() == [0, 0], pair.said(0)[-3000:] + pair.said(1)[-3000:]
  for name in ("dense", "mine"):
    file = f"predictions/{name}/instructions.jsonl"
    told, expected = (
      [
        answer
        for line in (root / file).read_text(encoding="utf-8").splitlines()
        for answer in json.loads(line)["answers"]
      ]
      for root in (pair.workdir, tmp_path / "alone")
    )
    assert told == expected and len(told) > 4
