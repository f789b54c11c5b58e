"""Tokenizers of model folders: their special tokens, ids and damage."""

import json

import pytest

from eos_jax.data import processors
from tests.data.processors import refusals, samples

_QUESTION = [{"role": "user", "content": [{"type": "image"}]}]


def test_tokenizers_without_the_image_token(write):
  path = write("tiny_llava")
  other = samples.tokenizer("qwen2_vl")
  other.save(str(path / "tokenizer.json"))
  assert refusals.of(path) == (
    f"{path / 'tokenizer.json'}: special tokens are missing, '<image>' and 0"
    f" more, among {other.get_vocab_size()} tokens; expected the tokenizer of"
    " the vision-language model, not of its language model alone; take the one"
    " next to the weights"
  )
  samples.tokenizer("smolvlm").save(str(path / "tokenizer.json"))
  samples.edit(path, "config.json", image_token_index=32000)
  assert "'<image>' is 4; expected 32000, by image_token_index" in (
    refusals.of(path)
  )


def test_tokenizers_without_the_other_special_tokens(write):
  """Names of rows would fall into letters that no model was trained on."""
  path = write("tiny_smolvlm")
  file = path / "tokenizer.json"
  whole = file.read_text()
  file.write_text(whole.replace("<row_2_col_2>", "<row_2_col_x>"))
  processor = processors.load(path)
  with pytest.raises(ValueError) as error:
    processor.prepare(_QUESTION, [samples.picture(20, 50)])
  assert str(error.value) == (
    f"{path}: a picture has 2 x 3 tiles, but the tokenizer has no token"
    " '<row_2_col_2>'; give a smaller picture, or lower size.longest_edge"
  )
  file.write_text(whole.replace("<global-img>", "<global>"))
  assert "special tokens are missing, '<global-img>' and 0 more" in (
    refusals.of(path)
  )
  path = write("tiny_llava")
  samples.edit(path, "processor_config.json", image_token="<picture>")
  assert refusals.of(path) == (
    f'{path / "processor_config.json"}: image_token is "<picture>"; expected'
    ' the family\'s "<image>"; rename it there and in tokenizer.json'
  )


def test_texts_begin_once(write):
  path = write("tiny_llava")
  plain = processors.load(path).text
  ids = plain.encode("the")
  assert ids[0] == plain.inner.token_to_id("<s>") and len(ids) == 2
  assert plain.encode("<s>the") == ids
  # As in transformers 5, the post-processor alone says what is added.
  for given in (True, False):
    samples.edit(path, "tokenizer_config.json", add_bos_token=given)
    assert processors.load(path).text.encode("the") == ids
  samples.edit(path, "tokenizer.json", post_processor=None)
  for given in (True, False):
    samples.edit(path, "tokenizer_config.json", add_bos_token=given)
    text = processors.load(path).text
    assert text.encode("the") == ids[1:] and text.encode("<s>the") == ids


@pytest.mark.parametrize("name", samples.FAMILIES)
def test_truncation_and_padding_of_the_file_are_switched_off(name, write):
  path = write(f"tiny_{name}")
  picture, turns = samples.picture(20, 50), samples.CONVERSATIONS["question"]
  plain = processors.load(path).prepare(turns, [picture])
  truncation = {
    "direction": "Right",
    "max_length": 24,
    "strategy": "LongestFirst",
    "stride": 0,
  }
  padding = {
    "strategy": {"Fixed": 400},
    "direction": "Left",
    "pad_to_multiple_of": None,
    "pad_id": 0,
    "pad_type_id": 0,
    "pad_token": "<pad>",
  }
  assert len(plain.ids) not in (24, 400)
  for changes in (
    {"truncation": truncation},
    {"padding": padding},
    {"truncation": truncation, "padding": padding},
  ):
    samples.edit(path, "tokenizer.json", truncation=None, padding=None)
    samples.edit(path, "tokenizer.json", **changes)
    processor = processors.load(path)
    inputs = processor.prepare(turns, [picture])
    assert inputs.ids.tolist() == plain.ids.tolist()
    assert processor.text.encode("the") == processors.load(path).text.encode(
      "the"
    )


