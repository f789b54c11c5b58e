"""Every task with every model and every source of questions, as users run it.

A cell of the table is a command. It ends well, with the results that it
promises, or with one message that says why it cannot be.
"""

import fcntl
import json
import os

from PIL import Image
import pytest

from eos_jax import models, ops
from eos_jax.evaluation import results
from tests import command
from tests.data.benchmarks import minis
from tests.models import tiny_families

MODELS = (models.TINY, *tiny_families.FAMILIES)
SOURCES = ("suite", "instructions", "benchmarks", "function")
ASKING = ("search", "evaluate", "finetune")
OTHERS = ("answer", "timing", "compile", "convert", "pretrain")

# What cannot be: the end of the message.
_NO_SPLIT = (
  "config.data: benchmarks has no {} split for {}, only test; use the suite,"
  " instructions or a function"
)
REFUSED = {
  ("search", "benchmarks"): _NO_SPLIT.format("validation", "check_questions"),
  ("finetune", "benchmarks"): _NO_SPLIT.format("train", "fine-tuning"),
}
REFUSED_OTHERS = {
  ("convert", models.TINY): "config.model is 'tiny'",
  **{
    ("pretrain", family): "use one of tiny" for family in tiny_families.FAMILIES
  },
}

# A cell of every source, and those that cost little; the others are `full`.
SPREAD = {
  ("search", "qwen2_vl", "function"),
  ("evaluate", "smolvlm", "benchmarks"),
  ("finetune", "onevision", "suite"),
}
SPREAD_OTHERS = {("convert", models.TINY), ("pretrain", "qwen2_vl")}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
  """Models, plans and questions, which all workers share."""
  root = tmp_path_factory.getbasetemp()
  if "PYTEST_XDIST_WORKER" in os.environ:
    root = root.parent
  root /= "combinations"
  root.mkdir(exist_ok=True)
  with open(root / "lock", "w", encoding="utf-8") as lock:
    fcntl.flock(lock, fcntl.LOCK_EX)
    if not (root / "image.png").exists():  # which is written last
      _write(root)
  return root


def _write(root):
  for family in tiny_families.FAMILIES:
    tiny_families.write(family, root / family)
  tiny_families.instructions(root / "instructions", 40)
  minis.write("pope", root / "benchmarks" / "pope")
  for name in MODELS:
    cfg = models.open_files(_model(root, name)).with_shape(**_shape(name)).cfg
    plan = ops.ReductionPlan(
      "mine",
      cfg.name,
      cfg.tokens,
      cfg.decoder.layers,
      (ops.PlannedSite("decoder.0", 3, ops.presets.MERGE),),
    )
    (root / f"{name}.json").write_text(plan.to_json(), encoding="utf-8")
  Image.new("RGB", (60, 40), "red").save(root / "image.png")


def _model(root, name):
  return models.TINY if name == models.TINY else str(root / name)


def _room(name):
  """Settings of static shapes, without a prefix."""
  return tiny_families.ROOMS.get(name, {})


def _shape(name):
  return _room(name)


def _asking(task, name, source, root):
  """Overrides by field."""
  found = {
    "model": _model(root, name),
    "data.answer_length": 4,
    **{f"data.{field}": value for field, value in _room(name).items()},
  }
  found |= {
    "suite": {
      "data.suite": "tiny",
      "data.directory": root / "suite",
      # The tokenizers of tiny families write letters.
      "data.text_length": 0 if name == models.TINY else 256,
    },
    "instructions": {
      "data.path": root / "instructions" / "instructions.json",
      "data.train": 0.4,
      "data.validation": 0.3,
      "data.test": 0.3,
    },
    "benchmarks": {
      "data.path": root / "benchmarks",
      "data.names": ("pope",),
    },
    "function": {"data.source": "tests.tasks.own_questions:questions"},
  }[source]
  plan = str(root / f"{name}.json")
  if task == "evaluate":
    return found | {
      "plans": (plan,),
      "questions": 8,
      "batch": 8,
      "presets": (),
    }
  found |= {
    "steps": 4,
    "batch": 8,
    "check_every": 2,
    "check_questions": 8,
    "check_batch": 8,
    "save_every": 2,
    "evaluation.questions": 8,
    "evaluation.batch": 8,
  }
  if task == "finetune":
    return found | {"plan": plan, "warmup": 1}
  return found | {
    "budgets": (3.0,),
    "sites": ("decoder.0",),
    "start": "merge",
    "evaluation.presets": (),
  }


