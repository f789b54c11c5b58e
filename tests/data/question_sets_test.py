"""Batches of questions: endless ones that resume, and fixed sets."""

import dataclasses

import jax
import numpy as np
import pytest

from eos_jax.data import (
  instructions,
  item_questions,
  processors,
  question_sets,
  rooms,
  sources,
)
from eos_jax.data import rows as rows_lib
from tests.data.processors import samples
from tests.models import tiny_families

LENGTH = 120


@pytest.fixture(scope="module")
def asked(tmp_path_factory):
  """Rows of a tiny LLaVA-1.5, and instructions."""
  root = tmp_path_factory.mktemp("asked")
  processor = processors.load(samples.write("tiny_llava", root / "model"))
  path = tiny_families.instructions(root / "data", 12)
  data = instructions.load(path, path.parent, {"all": 1.0})
  room = rooms.Room(1, 4, (28, 28))
  prefix = (processor.text.inner.token_to_id("<s>"),)
  rows = rows_lib.Rows(processor, prefix, room, LENGTH)
  return data.parts["all"], rows


def _batches(items, rows, *, batch, seed, beside=(), **part):
  """Endless batches, with those of other items beside them if there are any."""
  parts = [
    question_sets.stream(one, rows, seed) for one in (items, beside) if one
  ]
  return question_sets.batches(*parts, batch=batch, **part)


def _chosen(items, rows, count, seed):
  chosen = question_sets.chosen(items, count, seed)
  return question_sets.QuestionSet("instructions", chosen, rows)


def _same(one, other):
  jax.tree.map(np.testing.assert_array_equal, one, other)


def test_an_epoch_has_every_instruction_once(asked):
  items, rows = asked
  stream = _batches(items, rows, batch=4, seed=0)
  wanted = {rows.row(item)["tokens"].tobytes() for item in items}
  assert len(wanted) == 12
  for _ in range(2):
    seen = [next(stream) for _ in range(3)]
    assert all(batch["image"].shape == (4, 1, 28, 28, 3) for batch in seen)
    tokens = [row.tobytes() for batch in seen for row in batch["tokens"]]
    assert set(tokens) == wanted


def test_a_stream_goes_on_where_it_stood(asked):
  items, rows = asked
  make = lambda: _batches(items[:8], rows, batch=4, seed=1, beside=items[8:])
  stream = make()
  next(stream)
  place = stream.position
  wanted = [next(stream) for _ in range(3)]
  assert [len(pair) for pair in wanted] == [2, 2, 2]
  other = make()
  other.seek(place)
  for want in wanted:
    _same(next(other), want)


def test_processes_share_a_stream(asked):
  items, rows = asked
  make = lambda **part: next(_batches(items, rows, seed=2, **part))
  whole = make(batch=4)
  for index in range(2):
    part = make(batch=2, process_index=index, process_count=2)
    _same(part, jax.tree.map(lambda leaf, at=index: leaf[at::2], whole))


def test_a_fixed_set_is_filled_up(asked):
  items, rows = asked
  chosen = _chosen(items, rows, count=5, seed=3)
  assert chosen == _chosen(items, rows, count=5, seed=3)
  assert len(chosen) == 5 and len(set(chosen.items)) == 5
  one, two = chosen.batches(4)
  assert one["valid"].tolist() == [True] * 4
  assert two["valid"].tolist() == [True, False, False, False]
  assert two["index"].tolist() == [4] * 4
  for place, item in enumerate(chosen.items[:4]):
    row = rows.row(item)
    _same(row, {name: one[name][place] for name in row})
  ids = one["tokens"][0][one["loss_mask"][0]].tolist()
  assert chosen.decode([*ids, 7, 7]) == chosen.answers[0]
  assert chosen.stop == (ids[-1],)


def test_instructions_with_one_picture_are_neighbours(asked):
  items, rows = asked
  twice = [
    dataclasses.replace(item, name=f"{item.name} again") for item in items
  ]
  chosen = _chosen([*items, *twice], rows, count=0, seed=0)
  assert len(chosen) == 24
  assert chosen.image_ids.tolist() == np.repeat(np.arange(12), 2).tolist()


def test_a_picture_that_cannot_be_read_is_told(asked, tmp_path):
  items, rows = asked
  (tmp_path / "broken.png").write_bytes(b"no picture")
  broken = dataclasses.replace(items[0], images=(tmp_path / "broken.png",))
  match = "question '.*': picture .*broken.png cannot be read"
  with pytest.raises(sources.DataError, match=match):
    next(_batches([broken], rows, batch=2, seed=0))
  fixed = _chosen([broken], rows, count=1, seed=0)
  with pytest.raises(sources.DataError, match=match):
    next(fixed.batches(1))


def test_rows_that_turn_out_late_are_set_apart(asked, tmp_path):
  items, rows = asked
  picture = samples.picture(64, 64)
  picture.save(tmp_path / "cut.jpg")
  whole = (tmp_path / "cut.jpg").read_bytes()
  (tmp_path / "cut.jpg").write_bytes(whole[: len(whole) // 2])
  bad = {
    2: {"images": (tmp_path / "cut.jpg",)},
    5: {"question": "what is <image>?"},
    6: {"answer": "<image>"},
    9: {"question": "x" * 999},
    11: {"question": "\ud83d"},
  }
  changed = [
    dataclasses.replace(item, **bad.get(row, {}), file="a.json", row=row)
    for row, item in enumerate(items, 1)
  ]
  used = _questions(rows, all=changed)
  assert [fault.row for fault in used.invalid] == sorted(bad)
  assert str(used.invalid[0]).startswith("a.json, row 2: question ")
  assert "cut.jpg cannot be read (image file is truncated" in str(
    used.invalid[0]
  )
  kept = [item for row, item in enumerate(items, 1) if row not in bad]
  (left,) = used.choose("all", count=0, seed=0)
  assert sorted(left.items, key=kept.index) == kept
  assert used.identity["invalid"] == list(map(str, used.invalid))
  assert "5 cannot be used and are skipped" in used.summary(["all"])
  # Batches are those of a file without them.
  _same(
    next(question_sets.batches(used.dataset("all", 0), batch=7)),
    next(_batches(kept, rows, batch=7, seed=0)),
  )
  bad = [item for item in changed if item.row in bad]
  with pytest.raises(sources.DataError, match="is left for 'test': 5 rows"):
    _questions(rows, all=changed, test=bad)
  # All of them are found at once where they are not skipped.
  whole = _questions(rows, skip_invalid=False, all=changed)
  (asked,) = whole.choose("all", count=0, seed=0)
  assert {fault.row for fault in asked.unusable().values()} == {
    item.row for item in bad
  }


def _questions(rows, skip_invalid=True, **parts):
  return item_questions.ItemQuestions(
    "instructions",
    rows,
    parts,
    source="a.json",
    identity={},
    skip_invalid=skip_invalid,
  )


def test_tasks_are_those_of_items_or_the_source(asked):
  items, rows = asked
  items = (items[0], dataclasses.replace(items[1], task="counting"))
  chosen = question_sets.QuestionSet("mine", items, rows)
  assert chosen.tasks == ("mine", "counting")
