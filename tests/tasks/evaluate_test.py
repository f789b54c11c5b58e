"""Models on benchmarks, instructions and the suite, from files on disk."""

import json
import runpy
import shutil
import signal
import subprocess
import time

import jax
import jax.numpy as jnp
import pytest

from eos_jax import main, models, ops, tasks
from eos_jax.data import benchmarks
from eos_jax.data.benchmarks import source
from eos_jax.evaluation import evaluator, metrics
from eos_jax.evaluation.scoring import benchmarks as scoring
from eos_jax.tasks import common, evaluate, opening
from eos_jax.training import evaluate_settings, settings
from tests import command
from tests.data.benchmarks import minis
from tests.data.processors import templates
from tests.models import small, tiny_families


@pytest.fixture(scope="module")
def files(tmp_path_factory):
  """A tiny LLaVA-1.5, all benchmarks in small, and a plan."""
  root = tmp_path_factory.mktemp("files")
  model = tiny_families.write("llava_1_5", root / "model")
  for name in minis.WRITERS:
    minis.write(name, root / "benchmarks" / name)
  plan = ops.ReductionPlan(
    "mine",
    models.open_files(str(model)).cfg.name,
    16,
    3,
    (ops.PlannedSite("decoder.1", 5, ops.presets.MERGE),),
  )
  (root / "mine.json").write_text(plan.to_json(), encoding="utf-8")
  return {
    "model": model,
    "data.path": root / "benchmarks",
    "plans": (str(root / "mine.json"),),
  }


def _config(files, **changes):
  path = command.ROOT / "configs" / "evaluate.py"
  config = runpy.run_path(path)["get_config"]().to_dict()
  assert config.pop("task") == "evaluate"
  given = files | {"data.answer_length": 3, "batch": 8}
  for name, value in (given | changes).items():
    *groups, field = name.split(".")
    inner = config
    for group in groups:
      inner = inner[group]
    assert field in inner, name
    inner[field] = value if isinstance(value, tuple | int) else str(value)
  return config


def _run(files, out, **changes):
  tasks.run("evaluate", _config(files, **changes), out)
  text = (out / "results.json").read_text(encoding="utf-8")
  return json.loads(text)


@pytest.mark.full
def test_two_benchmarks_under_a_plan(files, tmp_path, capsys, monkeypatch):
  names = {"data.names": ("chartqa", "scienceqa")}
  out = tmp_path / "out"
  results = _run(files, out, **names)
  lines = {line["name"]: line for line in results["results"]}
  # Always beside plans, at their budgets.
  assert list(lines) == [
    *("dense", "mine"),
    *("random@8.67", "grid@8.67", "pool@8.67"),
  ]
  assert lines["mine"]["layer_average"] == pytest.approx((16 + 5 + 5) / 3)
  assert lines["grid@8.67"]["final"] == 8
  said = capsys.readouterr().out
  assert (
    "There are none to compare with: those here are of LLaVA-1.5-7B" in said
  )
  assert "images were read while the model answered" in said
  assert "scienceqa is not in it: a model without the image" in said
  assert "scienceqa: 2 questions, 1 left out: it has no picture" in said
  # The scores are those of the answers that were written down.
  folder = files["data.path"] / "chartqa"
  samples = benchmarks.read("chartqa", folder, "lmms_eval").samples
  path = out / "predictions" / "mine" / "chartqa.jsonl"
  told = [
    answer
    for line in path.read_text(encoding="utf-8").splitlines()
    for answer in json.loads(line)["answers"]
  ]
  assert [answer["id"] for answer in told] == [sample.id for sample in samples]
  pairs = list(zip(samples, (answer["text"] for answer in told), strict=True))
  score = scoring.SCORES["chartqa"](pairs, "lmms_eval")
  assert lines["mine"]["scores"]["chartqa"]["value"] == score.value
  # The report is made anew from the files.
  shown = ("report.html", "table.md", "table.csv", "table.txt")
  before = {name: (out / name).read_bytes() for name in shown}
  for name in shown:
    (out / name).unlink()
  tasks.run("report", {"runs": ()}, out)
  assert before == {name: (out / name).read_bytes() for name in shown}
  capsys.readouterr()
  # What is known is not asked again.
  monkeypatch.setattr(evaluator.Evaluator, "told", None)
  assert _run(files, out, **names) == results
  assert "All answers were there already." in capsys.readouterr().out


