"""Damaged and odd files of tokenizers, processors and templates.

Whatever a file holds, loading and preparing a prompt end in a named ValueError,
or in arrays that are sound; nothing else is raised, and nothing hangs.
"""

import json
import random
import time

import numpy as np
import pytest

from eos_jax.data import processors
from tests import campaign
from tests.data.processors import samples

_SEED = 20_260_730
_FILES = (
  *("tokenizer.json", "tokenizer_config.json", "chat_template.json"),
  *("preprocessor_config.json", "processor_config.json", "config.json"),
  *("generation_config.json", "special_tokens_map.json"),
  "chat_template.jinja",
)
_SNIPPETS = (
  "{% for i in range(10 ** 6) %}{{ i }}{% endfor %}",
  "{{ messages.__class__ }}",
  "{% set x = 'a' * 10 ** 10 %}",
  "{% endfor %}",
  "{{ raise_exception(1) }}",
  "{% include 'x' %}",
  "{# ",
  "{{ [].x.y }}",
  "\x00\u2028",
  "<image>",
)


def _folder(path, draw):
  """A folder of a random family with all files."""
  name = draw.choice(samples.TINY)
  family = samples.FOLDERS[name][0]
  samples.write(name, path)
  ends = {"eos_token_id": [2, 3], "max_length": 20}
  (path / "generation_config.json").write_text(json.dumps(ends))
  tokens = {"eos_token": "</s>", "bos_token": {"content": "<s>"}}
  (path / "special_tokens_map.json").write_text(json.dumps(tokens))
  (path / "chat_template.jinja").write_text(samples.TEMPLATES[family])
  return path


def _damages(path, draw):
  """Damages one or two files; says which and how."""
  names = draw.sample(_FILES, draw.choice((1, 1, 1, 2)))
  return [_damage(path / name, draw) for name in names]


def _damage(file, draw):
  if file.suffix == ".jinja" and draw.random() < 0.5:
    text = file.read_text(encoding="utf-8")
    at, snippet = draw.randrange(len(text)), draw.choice(_SNIPPETS)
    file.write_text(text[:at] + snippet + text[at:], encoding="utf-8")
    return f"{file.name}: {snippet!r} at {at}"
  if file.suffix == ".jinja" or draw.random() < 0.3:
    how, data = campaign.damaged(file.read_bytes(), draw)
    file.write_bytes(data)
    return f"{file.name}: {how}"
  how, value = campaign.edited(json.loads(file.read_text()), draw)
  file.write_text(json.dumps(value))
  return f"{file.name}: {how}"


def _use(path, draw):
  """Loads the folder and prepares a prompt."""
  processor = processors.load(path)
  turns = samples.CONVERSATIONS[draw.choice(list(samples.CONVERSATIONS))]
  pictures = samples.pictures_of(turns)
  inputs = processor.prepare(turns, pictures, length=4000)
  assert np.isfinite(inputs.pictures.pixels).all()
  assert inputs.visual.sum() == inputs.pictures.tokens.sum() > -1
  assert inputs.ids.min() >= 0
  assert all(isinstance(i, int) for i in processor.end_ids("lmms_eval"))
  processor.text.decode(inputs.ids[inputs.mask].tolist())


def _campaign(tmp_path, draws, seed):
  counts = {"refused": 0, "read": 0}
  for number in range(draws):
    draw = random.Random(f"{seed}/{number}")
    path = _folder(tmp_path / f"{number}", draw)
    damages = _damages(path, draw)
    start = time.monotonic()
    try:
      _use(path, draw)
      counts["read"] += 1
    except ValueError as error:
      said = str(error)
      assert str(path) in said or said.startswith(("a picture of", "the ")), (
        number,
        damages,
        said,
      )
      assert len(said) < 2000, (number, damages, said[:300])
      counts["refused"] += 1
    except BaseException as error:
      raise AssertionError((number, damages)) from error
    assert time.monotonic() - start < 120, (number, damages)
  print(f"\n{draws} draws: {counts}")
  return counts


def test_a_few(tmp_path):
  counts = _campaign(tmp_path, 40, _SEED)
  assert min(counts.values()) > 3


@pytest.mark.full
@pytest.mark.slow
def test_many(tmp_path):
  counts = _campaign(tmp_path, 1500, _SEED + 1)
  assert min(counts.values()) > 100
