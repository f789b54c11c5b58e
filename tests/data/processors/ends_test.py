"""Which ids end an answer, by the files of a folder and the protocol."""

import json

import pytest

from eos_jax.data import processors
from tests.data.processors import samples


@pytest.fixture
def folder(tmp_path):
  return samples.write("tiny_llava", tmp_path)


def _write(path, file, **changes):
  file = path / file
  values = json.loads(file.read_text()) if file.exists() else {}
  file.write_text(json.dumps(values | changes))


def test_the_first_place_that_names_ids_counts(folder):
  end = processors.load(folder).text.inner.token_to_id("</s>")
  ends = lambda: processors.load(folder).end_ids()
  assert ends() == (end,)  # nothing names one: that of the family
  _write(folder, "tokenizer_config.json", eos_token="<unk>")
  assert ends() == (0,)
  _write(folder, "config.json", text_config={"eos_token_id": [9, 8]})
  assert ends() == (9, 8)
  _write(folder, "config.json", eos_token_id=7)
  assert ends() == (7,)
  _write(folder, "generation_config.json", max_length=5)
  assert ends() == (7,)
  _write(folder, "generation_config.json", eos_token_id=[6, 5, 6])
  assert ends() == (6, 5)


def test_ids_by_protocol(folder):
  """LLaVA's scripts call `generate`; lmms-eval hands it the tokenizer's."""
  _write(folder, "generation_config.json", eos_token_id=[6, 5])
  _write(folder, "tokenizer_config.json", eos_token={"content": "</s>"})
  processor = processors.load(folder)
  assert processor.end_ids("llava") == processor.end_ids() == (6, 5)
  assert processor.end_ids("lmms_eval") == (2, 6, 5)
  _write(folder, "generation_config.json", eos_token_id=[5, 2])
  assert processors.load(folder).end_ids("lmms_eval") == (2, 5)


@pytest.mark.parametrize(
  "value", ["2", True, 2.0, [], [2, "3"], -1, {"a": 2}, [2, 320]]
)
def test_what_is_no_id(value, folder):
  _write(folder, "config.json", text_config={"vocab_size": 320})
  _write(folder, "generation_config.json", eos_token_id=value)
  with pytest.raises(ValueError) as error:
    processors.load(folder)
  assert str(error.value) == (
    f"{folder / 'generation_config.json'}: eos_token_id is"
    f" {json.dumps(value)}; expected an id below 320, or a list of some;"
    " correct the file"
  )
