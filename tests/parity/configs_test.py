"""Defaults of configs and tied heads against transformers, recorded or live."""

import json
import subprocess

import numpy as np
import pytest

from eos_jax.models import families, loading
from tests.models import checkpoints, tiny_families
from tests.parity import configs

RECORDED = json.loads(configs.RECORD.read_text(encoding="utf-8"))
HEAD, EMBEDDING = "decoder.head.out.kernel", "decoder.embed"


@pytest.mark.parametrize("name", configs.sparse())
def test_defaults_are_those_of_the_config_classes(name):
  """The filled config states every field, so that no default of ours counts."""
  full = RECORDED["filled"][name]
  found = _described(configs.sparse()[name])
  assert found == _described(full)
  if isinstance(found, str):
    assert "a grid of (7, 7) patches has no whole squares of side" in found
    assert full["model_type"] in ("smolvlm", "idefics3")
    return
  text, vision = full["text_config"], full["vision_config"]
  rope = text["rope_parameters"]
  assert found.cfg.decoder.rope_theta == rope["rope_theta"]
  assert found.cfg.decoder.norm_eps == text["rms_norm_eps"]
  assert found.cfg.decoder.kv_heads == text["num_key_value_heads"]
  heads = vision.get("num_attention_heads", vision.get("num_heads"))
  assert found.cfg.vision.heads == heads
  assert found.cfg.decoder.tied == full["tie_word_embeddings"]


def _described(config):
  """What a config says, or why it is refused."""
  try:
    return families.describe(config)
  except ValueError as error:
    return str(error)


def _variant(folder, table, config, top, text, file):
  """Writes a checkpoint with flags and with some of head and embedding."""
  head, embedding = _names(table)
  changed = dict(table)
  if file == "same":
    changed[head] = changed[embedding]
  if file == "head":
    del changed[embedding]
  if file == "embedding":
    del changed[head]
  config = config | {"text_config": dict(config["text_config"])}
  for group, flag in ((config, top), (config["text_config"], text)):
    if flag is not None:
      group["tie_word_embeddings"] = flag
  return checkpoints.write(folder, changed, config)


def _names(table):
  """Names of head and embedding in a table of weights."""
  return [
    next(name for name in table if name.endswith(end))
    for end in ("lm_head.weight", "embed_tokens.weight")
  ]


def _outcome(folder):
  """Which of the two tensors serve as head and as embedding."""
  try:
    contents = loading.inspect(folder)
  except ValueError as error:
    assert "missing " in str(error)
    return "missing"
  source = {
    place.path: name
    for name, places in contents.places.items()
    for place in places
  }
  used = [source.get(HEAD, source[EMBEDDING]), source[EMBEDDING]]
  assert contents.description.cfg.decoder.tied == (HEAD not in source)
  return " ".join(
    "head" if name.endswith("lm_head.weight") else "embedding" for name in used
  )


@pytest.mark.slow
@pytest.mark.parametrize("kind", configs.KINDS)
def test_heads_come_from_where_transformers_takes_them(tmp_path, kind):
  config = configs.tiny()[kind]
  table = tiny_families.weights(families.describe(config))
  flags = {"None": None, "False": False, "True": True}
  for case, expected in RECORDED["heads"][kind].items():
    top, text, file = case.split()
    folder = tmp_path / "model"
    _variant(folder, table, config, flags[top], flags[text], file)
    if file == "same":
      # Equal values: whichever of the two names the tensor.
      expected, got = "head head", _outcome(folder).replace("embedding", "head")
    else:
      got = _outcome(folder)
    assert got == expected, case


def test_a_head_that_differs_is_read_and_one_tensor_serves_as_both(tmp_path):
  config = configs.tiny()["llava"] | {"tie_word_embeddings": True}
  table = tiny_families.weights(families.describe(configs.tiny()["llava"]))
  head, embedding = _names(table)
  for file in ("differ", "head", "embedding"):
    folder = _variant(tmp_path / file, table, config, None, None, file)
    found, params = loading.load(folder)
    decoder = params["decoder"]
    assert ("head" in decoder) == (file == "differ") != found.cfg.decoder.tied
    if file == "differ":
      np.testing.assert_array_equal(
        decoder["head"]["out"]["kernel"], table[head].T
      )
    want = table[head if file == "head" else embedding]
    np.testing.assert_array_equal(decoder["embed"], want)


@pytest.mark.full
def test_the_record_is_what_transformers_says_now():
  probe = "import torch, transformers"
  command = [configs.PYTHON, "-c", probe]
  found = subprocess.run(command, capture_output=True, text=True)
  if found.returncode:
    reason = found.stderr.strip().split("\n")[-1]
    pytest.skip(f"{configs.PYTHON}: {reason}; EOS_TORCH_PYTHON names another")
  assert configs.ask() == RECORDED
