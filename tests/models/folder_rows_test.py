"""A model's config and its folder's tokenizer are compared before any work."""

import dataclasses
import json

import pytest

from eos_jax import models
from eos_jax.data import Item
from tests.data.processors import samples
from tests.models import tiny_families


@pytest.fixture
def folder(tmp_path):
  return tiny_families.write("llava_1_5", tmp_path)


def test_ids_without_a_row_are_refused(folder):
  """Also where config.json leaves the vocabulary to its class."""
  files = models.open_files(str(folder))
  files.rows(60)
  inner = files.processor.text.inner
  count = inner.get_vocab_size()
  decoder = dataclasses.replace(files.cfg.decoder, vocab=count - 1)
  cfg = dataclasses.replace(files.cfg, decoder=decoder)
  with pytest.raises(ValueError) as error:
    dataclasses.replace(files, cfg=cfg).rows(60)
  token = inner.id_to_token(count - 1)
  assert str(error.value) == (
    f"{folder}/tokenizer.json: the ids of the tokens {token!r} ({count - 1})"
    f" have no row in the embedding; expected ids below {count - 1}, the"
    " vocabulary by the model's config.json; take tokenizer and weights from"
    " one model, or resize the embedding"
  )


def test_models_whose_texts_have_no_first_token(folder, tmp_path):
  """Without a post-processor transformers 5 adds none, whatever is said."""
  begun = models.open_files(str(folder))
  assert begun.cfg.prefix == (1,)
  assert models.open_files(str(folder), random_weights=True).cfg.prefix == (1,)
  file = folder / "tokenizer.json"
  values = json.loads(file.read_text()) | {"post_processor": None}
  file.write_text(json.dumps(values))
  file = folder / "tokenizer_config.json"
  values = json.loads(file.read_text()) | {"add_bos_token": True}
  file.write_text(json.dumps(values))
  bare = models.open_files(str(folder))
  assert bare.cfg.prefix == ()
  samples.picture(9, 9).save(tmp_path / "0.png")
  asked = Item("0", "?", "", (tmp_path / "0.png",))
  given = [files.rows(60).ask(asked) for files in (begun, bare)]
  assert given[0]["tokens"].tolist() == given[1]["tokens"].tolist()
  assert given[0]["slots"].tolist() == given[1]["slots"].tolist()


def test_names_that_are_no_model_are_refused():
  for random, known in ((False, "tiny"), (True, "tiny, wide, llava_1_5_7b")):
    with pytest.raises(ValueError) as error:
      models.open_files("tinny", random_weights=random)
    assert str(error.value) == (
      "there is no folder 'tinny', and no model of that name; give the folder"
      f" of a checkpoint as transformers saves it, or one of {known}"
    )
