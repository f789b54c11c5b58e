"""Every mistake that a user can mend ends with one message that says how.

Those about the command line run as another process, which shows that there is
no traceback; the others call the task, which raises what `main` prints.
"""

import dataclasses
import json
import os
import re
import runpy
import shutil
import subprocess

import pytest

from eos_jax import main, naming, ops, tasks
from eos_jax.training import data_settings, workdir
from tests import command

_FAULTS = "error: the config has faults:\n  "
_RUN_JSON = '{"format": "eos_jax.Run/2", "task": "%s", "config": {}}'


def _config(task, **changes):
  """The config of a task in its short form, with dotted changes."""
  path = command.ROOT / "configs" / f"{task}.py"
  config = runpy.run_path(path)["get_config"]("ci").to_dict()
  del config["task"]
  for name, value in changes.items():
    *groups, field = name.split("__")
    group = config
    for part in groups:
      group = group[part]
    assert field in group
    group[field] = value
  return config


def _refusal(task, path, **changes):
  """What `main` prints behind "error: " for a task that cannot run."""
  with pytest.raises(main.EXPECTED) as error:
    tasks.run(task, _config(task, **changes), path)
  return str(error.value)


# Config.


@pytest.mark.slow
def test_all_faults_of_the_overrides_are_listed(tmp_path):
  fields = sorted(
    each.name for each in dataclasses.fields(data_settings.DataSettings)
  )
  assert command.error(
    tmp_path / "w",
    "--config.stepz=3",
    "--config.evaluation.batsh=1",
    "--config.batch=many",
    "--config.data=tiny",
    "--config.seed.first=1",
    "--config.budgets=(1,",
    "--config.labels=maybe",
  ) == _FAULTS + (
    "config.stepz is unknown; did you mean 'steps'?\n"
    "  config.evaluation.batsh is unknown; did you mean 'batch'?\n"
    "  config.batch must be int, got 'many'\n"
    "  config.data must be a group of fields, got 'tiny'; set one of"
    f" {', '.join(f'config.data.{name}' for name in fields)}\n"
    "  config.seed.first is unknown; it is a single value that has no fields\n"
    "  config.budgets must be tuple, got '(1,'\n"
    "  config.labels must be bool, got 'maybe'"
  )


@pytest.mark.slow
def test_all_impossible_values_are_listed(tmp_path):
  assert command.error(
    tmp_path / "w", "--config.start=nonsense", "--config.batch=-1"
  ) == _FAULTS + (
    "config.batch is -1; use 0 or more\n"
    "  config.start is 'nonsense'; use one of csp, dart, diffrate, divprune,"
    " evit, evit_drop, fastv, globalcom2, grid, hybrid, matryoshka, merge,"
    " merge_proportional, pool, pool_soft, prumerge, prumerge_plus, prune,"
    " pyramiddrop, random, reweight, sparsevlm, sparsevlm_1_5, sparsevlm_2_0,"
    " tome, tome_kth, tome_port, vision_selector, visionzip, visionzip_prune"
  )
  assert not (tmp_path / "w").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
  "config, reason",
  [
    (
      "serch",
      "configs/serch.py cannot be read (No such file or directory); give a"
      " file, such as configs/search.py",
    ),
    (
      "search:big",
      "configs/search.py:big: variant 'big' is unknown; use '' or one of"
      " family, fast, ci",
    ),
  ],
  ids=["file", "variant"],
)
def test_unknown_configs(tmp_path, config, reason):
  said = command.error(tmp_path / "w", config=config)
  assert said == f"error: --config={reason}"


@pytest.mark.parametrize(
  "text, reason",
  [
    (b"steps: 3\nname: [", "SyntaxError: "),
    (b"no\0thing", "source code string cannot contain null"),
    (b"'\xff'", "SyntaxError: "),
    (b"import torch_of_no_version", "ModuleNotFoundError: No module named"),
    (b"def get_config(arg=''):\n  return 1 / 0", "has to return a ConfigDict:"),
    (b"def get_config():\n  return {}", "has to return a ConfigDict: TypeErr"),
    (b"def get_config(arg=''):\n  return 3", "has to return a ConfigDict: "),
    (b"CONFIG = {}", "has to return a ConfigDict: KeyError: 'get_config'"),
    (b"", "has to return a ConfigDict: KeyError: 'get_config'"),
  ],
)
def test_files_that_are_no_configs(tmp_path, text, reason):
  path = tmp_path / "config.py"
  path.write_bytes(text)
  with pytest.raises(SystemExit) as error:
    main._defaults(f"{path}:ci")
  said = str(error.value)
  assert said.startswith(f"error: --config='{path}:ci' is no config: "), said
  assert reason in said and len(said.splitlines()) == 1, said


