"""A search for the model of a folder, on instructions."""

import dataclasses
import json
import runpy
import shutil

import jax
import numpy as np
import PIL.Image
import pytest

from eos_jax import files, main, models, ops, tasks
from eos_jax.models import fits, loading
from eos_jax.tasks import opening, search
from eos_jax.training import search_settings, settings
from tests import command
from tests.models import tiny_families

STEPS = 20


@pytest.fixture(scope="module")
def data(tmp_path_factory):
  """A file of instructions, with its pictures beside it."""
  return tiny_families.instructions(tmp_path_factory.mktemp("data"), 40)


def _short(family):
  """What a search of seconds changes, by dotted name."""
  found = {
    "data.text_length": 160,
    "data.answer_length": 4,
    "data.validation": 0.6,
    "data.test": 0.4,
    "budgets": (3.0,),
    "sites": ("decoder.0",),
    "start": "merge",
    "steps": STEPS,
    "batch": 8,
    "check_every": STEPS,
    "check_questions": 8,
    "check_batch": 8,
    "save_every": STEPS,
    "evaluation.questions": 8,
    "evaluation.batch": 8,
    "evaluation.presets": ("prune",),
  }
  return found | {
    f"data.{name}": value for name, value in tiny_families.ROOMS[family].items()
  }


def _config(family, model, data, **changes):
  path = command.ROOT / "configs" / "search.py"
  config = runpy.run_path(path)["get_config"]()
  config = config.to_dict()
  assert config.pop("task") == "search"
  named = {"model": str(model), "data.path": str(data)}
  for name, value in (_short(family) | named | changes).items():
    *groups, field = name.split(".")
    inner = config
    for group in groups:
      inner = inner[group]
    assert field in inner, name
    inner[field] = value
  return config


def _refusal(path, *given, **changes):
  with pytest.raises(main.EXPECTED) as error:
    tasks.run("search", _config(*given, **changes), path)
  return str(error.value)


def _check(folder, said):
  """What a finished search leaves and says."""
  text = (folder / "plans" / "3.json").read_text(encoding="utf-8")
  plan = ops.ReductionPlan.from_json(text)
  results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
  assert {r["name"] for r in results["results"]} == {"dense", "eos", "prune"}
  assert results["questions"]["accuracy"]["asked"] == 8
  assert (folder / "report.html").stat().st_size > 10_000
  lines = said.splitlines()
  (place,) = (
    place
    for place, line in enumerate(lines)
    if line.startswith(f"model {plan.model} of the family ")
  )
  assert lines[place + 1].startswith("parameters: ")
  assert "; a device holds " in lines[place + 2]
  assert lines[place + 3].endswith("; fits")
  rows = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
  rows = [json.loads(row) for row in rows]
  assert max(row["step"] for row in rows) == STEPS
  return results


@pytest.mark.full
def test_a_search_from_files(data, tmp_path, capsys):
  model = tiny_families.write("llava_1_5", tmp_path / "model")
  config = _config("llava_1_5", model, data)
  tasks.run("search", config, tmp_path / "out")
  results = _check(tmp_path / "out", capsys.readouterr().out)
  assert results["protocol"]["shares"] == {"validation": 0.6, "test": 0.4}
  # A second start finds all of it done, and says the same.
  tasks.run("search", config, tmp_path / "out")
  again = json.loads(
    (tmp_path / "out" / "results.json").read_text(encoding="utf-8")
  )
  assert again["results"] == results["results"]
  tasks.run("report", {"runs": ()}, tmp_path / "out")


