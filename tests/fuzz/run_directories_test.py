"""Damage to every file and folder of a run: rebuilt, or named.

Whatever is damaged, the same command ends with the results of an undisturbed
run, or refuses with one message that names the damaged file, and ends with
those results once the file is put back. Seeded; nothing else is tolerated: no
other error, no hang, nothing written outside of the directory.
"""

import collections
import contextlib
import json
import pathlib
import random
import runpy
import shutil
import signal

import jax
import numpy as np
import pytest

from eos_jax import files, main, ops, tasks
from eos_jax.evaluation import charts
from eos_jax.models import loading
from eos_jax.tasks import opening
from eos_jax.training import finetune, loop, search_check
from tests import campaign, command

_ODD = (b"", b"null\n", b"{}\n", b"[1]\n", b"\xff\xfe\x00\n", b"[" * 100_000)
_SECONDS = 600  # after which a run counts as hanging, on a busy machine


def _config(task, data, **changes):
  path = command.ROOT / "configs" / f"{task}.py"
  config = runpy.run_path(path)["get_config"]("ci").to_dict()
  del config["task"]
  config["data"]["directory"] = str(data)
  return config | changes


class Run:
  """A finished short run, copies of which are damaged and run again."""

  def __init__(self, task, folder, config):
    self.task, self.folder, self.config = task, folder, config
    self.expected = _outputs(folder)

  def interrupted(self, root):
    """A copy as it is after a stop, with half of the checkpoints gone."""
    copy = shutil.copytree(self.folder, root / "interrupted")
    steps = sorted((copy / "checkpoints").iterdir(), key=lambda p: int(p.name))
    shutil.rmtree(steps[-1])
    last = int(steps[-2].name)
    lines = (copy / "metrics.jsonl").read_text().splitlines(keepends=True)
    kept = [line for line in lines if json.loads(line)["step"] <= last]
    (copy / "metrics.jsonl").write_text("".join(kept) + '{"step": 9')
    for name in ("results.json", "report.html", "table.txt", "examples"):
      path = copy / name
      shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    # Some of the evaluations are done.
    lines = (copy / "evaluation.jsonl").read_text().splitlines(keepends=True)
    (copy / "evaluation.jsonl").write_text("".join(lines[:-1]))
    return copy

  def again(self, folder):
    """Runs the same command in a folder; returns its refusal, or ""."""
    with _no_hang():
      try:
        tasks.run(self.task, self.config, folder)
      except main.EXPECTED as error:
        return str(error)
    return ""

  def try_damage(self, source, copy, path, kind, damage, capsys):
    """Damages a copy of a run and runs it; returns what became of it."""
    _forget_programs()
    shutil.copytree(source, copy, symlinks=True)
    target = copy / path
    damage(target)
    capsys.readouterr()
    refusal = self.again(copy)
    said = capsys.readouterr().out
    case = f"{self.task} {path}, {kind}: {refusal or 'no refusal'}"
    outcome = (
      "rebuilt" if "warning: " in said or "note: " in said else "unaffected"
    )
    if refusal:
      assert str(copy) in refusal and _names(refusal, path), case
      assert len(refusal) < 3000, case
      outcome = "refused"
      shutil.rmtree(copy)
      shutil.copytree(source, copy, symlinks=True)
      assert not self.again(copy), case
    different = command.differences(_outputs(copy), self.expected)
    if path.name == "metrics.jsonl":  # what is lost of the course stays lost
      assert "warning: " in said or different in ([], ["metrics.jsonl"]), case
      different = [name for name in different if name != "metrics.jsonl"]
    assert not different, (case, different, said[-2000:])
    assert {p.name for p in copy.parent.iterdir()} == {copy.name}, case
    shutil.rmtree(copy)
    return outcome


def _names(refusal, path):
  """Whether a message names a path of a run, its step or its folder."""
  parts = [part for part in path.parts if part != "checkpoints"]
  name = parts[0].split(".")[0] if parts else "checkpoints"
  return path.name == "run.json" or name in refusal


