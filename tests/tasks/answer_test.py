"""One question about images, answered densely and under plans."""

import re
import runpy

from PIL import Image
import pytest

from eos_jax import main, models, tasks
from eos_jax.tasks import common
from tests import command

_QUESTION = "is there a circle ?"


def _config(**changes):
  path = command.ROOT / "configs" / "answer.py"
  config = runpy.run_path(path)["get_config"]().to_dict()
  assert config.pop("task") == "answer"
  assert set(changes) <= set(config)
  return config | {"question": _QUESTION, "repeats": 1} | changes


def _refusal(path, **changes):
  with pytest.raises(main.EXPECTED) as error:
    tasks.run("answer", _config(**changes), path)
  return str(error.value)


@pytest.mark.slow
def test_a_question_is_answered_under_a_plan(tmp_path, capsys):
  image, file = tmp_path / "a.png", tmp_path / "16.json"
  Image.new("RGB", (60, 40), "red").save(image)
  plan = common.shipped_plan("tiny", 16)
  file.write_text(plan.to_json(), encoding="utf-8")
  out = tmp_path / "out"
  given = {"images": (str(image),), "plans": (str(file),), "answer_length": 6}
  tasks.run("answer", _config(**given), out)
  said = capsys.readouterr().out
  answer = models.load("tiny").answer(image, _QUESTION, plan, max_tokens=6)
  told = {
    name: next(line for line in said.splitlines() if line.startswith(name))
    for name in ("dense", plan.name)
  }
  assert re.split(" {2,}", told[plan.name])[2] == answer
  assert said.endswith(f"Look at {out}/: answer.html, answer.md\n")
  page = (out / "answer.html").read_text(encoding="utf-8")
  assert page.count("<svg") == 1 and "patches are kept" in page


def test_what_does_not_fit_is_listed(tmp_path):
  out = tmp_path / "out"
  assert _refusal(out, question="") == (
    "the config has faults:\n"
    "  config.images is empty; give image files,"
    " --config.images=\"('FILE',)\"\n"
    "  config.question is empty; give a text, --config.question=TEXT"
  )
  missing = str(tmp_path / "no.png")
  said = _refusal(out, images=(missing,), plans=(str(tmp_path / "no.json"),))
  assert f"config.plans: {tmp_path / 'no.json'} cannot be read" in said
  assert "config.images: " in said and missing in said
  assert "the model tiny reads one" in _refusal(out, images=(missing,) * 2)
  image = tmp_path / "a.png"
  Image.new("RGB", (60, 40), "red").save(image)
  said = _refusal(out, images=(str(image),), text_length=2)
  assert "config.images: " in said and "text_length" in said
  assert not out.exists()