def _other(task, name, root):
  """The variant of the config, and overrides by field."""
  plan, folder = str(root / f"{name}.json"), _model(root, name)
  if task == "answer":
    return "", {
      "model": folder,
      "images": (str(root / "image.png"),),
      "question": "what color is the circle ?",
      "plans": (plan,),
      "answer_length": 4,
      "repeats": 2,
      **_room(name),
    }
  if task == "timing":
    measure = ("deploy", "latency")
    if name != models.TINY:
      measure += ("pictures",)
    found = {
      "models": (folder,),
      "measure": measure,
      "plans": (plan,),
      "presets": (),
      **_shape(name),
    }
    found.pop("max_images", None)
    return "ci", found
  if task == "compile":
    return "tiny", {
      "model": folder,
      "programs": ("search",),
      "text_length": 64,
      "search.batch": 4,
      "search.budgets": (3.0,),
      "search.sites": ("decoder.0",),
      "search.start": "merge",
      **_room(name),
    }
  if task == "convert" or name != models.TINY:
    return "ci" if task == "pretrain" else "", {"model": folder}
  return "ci", {"data.directory": root / "suite"}


def _run(task, variant, given, root, out):
  args = [
    f"--config.{field}={value!r}"
    if isinstance(value, tuple)
    else f"--config.{field}={value}"
    for field, value in given.items()
  ]
  config = f"{task}:{variant}" if variant else task
  return command.run(out, *args, config=config, cache=root / "cache")


def _check(done, refused):
  """Whether it ended as it should; False = with a message."""
  if refused:
    assert done.returncode == 1, done.stdout[-3000:]
    assert "Traceback" not in done.stderr, done.stderr[-3000:]
    assert refused in done.stderr
    return False
  assert done.returncode == 0, done.stderr[-3000:]
  return True


def _cells(rows, spread):
  """Cells as parameters, those outside of the spread marked `full`."""
  return [
    pytest.param(
      *cell,
      id="-".join(cell),
      marks=pytest.mark.slow if cell in spread else pytest.mark.full,
    )
    for cell in rows
  ]


@pytest.mark.parametrize(
  "task, name, source",
  _cells([(t, m, s) for t in ASKING for m in MODELS for s in SOURCES], SPREAD),
)
def test_a_task_that_asks(task, name, source, files, tmp_path):
  given = _asking(task, name, source, files)
  out = tmp_path / "out"
  done = _run(task, "", given, files, out)
  if not _check(done, REFUSED.get((task, source))):
    assert not out.exists()
    return
  facts, found = results.read(out / "results.json")
  names = [result.name for result in found]
  assert names[0] == "dense" and len(names) == 2 + 2 * (task == "finetune")
  score = "pope" if source == "benchmarks" else results.ACCURACY
  assert all(set(result.scores) == {score} for result in found)
  assert facts["questions"][score]["asked"] > 2
  assert (out / "report.html").is_file()
  if task == "search":
    text = (out / "plans" / "3.json").read_text(encoding="utf-8")
    assert ops.ReductionPlan.from_json(text).digest == found[1].plan
  if task == "finetune":
    suffix = ".safetensors" if name == models.TINY else ""
    trained = models.open_files(str(out / f"finetuned{suffix}"))
    assert trained.cfg.decoder == models.open_files(given["model"]).cfg.decoder


@pytest.mark.parametrize(
  "task, name",
  _cells([(t, m) for t in OTHERS for m in MODELS], SPREAD_OTHERS),
)
def test_a_task_without_a_source(task, name, files, tmp_path):
  if task == "compile":
    pytest.importorskip("libtpu")
  out = tmp_path / "out"
  done = _run(task, *_other(task, name, files), files, out)
  if not _check(done, REFUSED_OTHERS.get((task, name))):
    assert not out.exists()
    return
  if task == "answer":
    assert "mine" in (out / "answer.md").read_text(encoding="utf-8")
  if task == "timing":
    assert {"deploy.md", "latency.json"} <= {p.name for p in out.iterdir()}
  if task == "compile":
    text = (out / "compile.json").read_text(encoding="utf-8")
    assert not json.loads(text)["faults"]
  if task == "convert":
    assert (
      models.open_files(str(out)).cfg
      == models.open_files(str(files / name)).cfg
    )
  if task == "pretrain":
    assert models.load(str(out / "tiny.safetensors")).cfg