@pytest.mark.full
def test_budgets_and_operators_that_are_asked_for(files, tmp_path):
  names = {"data.names": ("chartqa",), "plans": (), "data.count": 1}
  results = _run(
    files, tmp_path / "out", **names, budgets=(4.0,), presets=("tome", "grid")
  )
  found = [line["name"] for line in results["results"]]
  assert found == ["dense", "tome@4", "grid@4"]
  assert results["questions"]["chartqa"]["asked"] == 1


@pytest.mark.full
def test_instructions_are_asked_too(files, tmp_path, capsys):
  path = tiny_families.instructions(tmp_path / "data", 40)
  given = {"data.path": path, "questions": 3, "plans": ()}
  out = tmp_path / "out"
  results = _run(files, out, **given)
  assert "data: instructions in " in capsys.readouterr().out
  (dense,) = results["results"]
  text = (out / "predictions" / "dense" / "instructions.jsonl").read_text()
  answers = json.loads(text)["answers"]
  assert len(answers) == results["questions"]["accuracy"]["asked"] == 3
  right = [["One.", "two"][int(answer["id"]) % 2] for answer in answers]
  same = metrics.exact_match([answer["text"] for answer in answers], right)
  value = dense["scores"]["accuracy"]["value"]
  assert value == pytest.approx(sum(same) / 3)


@pytest.mark.full
def test_bfloat16_is_computed_with_throughout(files, tmp_path):
  names = {"data.names": ("chartqa",), "dtype": "bfloat16"}
  results = _run(files, tmp_path / "out", **names)
  assert len(results["results"]) == 5
  # The dtype of the parameters decides, whatever pictures come in.
  cfg = small.config()
  params = jax.tree.map(
    lambda leaf: leaf.astype(jnp.bfloat16), small.params(cfg)
  )
  see = lambda params, image: models.see(cfg, params, image).visual
  visual = jax.eval_shape(see, params, small.pictures(2))
  assert visual.dtype == jnp.bfloat16


@pytest.mark.slow
def test_a_judge_may_come_later(files, tmp_path):
  out = tmp_path / "out"
  names = {"data.names": ("mmvet",), "plans": ()}
  assert _run(files, out, **names)["results"][0]["scores"] == {}
  path = out / "submissions" / "dense" / "mmvet_marks.json"
  path.write_text('{"v1_0": {"score": [0.5]}}', encoding="utf-8")
  with pytest.raises(main.EXPECTED, match="the mark of 'v1_1' is None"):
    _run(files, out, **names)
  path.write_text('{"v1_0": {"score": [0.5]}, "v1_1": 1.0}', encoding="utf-8")
  score = _run(files, out, **names)["results"][0]["scores"]["mmvet"]
  assert score["value"] == pytest.approx(75)


@pytest.mark.slow
def test_hidden_answers_are_handed_in(files, tmp_path, capsys):
  root = tmp_path / "benchmarks"
  minis.vqav2_test(root / "vqav2")
  out = tmp_path / "out"
  names = {"data.names": ("vqav2",), "plans": (), "data.path": root}
  assert _run(files, out, **names)["results"][0]["scores"] == {}
  assert (
    "vqav2: the right answers are not here; hand" in capsys.readouterr().out
  )
  text = (out / "submissions" / "dense" / "vqav2.json").read_text("utf-8")
  assert [row["question_id"] for row in json.loads(text)] == [70, 71]


