"""The command line, end to end on the smallest data."""

import itertools
import json
import signal
import subprocess
import time

import pytest

from eos_jax import files
from tests import command


def _results(workdir):
  return json.loads((workdir / "results.json").read_text())


def test_a_search_meets_its_budgets_and_compiles_once(searched):
  results = _results(searched.workdir)["results"]
  found = [row for row in results if row["name"] == "eos"]
  assert len(found) == 2
  for row in found:
    assert row["layer_average"] <= row["limit"]
  said = (searched.root / "stdout.txt").read_text()
  assert "and compiled 1 program(s) for them" in said
  assert (searched.workdir / "accuracy_cost.png").stat().st_size > 1000


def test_a_search_says_what_it_does_and_what_it_found(searched):
  said = (searched.root / "stdout.txt").read_text().splitlines()
  for start, line in zip(
    (
      "eos_jax search: process 0/1, 1 x cpu, jax ",
      "model tiny of the family tiny",
      "parameters: 2,128,512 (decoder 1.0 M, projector 65,920, vision 1.0 M)",
      "mesh: data 1, fsdp 1, tensor 1; a device holds ",
      "memory: ",
      "search: 144 visual tokens, 5 decoder layers (frozen); policy of ",
      "data: mini_suite/validation 64 images, easy_vqa/validation 300 images;",
      "budgets: 48, 16 visual tokens (layer average), 4 steps of 8 questions",
    ),
    said,
    strict=False,
  ):
    assert line.startswith(start), line
  assert said[0].endswith(f"output in {searched.workdir}")
  end = said[said.index("Searched plans and the best presets") :]
  assert end[3].split()[:2] == ["eos", "48"] and len(end) < 20
  assert f"Look at {searched.workdir}/" in end


@pytest.mark.full
def test_tokens_are_followed_through_the_encoder_too(searched, tmp_path):
  done = command.run(
    tmp_path / "w",
    "--config.sites=('vision.3','decoder.1')",
    "--config.start=merge",
    "--config.budgets=(16.0,)",
    "--config.evaluation.presets=()",
    f"--config.data.directory={searched.root / 'data'}",
    cache=searched.cache,
  )
  assert done.returncode == 0, done.stderr[-3000:]
  page = (tmp_path / "w" / "report.html").read_text()
  assert "Budget 16" in page and "patches are kept" in page


@pytest.mark.full
def test_one_search_gives_a_curve_of_plans(searched, tmp_path):
  done = command.run(
    tmp_path / "w",
    "--config.budgets=(48.0,30.0,16.0,5.0)",
    "--config.knots=2",
    f"--config.data.directory={searched.root / 'data'}",
    cache=searched.cache,
  )
  assert done.returncode == 0, done.stderr[-3000:]
  assert "one policy with 2 knots for all, 4 steps" in done.stdout
  written = _results(tmp_path / "w")
  assert written["cost"]["steps"] == 4 and written["cost"]["examples"] == 32
  rows = [r for r in written["results"] if r["name"] == "eos"]
  assert [r["limit"] for r in rows] == [48, 30, 16, 5]
  for row, after in itertools.pairwise(rows):
    assert after["layer_average"] <= after["limit"]
    assert after["flops"] < row["flops"]


@pytest.mark.full
@pytest.mark.parametrize("mode", ["joint", "bilevel"])
def test_a_search_that_trains_keeps_weights_and_says_what_they_gain(
  searched, tmp_path, mode
):
  data = f"--config.data.directory={searched.root / 'data'}"
  done = command.run(
    tmp_path / "w",
    f"--config.mode={mode}",
    "--config.budgets=(16.0,)",
    "--config.relaxation=concrete",
    "--config.calibration_steps=2",
    "--config.model_learning_rate=0.003",
    "--config.evaluation.presets=('prune',)",
    data,
    cache=searched.cache,
  )
  assert done.returncode == 0, done.stderr[-3000:]
  rows = {r["name"]: r for r in _results(tmp_path / "w")["results"]}
  assert set(rows) == {
    "dense",
    "prune",
    "eos",
    "eos_plan_alone",
    "eos_weights_alone",
  }
  assert rows["eos"]["flops"] == rows["eos_plan_alone"]["flops"]
  assert rows["eos_weights_alone"]["flops"] == rows["dense"]["flops"]
  assert "eos_weights_alone" in done.stdout
  root = tmp_path / "w"
  # The weights are ones that every other task takes.
  again = command.run(
    tmp_path / "e",
    f"--config.plans={root / 'plans' / '16.json'}",
    f"--config.model={root / 'weights' / '16.safetensors'}",
    data,
    config="evaluate:ci",
    cache=searched.cache,
  )
  assert again.returncode == 0, again.stderr[-3000:]
  judged = {r["name"]: r for r in _results(tmp_path / "e")["results"]}
  for ours, theirs in (("eos@16", "eos"), ("dense", "eos_weights_alone")):
    assert judged[ours]["scores"] == rows[theirs]["scores"]
    assert judged[ours]["weights"] == rows[theirs]["weights"]


