"""Rows of model families say what `Processor.prepare` says."""

import dataclasses
import json

import numpy as np
import pytest

from eos_jax.data import items, processors, rooms
from eos_jax.data import rows as rows_lib
from eos_jax.data.processors import onevision
from tests.data.processors import samples, templates

QUESTION = "how many cats are there?"


def _room(processor, pictures, tiles=(3, 3), size=(84, 84)):
  """A room in which nothing of the tiny folders has to be scaled down."""
  family, own = processor.style, processor.settings
  if family == "qwen2_vl":
    tokens = (size[0] // own.block) * (size[1] // own.block)
    return rooms.Room(pictures, tokens, size)
  if family == "onevision":
    tokens = (1 + tiles[0] * tiles[1]) * own.patches**2
    tokens += max(tiles[0] * own.patches, 1)
    return rooms.Room(pictures, tokens, (own.side, own.side), tiles)
  side = own.side if family == "llava" else (own.side, own.side)
  return rooms.Room(pictures, own.tokens, side)


@pytest.fixture
def rows(tmp_path):
  """Makes `Rows` of a family's tiny folder."""

  def call(name, *, text_length=200, pictures=1, prefix=None, **room):
    processor = processors.load(samples.write(name, tmp_path / name))
    if prefix is None:
      begins = samples.FOLDERS[name][0] == "llava"
      prefix = (processor.text.inner.token_to_id("<s>"),) if begins else ()
    room = _room(processor, pictures, **room)
    return rows_lib.Rows(processor, prefix, room, text_length)

  return call


@pytest.fixture
def ask(tmp_path):
  """A question about pictures of these sizes (height, width)."""

  def call(*sizes, answer="two", later=()):
    files = []
    for number, (height, width) in enumerate(sizes):
      files.append(tmp_path / f"{number}.png")
      samples.picture(height, width, seed=number).save(files[-1])
    return items.Item("0", QUESTION, answer, tuple(files), later)

  return call


def _prepared(maker, item):
  """What the processor says, and the prompt that it is given."""
  content = [{"type": "image"}] * len(item.images)
  content += [{"type": "text", "text": QUESTION}]
  prompt = maker.processor.prompt([{"role": "user", "content": content}])
  opened = [processors.open_picture(file) for file in item.images]
  return maker.processor.prepare(prompt, opened)


def _multiplied(maker, row, length, counts):
  """A row's ids as a prompt with image tokens has them."""
  slots = row["slots"].tolist()
  ids = [[token] for token in row["tokens"][:length].tolist()]
  for slot, count in reversed(list(zip(slots, counts, strict=False))):
    ids.insert(slot, [maker.processor.text.image_id] * count)
  return [*maker.prefix, *(i for part in ids for i in part)]


@pytest.mark.parametrize(
  "name, sizes, pictures",
  [
    ("tiny_llava", [(20, 50)], 1),
    ("tiny_llava_pad", [(20, 50), (61, 33)], 3),
    ("tiny_onevision", [(20, 50)], 1),
    ("tiny_onevision", [(20, 50), (61, 33)], 3),
    ("tiny_qwen2_vl", [(60, 80)], 1),
    ("tiny_qwen2_vl", [(60, 40), (30, 80)], 3),
    ("tiny_smolvlm", [(20, 50)], 20),
    ("tiny_smolvlm", [(20, 50), (61, 33)], 40),
  ],
)
def test_rows_are_prepared_prompts(name, sizes, pictures, rows, ask):
  maker, item = rows(name, pictures=pictures), ask(*sizes)
  row, wanted = maker.row(item), _prepared(maker, item)
  if "layout" in row:
    counts = row["layout"]["valid"].sum(1).tolist()
  else:
    counts = row["present"].sum(1).tolist()
  count = sum(map(bool, counts))
  assert (row["slots"][:count] < maker.text_length).all()
  assert (row["slots"][count:] == maker.text_length).all()
  length = int(row["prompt_length"])
  assert _multiplied(maker, row, length, counts) == wanted.ids.tolist()
  assert sum(counts) == wanted.pictures.tokens.sum()
  assert not row["image"][count:].any()
  answer = row["tokens"][row["loss_mask"]].tolist()
  assert answer[-1] == maker.stop
  assert maker.processor.text.inner.decode(answer).strip() == "two"
  assert not row["loss_mask"][:length].any()


@pytest.mark.parametrize(
  "name, style",
  [
    ("tiny_llava", None),
    ("tiny_llava", "vicuna"),
    ("tiny_onevision", None),
    ("tiny_qwen2_vl", None),
    ("tiny_smolvlm", None),
  ],
)
def test_all_answers_of_a_conversation_count(name, style, rows, ask):
  maker = rows(name, pictures=20, text_length=300)
  if style:
    processor = dataclasses.replace(maker.processor, style=style, template="")
    maker = dataclasses.replace(maker, processor=processor)
  later = (("how many dogs?", "one dog"), ("and cats?", "two"))
  item = ask((20, 50), later=later)
  row = maker.row(item)
  first = maker.row(dataclasses.replace(item, later=()))
  for field in ("prompt_length", "slots", "image"):
    np.testing.assert_array_equal(row[field], first[field])
  length = int(first["mask"].sum())
  for field in ("tokens", "loss_mask"):
    np.testing.assert_array_equal(row[field][:length], first[field][:length])
  # Runs of tokens that count are the answers, each with its end.
  runs = _runs(row)
  assert [run[-1] for run in runs] == [maker.stop] * 3
  decode = maker.processor.text.inner.decode
  assert [decode(run).strip() for run in runs] == ["two", "one dog", "two"]
  # Between them is what the family's format says.
  turns = [{"role": "user", "content": QUESTION}]
  for question, answer in (("", "two"), *later):
    if question:
      turns.append({"role": "user", "content": question})
    turns.append({"role": "assistant", "content": answer})
  whole = maker.processor.prompt(turns, reply=False)
  wanted = [t for t in maker.processor.text.encode(whole)]
  text = "".join(decode(row["tokens"][row["mask"]].tolist()).split())
  assert text.endswith("".join(decode(wanted).split())[-60:])


def _runs(row):
  """The tokens that count, run by run."""
  edges = np.flatnonzero(np.diff(np.pad(row["loss_mask"], 1).astype(int)))
  return [row["tokens"][a:b].tolist() for a, b in edges.reshape(-1, 2)]


def test_answers_as_the_folder_s_own_template_writes_them(tmp_path, ask):
  path = templates.write("llava_llama_3", tmp_path / "llama_3")
  inner = processors.load(path).text.inner
  inner.add_special_tokens(["<|eot_id|>", "<|end_of_text|>"])
  inner.save(str(path / "tokenizer.json"))
  eot, eos = map(inner.token_to_id, ("<|eot_id|>", "<|end_of_text|>"))
  ends = json.dumps({"eos_token_id": [eos, eot]})
  (path / "generation_config.json").write_text(ends)
  processor = processors.load(path)
  maker = rows_lib.Rows(
    processor, (inner.token_to_id("<s>"),), _room(processor, 1), 400
  )
  row = maker.row(ask((20, 50), later=(("how many dogs?", "one dog"),)))
  runs = _runs(row)
  assert [inner.decode(run[:-1]) for run in runs] == ["two", "one dog"]
  assert [run[-1] for run in runs] == [eot, eot] == [maker.stop] * 2
  head = "<|start_header_id|>{}<|end_header_id|>\n\n".format
  assert inner.decode(
    row["tokens"][row["mask"]].tolist(), skip_special_tokens=False
  ) == (
    f"{head('user')}{QUESTION}<|eot_id|>{head('assistant')}two<|eot_id|>"
    f"{head('user')}how many dogs?<|eot_id|>{head('assistant')}one dog"
    "<|eot_id|>"
  )
  assert maker.end_ids == (eot, eos)
  two = inner.encode("two", add_special_tokens=False).ids
  for end in (eot, eos):
    assert maker.decode([*two, end, *two]) == "two"


def test_templates_and_ends_that_are_refused(tmp_path):
  path = templates.write("llava_text_only", tmp_path / "text")
  processor = processors.load(path)
  room = _room(processor, 1)
  with pytest.raises(ValueError, match="cannot place images; write the prompt"):
    rows_lib.Rows(processor, (1,), room, 99)
  path = samples.write("tiny_llava", tmp_path / "ends")
  file = path / "tokenizer.json"
  file.write_text(file.read_text().replace("</s>", "</end>"))
  with pytest.raises(ValueError) as error:
    rows_lib.Rows(processors.load(path), (1,), room, 99)
  assert str(error.value) == (
    f"{path}: no token of the tokenizer ends answers: expected eos_token_id in"
    " generation_config.json or config.json, eos_token in"
    " tokenizer_config.json, or a token '</s>'; write the id into"
    " generation_config.json"
  )
  image = "{% for p in messages[0].content if p.type == 'image' %}<image>"
  silent = image + "{% endfor %}"
  processor = dataclasses.replace(processor, template=silent)
  maker = rows_lib.Rows(processor, (1,), room, 99)
  with pytest.raises(ValueError, match="leaves answers out"):
    maker.stop  # noqa: B018


def test_what_has_no_room_behind_the_prompt_is_cut_off(rows, ask):
  later = (("how many dogs?", "one dog"), ("and cats?", "two"))
  whole = rows("tiny_llava").row(ask((20, 50), later=later))
  length, prompt = int(whole["mask"].sum()), int(whole["prompt_length"])
  for room in (length - 1, length - 9, prompt + 1):
    row = rows("tiny_llava", text_length=room).row(ask((20, 50), later=later))
    for field in ("tokens", "mask", "loss_mask"):
      np.testing.assert_array_equal(row[field], whole[field][:room])
  with pytest.raises(ValueError, match=f"there are {prompt + 1} tokens"):
    rows("tiny_llava", text_length=prompt).row(ask((20, 50)))


@pytest.mark.parametrize("name", ["tiny_llava", "tiny_smolvlm"])
def test_every_tile_is_a_picture(name, rows, ask):
  maker, item = rows(name, pictures=20), ask((20, 50))
  shown = _prepared(maker, item).pictures
  image = maker.row(item)["image"]
  parts = shown.pixels[shown.valid]
  np.testing.assert_array_equal(image[: len(parts)], parts)


def test_a_picture_of_tiles_has_a_layout(rows, ask):
  maker, item = rows("tiny_onevision"), ask((20, 50))
  shown, row = _prepared(maker, item).pictures, maker.row(item)
  assert shown.valid.sum() > 1
  np.testing.assert_array_equal(
    row["image"][0][: shown.pixels.shape[1]], shown.pixels[0]
  )
  wanted = onevision.layout((20, 50), maker.processor.settings)
  count = int(shown.tokens[0])
  for name in ("index", "weight", "newline", "valid"):
    given = row["layout"][name][0]
    np.testing.assert_array_equal(given[:count], getattr(wanted, name))
    assert not given[count:].any()


def test_a_picture_lies_in_the_corner_of_its_room(rows, ask):
  maker, item = rows("tiny_qwen2_vl"), ask((60, 40))
  shown, image = _prepared(maker, item).pictures, maker.row(item)["image"][0]
  down, across = shown.grid[0] * maker.processor.settings.patch
  assert not image[down:].any() and not image[:, across:].any()
  # Patches come block by block; features are (channel, time, y, x).
  blocks = image[:down, :across].reshape(
    down // 28, 2, 14, across // 28, 2, 14, 3
  )
  patches = blocks.transpose(0, 3, 1, 4, 6, 2, 5).reshape(-1, 3, 14, 14)
  theirs = shown.pixels[0][shown.valid[0]].reshape(-1, 3, 2, 14, 14)
  for frame in range(2):
    np.testing.assert_array_equal(patches, theirs[:, :, frame])


@pytest.mark.parametrize("size", [(200, 40), (40, 500), (500, 500), (7, 300)])
@pytest.mark.parametrize(
  "name, room",
  [
    ("tiny_qwen2_vl", {"size": (56, 84)}),
    ("tiny_onevision", {"tiles": (1, 2)}),
    ("tiny_onevision", {"tiles": (0, 0)}),
  ],
)
def test_pictures_are_scaled_into_a_small_room(name, room, size, rows, ask):
  maker = rows(name, **room)
  row = maker.row(ask(size))
  valid = row["layout"]["valid"] if "layout" in row else row["present"]
  assert 0 < valid.sum() <= maker.room.tokens
  assert np.isfinite(row["image"]).all() and row["image"].any()


def test_a_transparent_colour_by_protocol(rows, tmp_path):
  """It is white to the processors of transformers, and none to LLaVA's code."""
  picture = samples.picture(28, 28).quantize(3)
  picture.save(tmp_path / "key.png", transparency=picture.getpixel((5, 5)))
  maker = rows("tiny_llava")
  item = items.Item("0", "?", "", (tmp_path / "key.png",))
  shown = {}
  for protocol in ("", "lmms_eval", "llava"):
    asked = dataclasses.replace(maker, protocol=protocol)
    shown[protocol] = asked.ask(item)["image"]
  np.testing.assert_array_equal(shown[""], shown["lmms_eval"])
  settings = maker.processor.settings
  plain = maker.processor.family.preprocess([picture], settings)
  np.testing.assert_array_equal(shown["llava"][0], plain.pixels[0, 0])
  assert (shown[""] != shown["llava"]).any()


def test_what_does_not_fit_is_refused(rows, ask):
  name = samples.TINY[0]
  with pytest.raises(ValueError, match="tokens of text, but the text length"):
    rows(name, text_length=8).row(ask((20, 50)))
  with pytest.raises(ValueError, match="2 pictures are 2 for the model"):
    rows(name).row(ask((20, 50), (20, 50)))
  with pytest.raises(ValueError, match="the prompt begins with the ids"):
    rows(name, prefix=(7, 7)).row(ask((20, 50)))
  with pytest.raises(ValueError, match="question '0': there is no picture"):
    rows(name).row(ask())
  token = rows(name).processor.text.image
  for answer in (f"two {token}", f"{token}"):
    with pytest.raises(ValueError, match="an answer contains the image token"):
      rows(name).row(ask((20, 50), answer=answer))
  later = (("and how many dogs?", f"one {token}"),)
  with pytest.raises(ValueError, match="an answer contains the image token"):
    rows(name).row(ask((20, 50), later=later))
  with pytest.raises(ValueError, match="question '0': the text has half of"):
    rows(name).row(ask((20, 50), answer="\ud83d"))
  with pytest.raises(ValueError, match="none of the preprocessor's resolution"):
    one = dataclasses.replace(rows("tiny_onevision"), text_length=9)
    settings = dataclasses.replace(
      one.processor.settings, resolutions=((48, 48),)
    )
    processor = dataclasses.replace(one.processor, settings=settings)
    room = _room(processor, 1, tiles=(1, 1))
    dataclasses.replace(one, processor=processor, room=room)


def test_other_models_are_refused(rows):
  maker = rows(samples.TINY[0])
  room = dataclasses.replace(maker.room, tokens=7)
  with pytest.raises(ValueError, match="4 visual tokens, the model reads 28"):
    dataclasses.replace(maker, room=room)