@pytest.mark.parametrize(
  "name, count, kept", [("mme", 3, 4), ("mmbench", 1, 2), ("pope", 3, 3)]
)
def test_the_first_questions_stay_whole(name, count, kept, tmp_path):
  samples = benchmarks.read(name, minis.write(name, tmp_path), "llava").samples
  found = source.first(name, samples, count)
  assert len(found) == kept
  score = scoring.SCORES[name]([(s, s.answers[0]) for s in found], "llava")
  assert score.value > 0


def _checked(files, model, **changes):
  """What is known of a job before weights are read."""
  changed = files | {"model": model, "data.names": ("pope",), "plans": ()}
  config = _config(changed, **changes)
  job = settings.build(evaluate_settings.EvaluateJob, config)
  evaluate.check(job)
  (asked,) = opening.opened(job).questions.choose("test")
  return asked


def test_ends_of_answers_are_those_of_the_folder(files, tmp_path):
  model = tmp_path / "model"
  shutil.copytree(files["model"], model)
  (model / "generation_config.json").write_text('{"eos_token_id": [9, 7]}')
  path = model / "tokenizer_config.json"
  tokens = json.loads(path.read_text()) | {"eos_token": "</s>"}
  path.write_text(json.dumps(tokens))
  for protocol, expected in (("llava", (9, 7)), ("lmms_eval", (2, 9, 7))):
    found = _checked(files, model, **{"data.protocol": protocol})
    assert found.stop == expected
    asked = next(found.batches(2))
    assert asked["tokens"].shape == (2, found.text_length)


def test_a_template_without_images_is_named_before_weights(files, tmp_path):
  """It is not reported as a token that is missing."""
  model = tmp_path / "model"
  shutil.copytree(files["model"], model)
  template = templates.OTHERS["llava_text_only"][1]
  (model / "chat_template.jinja").write_text(template)
  for style in ("", "vicuna"):
    with pytest.raises(main.EXPECTED) as error:
      _checked(files, model, **{"data.style": style})
    said = str(error.value)
    assert f"config.model: {model}: the chat template cannot" in said
    assert "and cannot place images" in said and "</s>" not in said


@pytest.mark.slow
def test_answers_follow_rows_and_images(files, tmp_path, capsys):
  """What changed since an answer was given is asked anew, as in a fresh run."""
  root = tmp_path / "benchmarks"
  folder = minis.write("chartqa", root / "chartqa")
  given = {"data.names": ("chartqa",), "data.path": root, "plans": ()}
  name = "predictions/dense/chartqa.jsonl"

  def answers(out):
    results = _run(files, out, **given)["results"]
    lines = (out / name).read_text(encoding="utf-8").splitlines()
    return results, lines

  before = answers(tmp_path / "out")
  path = folder / "test_human.json"
  rows = json.loads(path.read_text(encoding="utf-8"))
  path.write_text(json.dumps(rows[::-1]), encoding="utf-8")
  (folder / "png" / "2.png").write_bytes(minis.encoded(5))
  capsys.readouterr()
  after = answers(tmp_path / "out")
  said = capsys.readouterr().out
  assert f"note: {len(before[1])} batches in " in said and "already" not in said
  fresh = answers(tmp_path / "fresh")
  assert after == (fresh[0], before[1] + fresh[1])
  assert answers(tmp_path / "out") == after
  assert "All answers were there already." in capsys.readouterr().out


@pytest.mark.full
def test_other_tokenizers_and_processors_answer_anew(files, tmp_path, capsys):
  model = tmp_path / "model"
  shutil.copytree(files["model"], model)
  out = tmp_path / "out"
  given = {"data.names": ("mmvet",), "plans": (), "model": model}
  _run(files, out, **given)
  answers = out / "predictions" / "dense" / "mmvet.jsonl"
  before = answers.read_text(encoding="utf-8")
  for file, change in (
    ("tokenizer.json", {"truncation": None, "padding": None}),
    ("preprocessor_config.json", {"image_mean": [0.5, 0.5, 0.25]}),
  ):
    path = model / file
    text = path.read_text(encoding="utf-8")
    value = json.loads(text) | change
    if file == "tokenizer.json":
      value["added_tokens"][-1]["special"] ^= True
    path.write_text(json.dumps(value), encoding="utf-8")
    capsys.readouterr()
    _run(files, out, **given)
    assert "of another model or other settings" in capsys.readouterr().out
    after = answers.read_text(encoding="utf-8")
    assert after.startswith(before) and after != before
    path.write_text(text, encoding="utf-8")
    before = after
  _run(files, out, **given)
  assert "All answers were there already." in capsys.readouterr().out