@pytest.mark.full
def test_finetuning_goes_on_where_it_was_stopped(searched, tmp_path):
  args = (
    f"--config.plan={searched.workdir / 'plans' / '16.json'}",
    f"--config.data.directory={searched.root / 'data'}",
    "--config.best=True",
    "--config.micro_batch=4",
  )
  weights = []
  for run in ("straight", "broken"):
    folder = tmp_path / run
    options = command.options(
      folder, *args, config="finetune:ci", cache=searched.cache
    )
    if run == "broken":
      process = subprocess.Popen(
        **options, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
      )
      while process.poll() is None and not (folder / "checkpoints/2").is_dir():
        time.sleep(0.02)
      process.send_signal(signal.SIGKILL)
      process.wait()
    done = subprocess.run(**options, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    weights.append((folder / "finetuned.safetensors").read_bytes())
  assert weights[0] == weights[1]
  rows = {r["name"]: r for r in _results(folder)["results"]}
  assert set(rows) == {"dense", "plan", "dense_finetuned", "plan_finetuned"}
  assert rows["plan"]["flops"] == rows["plan_finetuned"]["flops"]
  assert "The plan: " in done.stdout
  checks = [
    (row["check/hard"], row["step"])
    for row in files.read_jsonl(folder / "metrics.jsonl")
    if "check/hard" in row
  ]
  said = f"the best of the checks was after step {max(checks)[1]}"
  assert len(checks) == 2 and said in done.stdout


@pytest.mark.full
@pytest.mark.parametrize("stage", ["vision", "lookup", "grounding", "answers"])
def test_killed_pretraining_ends_with_the_same_weights(tmp_path, stage):
  cache = tmp_path / "cache"
  done = command.run(tmp_path / "straight", config="pretrain:ci", cache=cache)
  assert done.returncode == 0, done.stderr[-3000:]
  options = command.options(
    tmp_path / "broken", config="pretrain:ci", cache=cache
  )
  process = subprocess.Popen(
    **options, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
  )
  saved = tmp_path / "broken" / stage / "checkpoints" / "3"
  while process.poll() is None and not saved.is_dir():
    time.sleep(0.05)
  process.send_signal(signal.SIGKILL)
  process.wait()
  again = command.run(tmp_path / "broken", config="pretrain:ci", cache=cache)
  assert again.returncode == 0, again.stderr[-3000:]
  cards = [
    json.loads((tmp_path / run / "tiny.json").read_text())
    for run in ("straight", "broken")
  ]
  assert cards[0] == cards[1]  # with the digest of the weights
  guesses = cards[0]["language_only"]
  assert list(guesses) == list(cards[0]["accuracy"])
  assert 0 < min(guesses.values()) and max(guesses.values()) < 1


@pytest.mark.slow
def test_a_plan_is_evaluated_as_the_search_did(searched, tmp_path):
  done = command.run(
    tmp_path / "w",
    f"--config.plans={searched.workdir / 'plans' / '16.json'}",
    f"--config.data.directory={searched.root / 'data'}",
    "--config.presets=('prune',)",
    config="evaluate:ci",
    cache=searched.cache,
  )
  assert done.returncode == 0, done.stderr[-3000:]
  got = {row["name"]: row for row in _results(tmp_path / "w")["results"]}
  assert set(got) == {"dense", "eos@16", "prune@16"}
  # The same questions and weights as those of the search's own table.
  known = {
    row["name"]: row
    for row in _results(searched.workdir)["results"]
    if row["limit"] in (None, 16.0)
  }
  for name, other in (
    ("eos@16", "eos"),
    ("dense", "dense"),
    ("prune@16", "prune"),
  ):
    for field in ("scores", "weights", "flops", "layer_average"):
      assert got[name][field] == known[other][field]
