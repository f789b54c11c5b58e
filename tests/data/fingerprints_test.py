"""Digests of contents tell apart whatever changes an answer."""

import dataclasses
import os
import types

import pytest

from eos_jax.data import (
  fingerprints,
  items,
  processors,
  question_sets,
  rooms,
  rows,
  sources,
)
from eos_jax.data.benchmarks import samples
from tests.models import tiny_families


def _set(pictures, prompt="Is it?", choices=()):
  asked = tuple(
    samples.Sample(str(n), picture, prompt, ("yes",), choices=dict(choices))
    for n, picture in enumerate(pictures)
  )
  return question_sets.QuestionSet("pope", asked, None, answered=False)


def test_questions_are_told_apart_by_words_and_images(tmp_path):
  paths = [tmp_path / name for name in ("a.png", "b.png", "c.png")]
  for path, data in zip(paths, (b"one", b"two", b"one"), strict=True):
    path.write_bytes(data)
  first, second, third = _set(paths).digests
  assert first == third != second
  assert _set([b"one"]).digests == (first,)
  assert _set(paths[:1], prompt="Is it not?").digests != (first,)
  assert _set(paths[:1], choices={"A": "x"}).digests != (first,)
  # Answers and ids may be mended without asking again.
  one = _set(paths[:1])
  other = dataclasses.replace(one.items[0], answers=("no",), id="another")
  other = dataclasses.replace(one, items=(other,))
  assert other.digests == (first,)
  # What is compared with an answer counts in the digest of the whole.
  assert one.digest() != other.digest() != _set([b"one"]).digest()
  assert one.digest() == _set([b"one"]).digest()


def test_items_are_told_apart_by_words_and_images():
  item = items.Item("0", "Is it?", "yes", (b"one",), (("and?", "no"),))

  def digests(**changes):
    changed = dataclasses.replace(item, **changes)
    asked = question_sets.QuestionSet("mine", (changed,), None)
    return asked.digests, asked.digest()

  known = digests()
  for change in ({"name": "1"}, {"task": "x"}, {"file": "a", "row": 7}):
    assert digests(**change) == known
  for change in ({"answer": "no"}, {"later": ()}):
    asked, whole = digests(**change)
    assert asked == known[0] and whole != known[1]
  for change in ({"question": "?"}, {"images": (b"two",)}, {"images": ()}):
    asked, whole = digests(**change)
    assert asked != known[0] and whole != known[1]


def test_an_image_is_read_once_until_it_changes(tmp_path, monkeypatch):
  path = tmp_path / "a.png"
  path.write_bytes(b"one")
  before = fingerprints.image(path)
  reads = fingerprints._file.cache_info().misses
  assert fingerprints.image(path) == before
  assert fingerprints._file.cache_info().misses == reads
  times = path.stat()
  path.write_bytes(b"two")  # as long as before, and as old
  os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
  assert fingerprints.image(path) != before
  path.unlink()
  with pytest.raises(sources.DataError, match=r"a\.png cannot be read"):
    fingerprints.image(path)


@pytest.mark.parametrize("most", [2**31, 0])
def test_files_of_the_same_size_are_told_apart(tmp_path, monkeypatch, most):
  monkeypatch.setattr(fingerprints, "_MOST_READ", most)
  paths = [tmp_path / name for name in ("a.png", "b.png")]
  asked = [types.SimpleNamespace(images=(str(path),)) for path in paths]
  asked.append(types.SimpleNamespace(images=(b"bytes",)))
  for path in paths:
    path.write_bytes(bytes(10_000))
  before = fingerprints.image_files(asked)
  assert fingerprints.image_files(asked) == before
  for place in (3, -3):
    changed = bytearray(10_000)
    changed[place] = 1
    paths[1].write_bytes(changed)
    assert fingerprints.image_files(asked) != before
  changed = bytearray(10_000)
  changed[5_000] = 1
  paths[1].write_bytes(changed)
  assert (fingerprints.image_files(asked) == before) == (most == 0)
  paths[0].unlink()
  with pytest.raises(sources.DataError, match=r"a\.png cannot be read"):
    fingerprints.image_files(asked)


def test_what_makes_inputs_is_told_apart(tmp_path):
  folder = tiny_families.write("llava_1_5", tmp_path)
  processor = processors.load(folder)
  size, tokens = rooms._FAMILIES[processor.family].makes(
    processor.settings, rooms.Room(1, 0, (0, 0))
  )
  room = rooms.Room(1, tokens, size)

  def found(processor, **changes):
    made = {"prefix": (1,), "room": room, "text_length": 40} | changes
    return rows.Rows(processor, **made).facts()

  before = found(processor)
  assert found(processors.load(folder)) == before
  longer = found(processor, text_length=41)
  assert longer == before | {"text_length": 41}
  assert found(processor, prefix=(2,)) != before
  ends = dataclasses.replace(processor, ends=(*processor.ends, 5))
  assert found(ends) != before
  template = processor.template.replace("ASSISTANT", "HELPER")
  assert template != processor.template
  template = dataclasses.replace(processor, template=template)
  assert found(template)["conversation"] != before["conversation"]
  path = folder / "tokenizer.json"
  text = path.read_text(encoding="utf-8")
  assert '"special": true' in text
  text = text.replace('"special": true', '"special": false', 1)
  path.write_text(text, encoding="utf-8")
  again = found(processors.load(folder))
  assert again["tokenizer"] != before["tokenizer"]
  assert again["processor"] == before["processor"]
