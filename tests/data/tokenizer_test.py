"""Words are one token, drawn words are letters, and text comes back."""

import pytest
import tokenizers

from eos_jax.data import packing, prompts, tokenizer, words


def test_shipped_file_is_what_the_code_builds(tmp_path):
  tokenizer.write(tmp_path / "tokenizer.json")
  assert (tmp_path / "tokenizer.json").read_bytes() == (
    tokenizer.PATH.read_bytes()
  )


def test_special_tokens_come_first(tok):
  ids = [tok.pad_id, tok.bos_id, tok.eos_id, tok.unknown_id, tok.image_id]
  assert ids == [0, 1, 2, 3, 4]
  assert tok.vocab_size % 8 == 0


@pytest.mark.parametrize("word", words.VOCABULARY)
def test_question_words_are_one_token(tok, word):
  assert len(tok.encode(word)) == 1
  assert tok.decode(tok.encode(word)) == word


@pytest.mark.parametrize("word", words.WORDS)
def test_drawn_words_are_spelled(tok, word):
  pieces = [tok.token(i) for i in tok.encode(word)]
  assert pieces == [word[0], f"##{word[1]}", f"##{word[2]}"]
  assert tok.decode(tok.encode(word)) == word


def test_case_and_spaces_do_not_matter(tok):
  text = "  What IS the  upper word ?"
  assert tok.decode(tok.encode(text)) == "what is the upper word?"


def test_unknown_characters_are_unknown(tok):
  assert tok.encode("\u4e2d") == [tok.unknown_id]


def test_decoding_stops_at_the_end_and_skips_padding(tok):
  ids = [*tok.encode("top left"), tok.eos_id, *tok.encode("red")]
  assert tok.decode(ids) == "top left"
  assert tok.decode([tok.bos_id, *tok.encode("7"), tok.pad_id]) == "7"
  # Ids that only round the vocabulary up.
  assert tok.decode([tok.vocab_size - 1, *tok.encode("red")]) == "red"


def test_prompt_in_full(tok):
  ids = [
    *prompts.prefix_ids(tok),
    tok.image_id,
    *prompts.encode_question(tok, "what is the word?"),
    *prompts.encode_answer(tok, "cat"),
  ]
  assert " ".join(tok.token(i) for i in ids) == (
    "<s> user : <image> what is the word ? assistant : c ##a ##t </s>"
  )
  turn, prompt = prompts.encode_turn(tok, "what is the word?", "cat")
  assert turn == ids[4:]
  assert tok.decode(turn[prompt:]) == "cat"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mini_suite", "easy_vqa"])
def test_every_question_is_known_fits_and_comes_back(tok, load, name):
  for split in ("train", "test"):
    for question in load(name, split).questions():
      ids, prompt = prompts.encode_turn(tok, question.question, question.answer)
      assert tok.unknown_id not in ids
      assert len(ids) <= packing.DEFAULT_TEXT_LENGTH
      assert tok.decode(ids[prompt:]) == question.answer
      assert tok.decode(ids[: prompt - 2]) == question.question


def test_missing_file_and_missing_specials(tmp_path):
  with pytest.raises(ValueError, match="nothing.json is not a file"):
    tokenizer.load(tmp_path / "nothing.json")
  path = tmp_path / "bare.json"
  tokenizers.Tokenizer(tokenizers.models.WordPiece({"a": 0})).save(str(path))
  with pytest.raises(ValueError, match="no <pad>, <s>"):
    tokenizer.load(path)
