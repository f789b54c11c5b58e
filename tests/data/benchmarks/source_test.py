"""Benchmarks as a source: which questions are asked, and which are lost."""

import pytest

from eos_jax.data import benchmarks, sources, tiny_rows, tokenizer
from eos_jax.data.benchmarks import source
from tests.data.benchmarks import minis


@pytest.fixture(scope="module")
def rows():
  return tiny_rows.TinyRows(tokenizer.load(), 200)


def _read(name, folder):
  minis.write(name, folder / name)
  return benchmarks.read(name, folder / name, "llava")


def _source(rows, folder, *names, **options):
  return source.from_folder(
    folder, names, rows, protocol="llava", files={}, **options
  )


def test_first_questions_with_all_that_is_scored_with_them(tmp_path):
  mme = _read("mme", tmp_path).samples
  assert len(source.first("mme", mme, 1)) == 2
  passes = _read("mmbench", tmp_path).samples
  kept = source.first("mmbench", passes, 1)
  number = lambda sample: int(sample.id) % benchmarks.samples.PASS
  first = number(passes[0])
  assert list(kept) == [one for one in passes if number(one) == first]
  assert 1 < len(kept) < len(passes)
  others = _read("vqav2", tmp_path).samples
  assert source.first("vqav2", others, 2) == others[:2]
  for name, samples in (("mme", mme), ("mmbench", passes), ("vqav2", others)):
    assert source.first(name, samples, 0) == samples


def test_questions_that_are_scored_together_are_lost_together(rows, tmp_path):
  folder = minis.write("mme", tmp_path / "mme")
  path = folder / "existence" / "a.txt"
  text = path.read_text(encoding="utf-8")
  path.write_text(text.replace("a dog", "a " + "dog " * 200), encoding="utf-8")
  with pytest.raises(sources.DataError) as error:
    _source(rows, tmp_path, "mme")
  lines = str(error.value).splitlines()
  assert lines[0].startswith("mme: 2 rows cannot be used; correct them")
  assert "existence/a.txt, row 2: question 'existence/a/2': text_le" in lines[1]
  assert "a.txt, row 1: another question that is scored with it" in lines[2]
  found = _source(rows, tmp_path, "mme", skip_invalid=True)
  (asked,) = found.choose("test")
  assert len(asked) == 4 and not asked.unusable()
  assert "2 rows are invalid and skipped" in found.summary(("test",))
  assert len(found.read["mme"].samples) == 4


def test_faults_of_all_benchmarks_are_listed(rows, tmp_path):
  for name in ("chartqa", "vqav2"):
    minis.write(name, tmp_path / name)
  short = tiny_rows.TinyRows(rows.words, 5)
  with pytest.raises(sources.DataError) as error:
    _source(short, tmp_path, "chartqa", "vqav2")
  lines = str(error.value).splitlines()
  assert [line.partition(":")[0] for line in lines if line[0] != " "] == [
    "chartqa",
    "vqav2",
  ]
  assert "row 1: question '" in lines[1] and "use at least " in lines[1]
  with pytest.raises(sources.DataError) as error:
    _source(rows, tmp_path, "gqa", "pope")
  assert [line[:5] for line in str(error.value).splitlines()] == [
    "gqa: ",
    "pope:",
  ]