@pytest.mark.full
def test_results_follow_instructions_and_images(data, tmp_path):
  """Changed test images are judged anew; other instructions are refused."""
  model = tiny_families.write("llava_1_5", tmp_path / "model")
  folder = tmp_path / "data"
  shutil.copytree(data.parent, folder)
  path = folder / data.name
  config = _config("llava_1_5", model, path)
  out = tmp_path / "out"
  tasks.run("search", config, out)
  before = (out / "evaluation.jsonl").read_text(encoding="utf-8")
  tasks.run("search", config, out)
  assert (out / "evaluation.jsonl").read_text(encoding="utf-8") == before
  job = settings.build(search_settings.SearchJob, config)
  (tested,) = opening.opened(job).questions.choose("test", count=0, seed=0)
  for item in tested.items:
    PIL.Image.new("RGB", (30, 20), "red").save(item.images[0])
  tasks.run("search", config, out)
  after = (out / "evaluation.jsonl").read_text(encoding="utf-8")
  assert after.startswith(before)
  assert after.count("\n") == 2 * before.count("\n")
  rows = json.loads(path.read_text(encoding="utf-8"))
  path.write_text(json.dumps(rows[::-1]), encoding="utf-8")
  with pytest.raises(main.EXPECTED, match="data: saved .*sha256"):
    tasks.run("search", config, out)


@pytest.mark.full
@pytest.mark.parametrize("family", tiny_families.FAMILIES)
def test_a_search_of_every_family_by_the_command_line(family, data, tmp_path):
  model = tiny_families.write(family, tmp_path / "model", shards=3)
  given = _short(family) | {"model": model, "data.path": data}
  args = [f"--config.{name}={_quoted(value)}" for name, value in given.items()]
  out = tmp_path / "out"
  done = command.run(out, *args, config="search")
  assert done.returncode == 0, done.stderr[-3000:]
  _check(out, done.stdout)


def _quoted(value):
  return repr(value) if isinstance(value, tuple) else str(value)


@pytest.mark.full
@pytest.mark.parametrize("mode", ["joint", "bilevel"])
def test_the_model_can_move_too(mode, data, tmp_path):
  model = tiny_families.write("llava_1_5", tmp_path / "model")
  shares = {"data.train": 0.4, "data.validation": 0.3, "data.test": 0.3}
  config = _config("llava_1_5", model, data, mode=mode, **shares)
  tasks.run("search", config, tmp_path / "out")
  results = json.loads(
    (tmp_path / "out" / "results.json").read_text(encoding="utf-8")
  )
  rows = {r["name"]: r for r in results["results"]}
  assert {"eos", "eos_plan_alone", "eos_weights_alone"} <= set(rows)
  # Every task can read the weights that belong to the plan.
  trained = models.load(str(tmp_path / "out" / "weights" / "3"))
  assert trained.fingerprint == rows["eos"]["weights"] != results["weights"]


@pytest.mark.full
def test_a_converted_folder_serves_too(data, tmp_path):
  model = tiny_families.write("llava_1_5", tmp_path / "model")
  tasks.run(
    "convert",
    {"model": str(model), "dtype": "", "mesh": (), "allow_outside": False},
    tmp_path / "converted",
  )
  found = []
  for folder in (model, tmp_path / "converted"):
    config = _config("llava_1_5", folder, data)
    out = tmp_path / f"out_{folder.name}"
    tasks.run("search", config, out)
    results = json.loads((out / "results.json").read_text(encoding="utf-8"))
    found.append((results["weights"], results["results"]))
  assert found[0] == found[1]


