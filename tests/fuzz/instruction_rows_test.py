"""Instruction files with edited entries and damaged bytes.

Each entry that cannot be used is named by its row, once; the others are read as
if it were not there. `--full` draws more than a thousand files.
"""

import json
import random

import numpy as np
import pytest

from eos_jax.data import (
  instructions,
  item_questions,
  processors,
  rooms,
  sources,
)
from eos_jax.data import rows as rows_lib
from tests import campaign
from tests.data.processors import samples
from tests.models import tiny_families

COUNTS = [60, pytest.param(1000, marks=pytest.mark.full)]
ENTRIES = 8


@pytest.fixture(scope="module")
def given(tmp_path_factory):
  """Entries, the folder of their images, and rows of a tiny Qwen2-VL."""
  root = tmp_path_factory.mktemp("given")
  path = tiny_families.instructions(root / "data", ENTRIES)
  entries = json.loads(path.read_text(encoding="utf-8"))
  for entry in entries[::2]:  # more places to edit
    entry["conversations"] += [
      {"from": "human", "value": "and how many of them are red?"},
      {"from": "gpt", "value": "none"},
    ]
    entry["image"] = [entry["image"]]
  entries[1]["images"] = entries[1].pop("image")
  processor = processors.load(samples.write("tiny_qwen2_vl", root / "model"))
  room = rooms.Room(2, 6, (56, 84))
  return entries, path, rows_lib.Rows(processor, (), room, 200)


def _check(path, rows, edited):
  """Checks a file whose entries `edited` may be bad.

  Returns:
    The entries that are used and the faults; None if the file is refused.
  """
  try:
    read = instructions.load(path, path.parent, {"all": 1.0}, skip_invalid=True)
    used = item_questions.from_file(path, rows, {"all": 1.0}, skip_invalid=True)
  except (ValueError, sources.DataError) as error:
    _check_message(str(error), path)
    assert edited is None
    return None
  (left,) = used.choose("all", count=0, seed=0)
  kept, faults = (
    [item.row for item in left.items],
    [*read.faults, *used.invalid],
  )
  assert used.identity["entries skipped"] == list(map(str, read.faults))
  lost = [fault.row for fault in faults]
  for fault in faults:
    assert fault.file == path.name
    _check_message(str(fault), path)
  if edited is not None:
    assert set(lost) <= edited
    assert len(kept) + len(lost) + read.without_picture == ENTRIES
    assert not edited.intersection(kept) & set(lost)
    sound = set(range(1, ENTRIES + 1)) - edited
    assert sound <= set(kept)
  _check_refusal(path, {fault.row for fault in read.faults})
  return left.items, faults


def _check_refusal(path, bad):
  """Where nothing is skipped, all bad rows are listed at once."""
  if not bad:
    instructions.load(path, path.parent, {"all": 1.0})
    return
  with pytest.raises(ValueError) as error:
    instructions.load(path, path.parent, {"all": 1.0})
  for row in bad:
    assert f"\n  {path.name}, row {row}: " in str(error.value)


def _check_message(said, path):
  assert path.name in said and len(said) < 6000
  assert "\n" not in said or said.count("\n") <= 22
  said.encode()  # it can be printed


@pytest.mark.slow
@pytest.mark.parametrize("count", COUNTS)
def test_edited_entries(count, given):
  entries, source, rows = given
  draw = random.Random(5)
  path = source.with_name("edited.json")
  lost = 0
  for _ in range(count):
    changed = list(entries)
    edited = set(draw.sample(range(ENTRIES), draw.randint(1, 3)))
    for place in edited:
      for _ in range(draw.randint(1, 2)):
        if isinstance(changed[place], dict | list) and changed[place]:
          _, changed[place] = campaign.edited(changed[place], draw)
    path.write_text(json.dumps(changed), encoding="utf-8")
    used, faults = _check(path, rows, {place + 1 for place in edited})
    lost += len(faults)
    for item in used:
      row = rows.row(item)
      assert row["loss_mask"].any() and np.isfinite(row["image"]).all()
  assert lost > count / 2


@pytest.mark.parametrize("count", COUNTS)
def test_damaged_bytes(count, given):
  entries, source, rows = given
  draw = random.Random(6)
  path = source.with_name("damaged.json")
  whole = json.dumps(entries, indent=1, ensure_ascii=False)
  read = 0
  for _ in range(count):
    data = whole.encode(draw.choice(("utf-8", "utf-8", "utf-16", "latin-1")))
    path.write_bytes(campaign.damaged(data, draw)[1])
    read += _check(path, rows, None) is not None
  assert 0 < read < count  # both ends are met