@pytest.mark.full
def test_marks_of_other_answers_are_put_aside(files, tmp_path, capsys):
  out = tmp_path / "out"
  names = {"data.names": ("mmvet",), "plans": ()}
  _run(files, out, **names)
  folder = out / "submissions" / "dense"
  marks = folder / "mmvet_marks.json"
  marks.write_text('{"v1_0": 1.0, "v1_1": 1.0}', encoding="utf-8")
  path = folder / "mmvet.json"
  text = path.read_text(encoding="utf-8")
  path.write_text('{"v1_0": "others", "v1_1": "others"}', encoding="utf-8")
  capsys.readouterr()
  assert _run(files, out, **names)["results"][0]["scores"] == {}
  assert "has marks of answers that have changed" in capsys.readouterr().out
  assert path.read_text(encoding="utf-8") == text and not marks.exists()


def test_names_of_plans_are_no_paths(files, tmp_path):
  path = tmp_path / "plan.json"
  config = _config(files, **{"data.names": ("mme",), "plans": (str(path),)})
  job = settings.build(evaluate_settings.EvaluateJob, config)
  cfg = models.open_files(job.model).cfg
  with open(files["plans"][0], encoding="utf-8") as file:
    plan = json.load(file)
  for name in ("../../x", "/x", "a/b", ".", "x" * 300, "\ud83d", "a\nb", ""):
    path.write_text(json.dumps(plan | {"name": name}), encoding="utf-8")
    with pytest.raises(main.EXPECTED, match="name"):
      common.candidates(cfg, job)
    with pytest.raises(ValueError, match="a plan's name is"):
      evaluate._of_plan(tmp_path, "predictions", name)


@pytest.mark.full
def test_files_that_are_named(files, tmp_path, capsys):
  root = tmp_path / "benchmarks"
  folder = minis.write("gqa", root / "gqa")
  path = folder / "testdev_balanced_questions.json"
  shutil.copy(path, folder / "val_balanced_questions.json")
  given = {"data.names": ("gqa",), "data.path": root, "plans": ()}
  for entry in ("gqa", "gqa=../x.json", "pope=x.json", "gqa=/x"):
    with pytest.raises(main.EXPECTED, match="files has .* BENCHMARK=FILE"):
      _run(files, tmp_path / "out", **given, **{"data.files": (entry,)})
  chosen = ("gqa=val_balanced_questions.json",)
  results = _run(files, tmp_path / "out", **given, **{"data.files": chosen})
  assert results["questions"]["gqa"]["files"] == [
    "questions from val_balanced_questions.json",
    "not read: testdev_balanced_questions.json",
  ]
  said = capsys.readouterr().out
  assert "questions from val_balanced_questions.json, not read: test" in said
  text = (tmp_path / "out" / "table.md").read_text(encoding="utf-8")
  assert "questions from val_balanced_questions.json, not read: test" in text


def test_what_does_not_fit_is_told_at_once(files, tmp_path):
  with pytest.raises(main.EXPECTED) as error:
    _run(
      files,
      tmp_path / "out",
      **{"data.names": ("pope", "seed"), "data.path": tmp_path},
      batch=7,
    )
  said = str(error.value)
  assert "config.data.path: pope: " in said and "coco_pope_*.json" in said
  assert "seed: " in said
  assert "config.batch: batch size 7" in said
  with pytest.raises(main.EXPECTED, match="names has 'popes'; did you mean"):
    _run(files, tmp_path / "out", **{"data.names": ("popes",)})
  assert not (tmp_path / "out").exists()