def test_what_is_wrong_with_files_is_told(data, tmp_path):
  model = tiny_families.write("llava_1_5", tmp_path / "model", shards=2)
  first, second = sorted(model.glob("model-*.safetensors"))
  whole = first.read_bytes()
  first.write_bytes(whole[: len(whole) // 2])
  moved = second.rename(tmp_path / "elsewhere")
  said = _refusal(tmp_path / "out", "llava_1_5", model, data)
  assert "config.model: weights in" in said
  assert f"{first.name} is truncated or damaged" in said
  assert f"{second.name} is missing" in said
  first.write_bytes(whole)
  moved.rename(second)

  path = model / "config.json"
  text = path.read_text(encoding="utf-8")
  config = json.loads(text)
  config["text_config"]["hidden_size"] = 64
  path.write_text(json.dumps(config), encoding="utf-8")
  said = _refusal(tmp_path / "out", "llava_1_5", model, data)
  assert "do not fit its config.json" in said and "expected (64, " in said
  path.write_text(text, encoding="utf-8")

  path = model / "tokenizer.json"
  text = path.read_text(encoding="utf-8")
  path.write_text(text.replace("<image>", "<picture>"), encoding="utf-8")
  said = _refusal(tmp_path / "out", "llava_1_5", model, data)
  assert "special tokens are missing, '<image>'" in said
  path.write_text(text, encoding="utf-8")

  said = _refusal(tmp_path / "out", "llava_1_5", model, tmp_path / "no.json")
  assert "config.data.path: " in said and "no.json cannot be read" in said
  assert not (tmp_path / "out").exists()  # nothing was begun


def test_settings_that_do_not_fit_the_family(data, tmp_path):
  out = tmp_path / "out"
  model = tiny_families.write("onevision", tmp_path / "onevision")
  given = ("onevision", model, data)
  said = _refusal(out, *given, **{"data.max_size": (56, 56)})
  assert "max_size is (56, 56)" in said and "have none: use ()" in said
  said = _refusal(out, *given, **{"data.text_length": 10})
  assert "tokens of text, but the text length is 10" in said
  said = _refusal(out, *given, mode="joint")
  assert "has no train split for mode='joint', only validation, test" in said
  assert "give config.data.train a share, such as 0.6" in said
  said = _refusal(out, *given, sites=("decoder.9",), batch=7)
  assert "config.sites has 'decoder.9'" in said
  assert "config.batch: batch size 7 cannot be cut" in said
  said = _refusal(out, *given, mesh=(3, 1, 1))
  assert "config.mesh: mesh shape" in said


def test_a_model_that_does_not_fit_is_refused_before_it_is_read(
  data, tmp_path, monkeypatch, capsys
):
  model = tiny_families.write("qwen2_vl", tmp_path / "model")
  room = fits.Room("TPU v5 lite", 2**15, 2**30)
  monkeypatch.setattr(fits, "room", lambda: room)
  monkeypatch.setattr(loading, "load", None)
  said = _refusal(tmp_path / "out", "qwen2_vl", model, data)
  assert "does not fit: each device needs" in said and "a batch" in said
  assert capsys.readouterr().out.rstrip().endswith("; does not fit")


@pytest.mark.slow
def test_weights_are_cut_over_a_mesh(data, tmp_path):
  model = tiny_families.write("smolvlm", tmp_path / "model")
  config = _config("smolvlm", model, data, mesh=(2, 4, 1))
  job = tasks.settings.build(tasks.TASKS["search"].settings, config)
  found = opening.opened(job)
  params = found.load({}).params
  embed = params["decoder"]["embed"]
  assert len({str(s.index) for s in embed.addressable_shards}) == 4
  assert dict(found.mesh.shape) == {"data": 2, "fsdp": 4, "tensor": 1}
  batch = next(search._stream(job, found, search._parts(job)))
  assert batch["image"].shape == (8, 10, 24, 24, 3)
  _, want = loading.load(model, dtype="float32")
  jax.tree.map(np.testing.assert_array_equal, params, want)


def test_a_search_depends_on_the_times_in_its_latency_table(data, tmp_path):
  path = tmp_path / "table.json"
  model = tiny_families.write("llava_1_5", tmp_path / "model")
  given = {"limits.latency": 0.5, "limits.latency_table": str(path)}
  config = _config("llava_1_5", model, data, **given)
  job = settings.build(search_settings.SearchJob, config)
  found = opening.opened(job)
  checks, _ = opening.fixed_sets(found, job)

  def searched_on(job):
    return search._searched_on(job, found, ("validation",), checks)

  seen = []
  for text in ("a", "b", "a"):
    path.write_text(text, encoding="utf-8")
    seen.append(searched_on(job))
  assert seen[0] == seen[2] != seen[1]
  assert seen[0]["sha256"] == found.questions.identity["sha256"]
  path.unlink()
  limits = dataclasses.replace(job.limits, latency=0.0)
  without = searched_on(dataclasses.replace(job, limits=limits))
  assert without == seen[0] | {"latency_table": files.digest("")}