@pytest.mark.parametrize("name", ["", "/dev/zero", "pipe"])
def test_configs_that_are_no_files(tmp_path, name):
  os.mkfifo(tmp_path / "pipe")
  with pytest.raises(SystemExit) as error:
    main._defaults(str(tmp_path / name))
  assert "error: --config=" in str(error.value)
  assert "give" in str(error.value)


@pytest.mark.slow
def test_working_directories_that_cannot_be_written_down(tmp_path):
  path = f"{tmp_path}/\udcff"
  assert command.error(path, cache=tmp_path / "cache") == (
    f"error: --workdir={path!a} is not in UTF-8; choose another directory"
  )
  assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_reader_that_leaves_ends_a_run_in_a_line(tmp_path):
  made = command.options(tmp_path / "w", cache=tmp_path / "cache")
  process = subprocess.Popen(
    **made, stdout=subprocess.PIPE, stderr=subprocess.PIPE
  )
  process.stdout.close()  # as `head` does once it has seen enough
  process.stdout = None
  assert process.communicate()[1].strip() == (
    "error: the reader of the output has gone; what is finished is kept, run"
    " the same command again to go on"
  )
  assert process.returncode == 1


@pytest.mark.slow
def test_unknown_tasks(tmp_path):
  assert command.error(tmp_path / "w", "--config.task=dance") == (
    "error: config.task is 'dance'; use one of answer, compile, convert,"
    " evaluate, finetune, pretrain, report, search, timing"
  )


def test_settings_of_a_search_that_do_not_fit(tmp_path):
  assert _refusal(
    "search", tmp_path, data__suite="held_out", mode="joint", batch=8
  ) == (
    "the config has faults:\n"
    "  config.data: suite has no train split for mode='joint', only validation,"
    " test; use config.data.suite='default'"
  )
  assert _refusal("search", tmp_path, ranges__gamma=(0.5, 0.2)) == (
    "the config has faults:\n"
    "  config: SearchSpace: ranges has gamma=(0.5, 0.2); it needs 0.0 <= low <"
    " high <= 1.0"
  )
  assert _refusal(
    "search",
    tmp_path,
    limits__latency=0.5,
    limits__latency_table="missing.json",
  ) == (
    "the config has faults:\n"
    "  config.limits.latency_table: missing.json cannot be read (No such file"
    " or directory); write one with --config=configs/timing.py:latency"
  )
  assert "  config.plan is empty; give the JSON file" in _refusal(
    "finetune", tmp_path
  )


def test_unreachable_budgets_say_what_can_be_reached(tmp_path):
  assert _refusal(
    "search", tmp_path, budgets=(16.0, 60.0, 0.5), sites=("decoder.2",)
  ) == "the config has faults:\n" + "\n".join(
    f"  config.budgets has {limit}: smallest reachable layer average is 58.2:"
    " 2 of 5 decoder layers run before the first site 'decoder.2' with all"
    f" 144 tokens; add an earlier site, or raise the limit {limit}"
    for limit in ("16", "0.5")
  )


def test_operators_that_read_what_a_site_lacks(tmp_path):
  assert _refusal("search", tmp_path, sites=("vision.3", "decoder.1")) == (
    "the config has faults:\n"
    "  config.start: 'hybrid' reads last_row, text_rows, which the site"
    " 'vision.3' does not have; choose another start or other sites"
  )
  assert _refusal("search", tmp_path, start="fastv") == (
    "the config has faults:\n"
    "  config.start: 'fastv' reads last_row_previous, which the site"
    " 'decoder.0' does not have; choose another start or other sites"
  )


def test_presets_that_cannot_start_a_search(tmp_path):
  for start, reason in (
    ("tome", "select='bipartite' merges at most half of the tokens at a site"),
    ("random", "whose choice of tokens depends on random numbers"),
  ):
    said = _refusal("search", tmp_path, start=start)
    assert said.startswith("the config has faults:\n  config: ")
    assert reason in said and "start from another preset" in said


# The working directory.


