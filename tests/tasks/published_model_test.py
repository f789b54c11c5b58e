"""A model's config and its folder's tokenizer are compared before any work."""

import dataclasses
import json
import types

import pytest

from eos_jax.data import processors
from eos_jax.models import families
from eos_jax.tasks import published_model
from tests.data.processors import samples
from tests.models import tiny_families

_ROOM = types.SimpleNamespace(
  **{"text_length": 60, "pictures": 1, "tiles": (), "size": ()}
)


@pytest.fixture
def folder(tmp_path):
  return tiny_families.write("llava_1_5", tmp_path)


def _described(folder):
  return families.describe(json.loads((folder / "config.json").read_text()))


def test_ids_without_a_row_are_refused(folder):
  """Also where config.json leaves the vocabulary to its class."""
  processor = processors.load(folder)
  cfg = published_model.with_room(_described(folder), _ROOM)
  published_model.rows(processor, cfg, _ROOM)
  count = processor.text.inner.get_vocab_size()
  decoder = dataclasses.replace(cfg.decoder, vocab=count - 1)
  with pytest.raises(ValueError) as error:
    published_model.rows(
      processor, dataclasses.replace(cfg, decoder=decoder), _ROOM
    )
  token = processor.text.inner.id_to_token(count - 1)
  assert str(error.value) == (
    f"{folder}/tokenizer.json: the ids of the tokens {token!r} ({count - 1})"
    f" have no row in the embedding; expected ids below {count - 1}, the"
    " vocabulary by the model's config.json; take tokenizer and weights from"
    " one model, or resize the embedding"
  )


def test_models_whose_texts_have_no_first_token(folder, tmp_path):
  """Without a post-processor transformers 5 adds none, whatever is said."""
  description = _described(folder)
  processor = processors.load(folder)
  begun = published_model.with_room(description, _ROOM, processor)
  assert (
    begun.prefix == (1,) == published_model.with_room(description, _ROOM).prefix
  )
  file = folder / "tokenizer.json"
  values = json.loads(file.read_text()) | {"post_processor": None}
  file.write_text(json.dumps(values))
  file = folder / "tokenizer_config.json"
  values = json.loads(file.read_text()) | {"add_bos_token": True}
  file.write_text(json.dumps(values))
  bare = processors.load(folder)
  cfg = published_model.with_room(description, _ROOM, bare)
  assert cfg.prefix == ()
  samples.picture(9, 9).save(tmp_path / "0.png")
  given = [
    published_model.rows(one, shape, _ROOM).ask("0", "?", [tmp_path / "0.png"])
    for one, shape in ((processor, begun), (bare, cfg))
  ]
  assert given[0]["tokens"].tolist() == given[1]["tokens"].tolist()
  assert given[0]["slots"].tolist() == given[1]["slots"].tolist()
