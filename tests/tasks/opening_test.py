"""What runs depend on: a checkpoint of other facts is refused on resume."""

import json
import runpy

from eos_jax.tasks import opening
from eos_jax.training import finetune_settings, settings
from tests import command
from tests.models import tiny_families


def _depends(folder, data):
  """What a fine-tuning of a folder on instructions depends on."""
  path = command.ROOT / "configs" / "finetune.py"
  config = runpy.run_path(path)["get_config"]().to_dict()
  del config["task"]
  config |= {"model": str(folder), "plan": "not read", "check_questions": 4}
  config["data"] |= {"path": str(data), "answer_length": 4, "train": 0.4}
  config["data"] |= {"validation": 0.3, "test": 0.3, "text_length": 160}
  config["evaluation"] |= {"questions": 4}
  opening.forget()
  job = settings.build(finetune_settings.FinetuneJob, config)
  found = opening.opened(job)
  checks, _ = opening.fixed_sets(found, job.for_model(found.cfg))
  return opening.depends(found, ["train"], checks)


def test_training_depends_on_all_that_makes_its_rows(tmp_path):
  folder = tiny_families.write("llava_1_5", tmp_path / "model")
  data = tiny_families.instructions(tmp_path / "data", 20)
  before = _depends(folder, data)
  assert _depends(folder, data) == before

  def special(value):
    value["added_tokens"][-1]["special"] ^= True

  for name, change, changed in (
    ("tokenizer.json", special, "rows"),
    (
      "preprocessor_config.json",
      lambda value: value.update(image_mean=[0.5, 0.5, 0.25]),
      "rows",
    ),
    (
      "config.json",
      lambda value: value["text_config"].update(rms_norm_eps=0.125),
      "model",
    ),
  ):
    path = folder / name
    text = path.read_text(encoding="utf-8")
    value = json.loads(text)
    change(value)
    path.write_text(json.dumps(value), encoding="utf-8")
    after = _depends(folder, data)
    assert after[changed] != before[changed], name
    path.write_text(text, encoding="utf-8")
  assert _depends(folder, data) == before
  # Images of training too, even where their names and sizes stay.
  for image in data.parent.rglob("*.png"):
    pixels = bytearray(image.read_bytes())
    pixels[len(pixels) // 2] ^= 1
    image.write_bytes(pixels)
  assert _depends(folder, data)["images"] != before["images"]