@pytest.mark.slow
def test_a_directory_that_cannot_be_written(tmp_path):
  (tmp_path / "file").touch()
  path = tmp_path / "file" / "run"
  assert command.error(path, cache=tmp_path / "cache") == (
    f"error: --workdir={path} cannot be written (Not a directory); choose"
    " another directory or change its permissions"
  )


def test_directories_that_are_not_this_runs(tmp_path):
  (tmp_path / "thesis.tex").touch()
  assert _refusal("search", tmp_path) == (
    f"--workdir={tmp_path} holds thesis.tex but no run of eos_jax; choose an"
    " empty or a new directory"
  )
  other = tmp_path / "other"
  other.mkdir()
  (other / "run.json").write_text(_RUN_JSON % "pretrain")
  assert _refusal("search", other) == (
    f"--workdir={other} belongs to a run of the task 'pretrain', not 'search';"
    " choose another directory"
  )
  old = tmp_path / "old"
  old.mkdir()
  before = '{"format": "eos_jax.Run/1", "task": "search_published", "config":'
  (old / "run.json").write_text(before + ' {"weights": [0.85, 0.15]}}')
  for task in ("search", "evaluate"):
    assert _refusal(task, old) == (
      f"{old}/run.json has not the format 'eos_jax.Run/2'; it was written by"
      " another version of eos_jax, whose runs this one cannot resume or"
      " report, or by hand; choose another directory, or use that version"
    )
  used = tmp_path / "used"
  with workdir.opened(used, "search", {}):
    assert _refusal("search", used) == (
      f"--workdir={used} is in use by another process; wait for it, or choose"
      " another directory"
    )


@pytest.mark.slow
def test_an_edited_config_is_refused_unless_it_is_resumable(
  searched, tmp_path, monkeypatch
):
  path = tmp_path / "run"
  shutil.copytree(searched.workdir, path)
  args = (f"--config.data.directory={searched.root / 'data'}",)
  before = command.read_all(path)
  assert command.error(
    path, *args, "--config.steps=2", "--config.check_every=1"
  ) == (
    f"error: --workdir={path} belongs to a run with other settings; choose"
    " another directory, or restore these:\n"
    "  config.check_every: 2 before, 1 now\n"
    "  config.steps: 4 before, 2 now"
  )
  assert command.read_all(path) == before
  ran = []
  idle = dataclasses.replace(
    tasks.TASKS["search"], run=lambda job, folder: ran.append(job.log_every)
  )
  monkeypatch.setitem(tasks.TASKS, "search", idle)
  tasks.run("search", _config("search", log_every=3), path)
  assert ran == [3]


@pytest.mark.slow
def test_a_full_disk(tmp_path):
  path = tmp_path / "w"
  path.mkdir()
  # Everything written to it fails as on a full disk.
  (path / "run.json.part").symlink_to("/dev/full")
  said = command.error(path)
  assert re.fullmatch(
    rf"error: the disk is full, \d+ MiB are left at {path}\. Free some space"
    r" and run the same command again: it resumes at the last checkpoint\.\n"
    r"  \(\[Errno 28\] No space left on device.*\)",
    said,
  ), said


# Checkpoints.


def _copy(searched, root):
  """A search that was stopped behind its last checkpoint."""
  shutil.copytree(searched.workdir, root / "run")
  shutil.copytree(searched.root / "data", root / "data")
  search = command.Search(root, searched.cache)
  for name in ("evaluation.jsonl", "results.json", "plans/16.json"):
    (search.workdir / name).unlink()
  return search


def _truncate(step):
  """Cuts the arrays of a checkpoint short."""
  for path in step.rglob("d/*"):
    path.write_bytes(path.read_bytes()[:-100])