@pytest.mark.full
@pytest.mark.parametrize("protocol", benchmarks.prompts.PROTOCOLS)
def test_every_benchmark_by_the_command_line(protocol, files, tmp_path):
  names = tuple(minis.WRITERS)
  args = [
    f"--config.{name}={value!r}"
    if isinstance(value, tuple)
    else f"--config.{name}={value}"
    for name, value in {
      **files,
      "budgets": (8.0,),
      "data.answer_length": 3,
      "data.names": names,
      "data.protocol": protocol,
    }.items()
  ]
  out = tmp_path / "out"
  done = command.run(out, *args, config="evaluate")
  assert done.returncode == 0, done.stderr[-3000:]
  text = (out / "results.json").read_text(encoding="utf-8")
  for line in json.loads(text)["results"]:
    assert set(line["scores"]) == set(names) - {"mmvet"}
  made = {path.stem for path in (out / "submissions" / "mine").iterdir()}
  assert made == {
    *("vqav2", "textvqa", "textvqa_ocr", "gqa", "seed", "mmvet"),
    *("mme", "mmbench", "pope_random", "pope_popular", "pope_adversarial"),
  }


@pytest.mark.full
def test_several_devices_answer_as_one(files, tmp_path):
  args = [
    f"--config.model={files['model']}",
    f"--config.data.path={files['data.path']}",
    f"--config.plans={files['plans']!r}",
    "--config.data.names=('chartqa','mme')",
    "--config.data.answer_length=3",
  ]
  told = {}
  for mesh, devices in (("(1,1,1)", 1), ("(2,2,1)", 4), ("(2,1,2)", 4)):
    out = tmp_path / mesh
    done = command.run(
      out,
      *args,
      f"--config.mesh={mesh}",
      config="evaluate",
      devices=devices,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    for path in sorted((out / "predictions").rglob("*.jsonl")):
      told.setdefault(path.relative_to(out), []).append(path.read_bytes())
  assert len(told) == 5 * 2
  for one, *others in told.values():
    assert [one] * 2 == others


@pytest.mark.full
def test_one_that_is_killed_goes_on(files, tmp_path):
  root = tmp_path / "many"
  minis.write("chartqa", root / "chartqa")
  rows = [
    {"imgname": "1.png", "query": f"How many {n}?", "label": str(n)}
    for n in range(400)
  ]
  path = root / "chartqa" / "test_human.json"
  path.write_text(json.dumps(rows), encoding="utf-8")
  args = [
    f"--config.model={files['model']}",
    f"--config.data.path={root}",
    "--config.data.names=('chartqa',)",
    "--config.data.answer_length=3",
    "--config.batch=4",
  ]
  whole = tmp_path / "whole"
  config = "evaluate"
  done = command.run(whole, *args, config=config)
  assert done.returncode == 0, done.stderr[-3000:]
  out = tmp_path / "out"
  made = command.options(out, *args, config=config)
  file = out / "predictions" / "dense" / "chartqa.jsonl"
  process = subprocess.Popen(**made, stdout=subprocess.DEVNULL)
  while process.poll() is None and (
    not file.exists() or file.read_text(encoding="utf-8").count("\n") < 5
  ):
    time.sleep(0.002)
  process.send_signal(signal.SIGKILL)
  process.wait()
  before = file.read_text(encoding="utf-8")
  before = before[: before.rindex("\n")].splitlines()  # whole batches
  assert 5 <= len(before) < 101
  done = command.run(out, *args, config=config)
  assert done.returncode == 0, done.stderr[-3000:]
  after = file.read_text(encoding="utf-8").splitlines()
  assert after[: len(before)] == before
  same = whole / "predictions" / "dense" / "chartqa.jsonl"
  assert after == same.read_text(encoding="utf-8").splitlines()
  results = [
    (folder / "results.json").read_text(encoding="utf-8")
    for folder in (whole, out)
  ]
  assert results[0] == results[1]