@contextlib.contextmanager
def _no_hang():
  def stop(number, frame):
    raise AssertionError("the run hangs")

  before = signal.signal(signal.SIGALRM, stop)
  signal.alarm(_SECONDS)
  try:
    yield
  finally:
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def _forget_programs():
  """As `conftest.room_for_programs`, between runs of one test."""
  maps = pathlib.Path("/proc/self/maps")
  if maps.exists() and maps.read_bytes().count(b"\n") > 20_000:
    jax.clear_caches()


def _outputs(folder):
  """What a run has found and shown, without times, places and versions."""
  found = {}
  for path in sorted(folder.rglob("*")):
    name = str(path.relative_to(folder))
    if name.startswith(("checkpoints", "tensorboard")) or not path.is_file():
      continue
    if path.suffix == ".npz":
      with np.load(path) as table:
        found[name] = {k: v.tobytes() for k, v in table.items()}
    elif name == "results.json":
      value = files.read_json(path)
      for field in ("seconds", "config", "versions", "digest"):
        value.pop(field, None)
      found[name] = value
    elif name == "evaluation.jsonl":
      found[name] = sorted(path.read_text().splitlines())
    elif path.parent.name == "plans" and not name.endswith(".check.json"):
      found[name] = _plan(path)
    elif path.suffix in (".json", ".txt", ".safetensors"):
      found[name] = path.read_bytes()
    elif name == "metrics.jsonl":
      found[name] = path.read_text()
  del found["run.json"]
  return found


def _plan(path):
  """What a plan says, however it is written; its text, if it is none."""
  text = path.read_text(errors="replace")
  try:
    return ops.ReductionPlan.from_json(text).digest
  except ValueError:
    return text


def _write(data):
  return lambda path: path.write_bytes(data)


def _remove(path):
  shutil.rmtree(path) if path.is_dir() else path.unlink()


def _to_folder(path):
  _remove(path)
  path.mkdir()


def _to_file(path):
  _remove(path)
  path.write_text("x")


def _to_link(target):
  def change(path):
    _remove(path)
    path.symlink_to(target)

  return change


def _damages(path, draws):
  """Yields kinds and functions that damage a file or a folder."""
  yield "removed", _remove
  yield "a link to nothing", _to_link("nowhere")
  yield "a link to itself", _to_link(path.name)
  if path.is_dir():
    yield "a file", _to_file
    return
  yield "a folder", _to_folder
  odd = draws.choice(_ODD)
  yield f"{odd[:9]!r} for its contents", _write(odd)
  data = path.read_bytes()
  for _ in range(2):
    kind, changed = campaign.damaged(data, draws)
    yield kind, _write(changed)
  if path.suffix in (".json", ".jsonl"):
    lines = [data]
    if path.suffix == ".jsonl":  # the last line may be cut short
      lines = data.decode().split("\n")[:-1]
    number = draws.randrange(len(lines)) if lines else 0
    if lines and lines[number]:
      kind, value = campaign.edited(json.loads(lines[number]), draws)
      text = json.dumps(value)
      if path.suffix == ".jsonl":
        text = "\n".join([*lines[:number], text, *lines[number + 1 :], ""])
      yield f"line {number}: {kind}", _write(text.encode("utf-8", "replace"))


def _cases(source, draws):
  """All damages of a run, in an order that is drawn."""
  cases = []
  for path in sorted(source.rglob("*")):
    name = path.relative_to(source)
    if path.name == ".lock" or name.parts[0] == "tensorboard" and name.suffix:
      continue  # `.lock` and event files have tests of their own
    cases += [(name, *damage) for damage in _damages(path, draws)]
  draws.shuffle(cases)
  return cases


@pytest.fixture(scope="module")
def warm():
  """Keeps programs, weights and data from run to run, which are the same."""
  kept = {}

  def keep(patch, owner, name, key):
    make = getattr(owner, name)

    def made(*args, **kwargs):
      entry = (name, key(*args, **kwargs))
      if entry not in kept:
        kept[entry] = make(*args, **kwargs)
      return kept[entry]

    patch.setattr(owner, name, made)

  def nothing(*args, **kwargs):
    return ()

  with pytest.MonkeyPatch.context() as patch:
    keep(
      patch,
      loop,
      "compile_step",
      lambda step, *_, **__: step.__qualname__ + step.__module__,
    )
    patch.setattr(opening, "forget", lambda: None)  # no file of it is damaged
    keep(patch, opening.Opened, "load", nothing)
    keep(patch, opening, "evaluator_of", nothing)
    keep(patch, finetune, "_checker", nothing)
    keep(patch, loading, "shapes", nothing)
    # Drawing is most of the time of a run that has nothing left to do.
    keep(patch, charts, "svg", nothing)
    patch.setattr(
      charts, "write_png", lambda path, _: path.write_bytes(b"drawn")
    )
    keep(patch, search_check, "Checker", nothing)
    yield