@pytest.mark.full
def test_damaged_checkpoints(searched, tmp_path):
  search = _copy(searched, tmp_path)
  root = search.workdir / "checkpoints"
  _truncate(root / "8")
  said = search.run().stdout
  (aside,) = (search.workdir / "checkpoints.damaged").iterdir()
  warning = re.escape(f"warning: checkpoint 8 in {root} is damaged (")
  rest = re.escape(
    f"); it now lies in {aside}, and the one before it is used\n"
    "resumed at step 6 of 8\n"
  )
  assert re.search(f"^{warning}.*{rest}", said, re.M), said
  different = command.differences(search.outputs(), searched.outputs())
  assert not different

  (search.workdir / "plans" / "16.json").unlink()
  said = command.error(search.workdir, *search.args, cache=search.cache)
  path = search.workdir / "plans" / "16.json"
  assert said.splitlines()[-1] == (
    f"error: the search is done, but {path}, or a file next to it, cannot be"
    " read (FileNotFoundError: [Errno 2] No such file or directory:"
    f" '{path}'); put the files back, or start again with a new --workdir"
  )

  for step in root.iterdir():
    _truncate(step)
  said = command.error(search.workdir, *search.args, cache=search.cache)
  moved = {path.name.split(".")[0]: path for path in aside.parent.iterdir()}
  assert re.fullmatch(
    re.escape(
      f"error: no checkpoint in {root} can be read; start again with a new"
      " --workdir, or put an intact copy back:\n"
    )
    + rf"  {aside.parent}/8\.\S+: .*\n  {moved['6']}: .*",
    said,
  ), said


# Divergence.


@pytest.mark.full
@pytest.mark.parametrize("best", [False, True])
def test_a_finetuning_that_diverges(searched, tmp_path, best):
  path = tmp_path / "run"
  for _ in range(2):  # the same again from the last checkpoint
    said = _refusal(
      "finetune",
      path,
      data__directory=str(searched.root / "data"),
      plan=str(searched.workdir / "plans" / "16.json"),
      learning_rate=1e30,
      save_every=1,
      best=best,
    )
    # The rate is 0 in the first step; the parameters after the second are
    # finite and far too large.
    assert re.fullmatch(
      r"finetune diverged at step 3 with config\.learning_rate=1e\+30: .*; the"
      r" checkpoint of step 2 already leads to it\. Start again with a new"
      r" --workdir and a smaller learning rate",
      said,
    ), said
  kept = sorted(p.name for p in (path / "checkpoints").iterdir())
  assert kept == ["1", "2"]
  assert not (path / "finetuned.safetensors").exists()
  assert "NaN" not in (path / "metrics.jsonl").read_text()


@pytest.mark.full
def test_a_search_that_diverges(searched, tmp_path):
  said = _refusal(
    "search",
    tmp_path / "run",
    data__directory=str(searched.root / "data"),
    learning_rate=1e38,
  )
  assert said.startswith("search diverged at step 2 with config.learning_rate=")
  assert not list((tmp_path / "run" / "plans").iterdir())


# Plans, data and weights.


def _plan(tmp_path, change):
  """A plan file with a change to its values."""
  plan = {
    "format": "eos_jax.ReductionPlan/1",
    "name": "mine",
    "model": "tiny",
    "tokens": 144,
    "layers": 5,
    "sites": [],
    "note": "",
  }
  change(plan)
  path = tmp_path / "plan.json"
  path.write_text(json.dumps(plan))
  return path


@pytest.mark.slow
def test_plans_that_cannot_be_read(tmp_path):
  path = tmp_path / "no.json"
  assert command.error(
    tmp_path / "w", f"--config.plans={path}", config="evaluate:ci"
  ) == _FAULTS + (
    f"config.plans: {path} cannot be read (No such file or directory); give the"
    " JSON file of a plan, such as runs/search/plans/16.json"
  )
  path.write_text("{'name'")
  assert _refusal("evaluate", tmp_path / "w", plans=(str(path),)) == (
    f"the config has faults:\n  config.plans: {path}: plan is no JSON:"
    " Expecting property name enclosed in double quotes: line 1 column 2 (char"
    " 1)"
  )

  def wrong(plan):
    plan["sitez"] = plan.pop("sites")
    plan["tokens"] = "144"

  path = _plan(tmp_path, wrong)
  assert _refusal("evaluate", tmp_path / "w", plans=(str(path),)) == (
    f"the config has faults:\n  config.plans: {path}: plan lacks ['sites']; has"
    " unknown fields ['sitez']; tokens is '144', it must be int"
  )