def test_ids_without_a_row(write):
  """Checkpoints pad the vocabulary: more rows than tokens are fine."""
  path = write("tiny_llava")
  inner = processors.load(path).text.inner
  count = inner.get_vocab_size()
  for rows in (count, count + 64):
    samples.edit(path, "config.json", text_config={"vocab_size": rows})
    assert processors.load(path).text.image_id == inner.token_to_id("<image>")
  samples.edit(path, "config.json", text_config={"vocab_size": count - 2})
  names = {inner.token_to_id(t): t for t in inner.get_vocab()}
  assert refusals.of(path) == (
    f"{path / 'tokenizer.json'}: the ids of the tokens"
    f" {names[count - 2]!r} ({count - 2}), {names[count - 1]!r} ({count - 1})"
    f" have no row in the embedding; expected ids below {count - 2},"
    f" the vocabulary by vocab_size of {path / 'config.json'}; take tokenizer"
    " and weights from one model, or resize the embedding"
  )
  samples.edit(path, "config.json", text_config={"vocab_size": 3})
  assert f" and {count - 8} more have no row" in refusals.of(path)
  # Qwen2-VL's older files have the language model's fields at the top.
  path = write("tiny_qwen2_vl")
  samples.edit(path, "config.json", vocab_size=9)
  assert "expected ids below 9, the vocabulary" in refusals.of(path)


def test_added_tokens_are_those_of_the_tokenizer(write):
  path = write("tiny_llava")
  inner = processors.load(path).text.inner
  index = inner.token_to_id("<pad>")
  added = {str(index): {"content": "<pad>", "special": True}}
  samples.edit(path, "tokenizer_config.json", added_tokens_decoder=added)
  processors.load(path)
  added = {"7": {"content": "<pad>", "special": True}}
  samples.edit(path, "tokenizer_config.json", added_tokens_decoder=added)
  assert refusals.of(path) == (
    f"{path / 'tokenizer.json'}: the token '<pad>' is {index}; expected 7, by"
    f" {path / 'tokenizer_config.json'}; take both files from one model"
  )


def test_added_tokens_that_only_other_files_have(write):
  """The ids are those of transformers 5.24."""
  path = write("tiny_llava")
  count = processors.load(path).text.inner.get_vocab_size()
  assert count == 264
  added = {"265": {"content": "<extra>"}, "264": {"content": "<other>"}}
  added["265"] |= {"special": True, "normalized": False}
  samples.edit(path, "tokenizer_config.json", added_tokens_decoder=added)
  text = processors.load(path).text
  ids = text.encode("the <extra> a<other>")
  assert ids == [1, 263, 225, 265, 225, 69, 264]
  assert text.decode(ids) == "the  a<other>"
  samples.edit(path, "config.json", text_config={"vocab_size": 265})
  assert "the ids of the tokens '<extra>' (265) have no row" in (
    refusals.of(path)
  )
  # Older folders have a file of their own for them.
  path = write("llava")
  samples.edit(path, "added_tokens.json", **{"<extra>": 264})
  ids = processors.load(path).text.encode("the <extra> a")
  assert ids == [1, 263, 225, 264, 225, 69]
  samples.edit(path, "added_tokens.json", **{"<extra>": 300})
  assert "the token '<extra>' is 264; expected 300, by" in refusals.of(path)


@pytest.mark.parametrize("value", [7, True, ["<s>"], {"text": "<s>"}])
@pytest.mark.parametrize("name", ["bos_token", "pad_token", "eos_token"])
def test_special_tokens_of_the_wrong_type(name, value, write):
  path = write("tiny_llava")
  samples.edit(path, "tokenizer_config.json", **{name: value})
  assert refusals.of(path) == (
    f"{path / 'tokenizer_config.json'}: {name} is {json.dumps(value)};"
    " expected a token: text, or {content: text}; correct the file"
  )
  samples.edit(path, "tokenizer_config.json", **{name: {"content": "<s>"}})
  assert processors.load(path).tokens[name] == "<s>"


def test_damage_that_shows_when_a_text_is_read(write):
  path = write("tiny_llava")
  values = json.loads((path / "tokenizer.json").read_text())
  values["post_processor"]["special_tokens"] = {}
  (path / "tokenizer.json").write_text(json.dumps(values))
  assert f"{path / 'tokenizer.json'} is damaged (" in refusals.of(path)
  values["model"]["continuing_subword_prefix"] = "\0"
  (path / "tokenizer.json").write_text(json.dumps(values))
  assert "is damaged (it has a character NUL)" in refusals.of(path)
  processor = processors.load(write("tiny_smolvlm"))
  with pytest.raises(ValueError, match="half of a character.* at 13: a surr"):
    processor.prepare("<|im_start|> \ud83d")


def test_special_tokens_of_older_folders(write):
  path = write("tiny_llava")
  (path / "special_tokens_map.json").write_text('{"eos_token": "</s>"}')
  assert processors.load(path).tokens["eos_token"] == "</s>"


def test_image_tokens_that_fall_apart(write):
  path = write("tiny_llava")
  file = path / "tokenizer.json"
  values = json.loads(file.read_text())
  values["added_tokens"] = []
  file.write_text(json.dumps(values))
  processor = processors.load(path)
  with pytest.raises(ValueError, match="mark it as special in tokenizer.json"):
    processor.prepare(_QUESTION, [samples.picture(9, 9)])