@pytest.fixture(scope="module")
def runs(searched, warm, tmp_path_factory):
  """A finished search and a finished fine-tuning, of this process.

  On other devices sums differ in their last digits.
  """
  data, root = searched.root / "data", tmp_path_factory.mktemp("runs")
  plan = str(searched.workdir / "plans" / "16.json")
  configs = {
    "search": _config("search", data),
    "finetune": _config("finetune", data, plan=plan, best=True, save_every=1),
  }
  for task, config in configs.items():
    tasks.run(task, config, root / task)
  return {
    task: Run(task, root / task, config) for task, config in configs.items()
  }


@pytest.mark.full
@pytest.mark.parametrize(
  "task, state, most",
  [
    ("search", "finished", 200),
    ("search", "interrupted", 40),
    ("finetune", "finished", 160),
    ("finetune", "interrupted", 60),
  ],
)
def test_damage_anywhere_is_mended_or_named(
  runs, tmp_path, capsys, task, state, most
):
  run, draws = runs[task], random.Random(f"{task} {state}")
  source = run.folder
  if state == "interrupted":
    source = run.interrupted(tmp_path)
  counts, failed = collections.Counter(), []
  (tmp_path / "w").mkdir()
  for path, kind, damage in _cases(source, draws)[:most]:
    copy = tmp_path / "w" / "run"
    try:
      counts[run.try_damage(source, copy, path, kind, damage, capsys)] += 1
    except Exception as error:  # all of them are listed
      failed.append(f"{path}, {kind}: {type(error).__name__}: {error}"[:1500])
      shutil.rmtree(copy, ignore_errors=True)
    with capsys.disabled():
      print(f"\r{task} {state}: {dict(counts)}, {len(failed)} failed", end="")
  assert not failed, "\n".join(failed)
  assert sum(counts.values()) == most


def _search(searched):
  data = searched.root / "data"
  return Run("search", searched.workdir, _config("search", data))


@pytest.mark.slow
def test_an_edited_plan_is_not_reported_as_found(searched, tmp_path):
  run, copy = _search(searched), tmp_path / "run"
  shutil.copytree(searched.workdir, copy)
  path = copy / "plans" / "16.json"
  plan = json.loads(path.read_text())
  plan["note"] = "mine"
  path.write_text(json.dumps(plan))
  assert run.again(copy) == (
    f"the search is done, but {path}, or a file next to it, cannot be"
    " read (ValueError: it is not the plan that was found); put the files back,"
    " or start again with a new --workdir"
  )
  with pytest.raises(main.EXPECTED) as error:
    tasks.run("report", {"runs": ()}, copy)
  assert f"{path} is not the plan that results.json is about" in str(
    error.value
  )


@pytest.mark.full
def test_what_can_be_computed_again_is(searched, tmp_path, capsys):
  run, copy = _search(searched), tmp_path / "run"
  shutil.copytree(searched.workdir, copy)
  # Written in another way it is the same plan.
  path = copy / "plans" / "16.json"
  path.write_text(json.dumps(json.loads(path.read_text())))
  # A changed digit is computed again, and so are examples cut short.
  evaluations = copy / "evaluation.jsonl"
  rows = evaluations.read_text().splitlines()
  row = json.loads(rows[0])
  row["scores"]["accuracy"]["value"] += 0.01
  evaluations.write_text("\n".join([json.dumps(row), *rows[1:], "null", ""]))
  examples = copy / "examples" / "16.npz"
  examples.write_bytes(examples.read_bytes()[:-100])
  capsys.readouterr()
  assert not run.again(copy)
  said = capsys.readouterr().out
  assert f"1 entries of {evaluations} were changed" in said
  assert f"{evaluations}: line {len(rows) + 1} is no JSON object" in said
  assert f"{examples} cannot be read as examples" in said
  assert not command.differences(_outputs(copy), run.expected)