def test_plan_files_that_are_no_text_or_no_file(tmp_path):
  def refusal(path):
    (fault,) = _refusal("evaluate", tmp_path / "w", plans=(str(path),)).split(
      "\n"
    )[1:]
    return fault.removeprefix("  config.plans")

  path = tmp_path / "plan.json"
  path.write_text(_plan(tmp_path, lambda plan: None).read_text(), "utf-16")
  assert refusal(path) == (
    f": {path}: plan is no UTF-8 text (byte 0 is 0xff), save it as UTF-8"
  )
  pipe = tmp_path / "pipe"
  os.mkfifo(pipe)
  for other in (pipe, "/dev/zero"):
    assert refusal(other) == (
      f": {other} cannot be read (it is no regular file); give the JSON file of"
      " a plan, such as runs/search/plans/16.json"
    )
  assert refusal(f"{path}\0") == (
    f" is {naming.quoted(f'{path}' + chr(0))}; use Unicode text without the"
    " character NUL; rename a file"
  )
  assert not (tmp_path / "w").exists()


@pytest.mark.parametrize(
  "change, fault",
  [
    (
      lambda plan: plan.update(name="/any/where"),
      "ReductionPlan '/any/where' is not valid: name is '/any/where', give a"
      " name without '/' and '\\'",
    ),
    (
      lambda plan: plan["operator"].update(select="bipartite"),
      "site 'decoder.1': keep is 16, but one bipartite step of operator 'prune'"
      " leaves at least 72 of 144 tokens: spread the reduction over more sites",
    ),
    (
      lambda plan: plan["operator"].update(rho=1e308),
      "operator rho is 1e+308, use a finite number that float32 can hold",
    ),
  ],
  ids=["name", "select", "number"],
)
@pytest.mark.parametrize("task", ["evaluate", "finetune"])
def test_plans_that_cannot_be_used(tmp_path, task, change, fault):
  site = ops.PlannedSite("decoder.1", 16, ops.presets.PRUNE)
  plan = json.loads(ops.ReductionPlan("p", "tiny", 144, 5, (site,)).to_json())
  change(plan)
  path = tmp_path / "plan.json"
  path.write_text(json.dumps(plan))
  field = {"evaluate": "plans", "finetune": "plan"}[task]
  value = (str(path),) if field == "plans" else str(path)
  assert _refusal(task, tmp_path / "w", **{field: value}) == (
    f"the config has faults:\n  config.{field}: {path}: {fault}"
  )
  assert not (tmp_path / "w").exists()


def test_plans_of_another_model(tmp_path):
  path = _plan(
    tmp_path, lambda plan: plan.update(model="llava_1_5_7b", tokens=576)
  )
  assert _refusal("evaluate", tmp_path / "w", plans=(str(path),)) == (
    "the config has faults:\n"
    f"  config.plans: {path} is of another model: model is 'llava_1_5_7b' there"
    " and 'tiny' here; use a plan that was searched for 'tiny'\n"
    f"  config.plans: {path} is of another model: tokens is 576 there and 144"
    " here; use a plan that was searched for 'tiny'"
  )


@pytest.mark.parametrize("how", ["missing", "corrupt"])
def test_data_files(searched, tmp_path, how):
  data = tmp_path / "data"
  shutil.copytree(searched.root / "data", data)
  (path,) = data.rglob("mini_suite-validation*")
  if how == "missing":
    path.unlink()
  else:
    path.write_bytes(b"\0" * path.stat().st_size)
  said = _refusal("search", tmp_path / "w", data__directory=str(data))
  assert re.fullmatch(
    rf"cannot read .*mini_suite/validation.* under {path.parent}: .*"
    r"\. A file there is missing or damaged: delete the directory"
    rf" {path.parent} and run again, it is then built anew\.",
    said,
    re.S,
  ), said


def test_a_data_directory_that_cannot_be_written(tmp_path):
  (tmp_path / "file").touch()
  data = tmp_path / "file" / "data"
  for task in ("search", "pretrain"):
    assert _refusal(task, tmp_path / "w", data__directory=str(data)) == (
      "the config has faults:\n"
      f"  config.data.directory is {naming.quoted(str(data))}, which cannot be"
      " made (Not a directory); choose another directory, or change its"
      " permissions"
    )
  assert not (tmp_path / "w").exists()


def test_truncated_weights(tmp_path):
  shipped = command.ROOT / "eos_jax" / "models" / "weights" / "tiny.safetensors"
  path = tmp_path / "tiny.safetensors"
  path.write_bytes(shipped.read_bytes()[:-100])
  said = _refusal("search", tmp_path / "w", model=str(path))
  assert re.fullmatch(
    rf"the config has faults:\n  config\.model: weights file {path}"
    r" cannot be read \(.*\); it is missing or truncated: reinstall the package"
    r" or pass another file\.",
    said,
  ), said
