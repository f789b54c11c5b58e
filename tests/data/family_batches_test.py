"""Rows of published families say what `Processor.prepare` says."""

import numpy as np
import pytest

from eos_jax.data import family_batches, instructions, processors
from tests.data.processors import samples

QUESTION = "how many cats are there?"


@pytest.fixture
def rows(tmp_path):
  """Makes `Rows` of a family's tiny folder."""

  def call(name, *, text_length=200, pictures=1, style=None, prefix=None):
    folder = samples.write(name, tmp_path / name)
    processor = processors.load(folder, style=style)
    if prefix is None:
      begins = samples.FOLDERS[name][0] == "llava"
      prefix = (processor.text.inner.token_to_id("<s>"),) if begins else ()
    tokens = processor.settings.tokens
    return family_batches.Rows(processor, prefix, tokens, text_length, pictures)

  return call


@pytest.fixture
def ask(tmp_path):
  """An instruction about pictures of these sizes (height, width)."""

  def call(*sizes, answer="two"):
    files = []
    for number, (height, width) in enumerate(sizes):
      files.append(tmp_path / f"{number}.png")
      samples.picture(height, width, seed=number).save(files[-1])
    return instructions.Instruction("0", QUESTION, answer, tuple(files))

  return call


def _prepared(maker, item, text):
  opened = [processors.open_picture(file) for file in item.pictures]
  return maker.processor.prepare(text, opened)


def _multiplied(maker, row, length):
  """A row's ids as a prompt with image tokens has them."""
  slots = row["slots"][row["slots"] < maker.text_length].tolist()
  image = [maker.processor.text.image_id] * maker.tokens
  out = list(maker.prefix)
  for column, token in enumerate(row["tokens"][:length].tolist()):
    out += image * slots.count(column) + [token]
  return out


@pytest.mark.parametrize(
  "name, sizes, pictures",
  [
    ("llava", [(20, 50)], 1),
    ("llava", [(20, 50), (61, 33)], 3),
    ("smolvlm", [(20, 50)], 20),
    ("smolvlm", [(20, 50), (61, 33)], 40),
  ],
)
def test_rows_are_prepared_prompts(name, sizes, pictures, rows, ask):
  tiny = next(n for n in samples.TINY if samples.FOLDERS[n][0] == name)
  maker, item = rows(tiny, pictures=pictures), ask(*sizes)
  row = maker.row(item)
  content = [{"type": "image"}] * len(sizes)
  content += [{"type": "text", "text": QUESTION}]
  prompt = maker.processor.prompt([{"role": "user", "content": content}])
  wanted = _prepared(maker, item, prompt)
  length = int(row["prompt_length"])
  assert _multiplied(maker, row, length) == wanted.ids.tolist()
  shown = wanted.pictures.pixels[wanted.pictures.valid]
  count = len(shown)
  np.testing.assert_array_equal(row["image"][:count], shown)
  assert not row["image"][count:].any()
  assert row["present"].all(1).tolist() == [i < count for i in range(pictures)]
  assert (row["slots"][count:] == maker.text_length).all()
  answer = row["tokens"][row["loss_mask"]].tolist()
  assert answer[-1] == maker.stop
  assert maker.processor.text.inner.decode(answer).strip() == "two"
  assert not row["loss_mask"][:length].any()


def test_batches_have_one_shape(rows, ask):
  name = samples.TINY[0]
  maker = rows(name, pictures=2)
  batch = maker.rows([ask((20, 50)), ask((61, 33), (20, 20), answer="no cat")])
  assert batch["tokens"].shape == (2, 200)
  assert batch["image"].shape[:2] == (2, 2)
  assert batch["present"].shape == (2, 2, maker.tokens)
  assert batch["prompt_length"].dtype == np.int32


def test_what_does_not_fit_is_refused(rows, ask):
  name = samples.TINY[0]
  with pytest.raises(ValueError, match="tokens of text, but the text length"):
    rows(name, text_length=8).row(ask((20, 50)))
  with pytest.raises(ValueError, match="has 2 pictures or tiles"):
    rows(name).row(ask((20, 50), (20, 50)))
  with pytest.raises(ValueError, match="the prompt begins with the ids"):
    rows(name, prefix=(7, 7)).row(ask((20, 50)))


def test_other_models_are_refused(rows):
  maker = rows(samples.TINY[0])
  with pytest.raises(ValueError, match="visual tokens a picture, the model 7"):
    family_batches.Rows(maker.processor, (), 7, 10, 1)
