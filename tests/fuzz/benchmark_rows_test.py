"""Odd and damaged files of benchmarks: refused by name, or skipped.

Every draw changes one file of a miniature benchmark and reads it twice. What
may not happen: another exception than `DataError`, a message that names neither
file nor folder, faults that are not the same with and without `skip_invalid`, a
row that is neither asked, left out nor a fault, and a row that is accepted
although its submission cannot be written.
"""

import csv
import io
import json
import math
import random
import re

import pyarrow
import pyarrow.parquet
import pytest

from eos_jax.data import benchmarks, sources
from eos_jax.evaluation import submissions
from eos_jax.evaluation.scoring import benchmarks as scoring
from tests import campaign
from tests.data.benchmarks import minis

SEED = 23
QUICK, FULL = 4, 300
ANSWERS = ("A", "yes", "", "=1+1", "a\tb\nc\x0b", "B. \u2028", "x" * 40_000)


def _json(data, draw):
  what, value = campaign.edited(json.loads(data), draw)
  return what, json.dumps(value).encode()


def _lines(data, draw):
  """One line of JSON, or of a text, is edited."""
  lines = data.decode().split("\n")
  place = draw.randrange(len(lines) - 1)
  if lines[place].startswith("{"):
    what, row = campaign.edited(json.loads(lines[place]), draw)
    lines[place] = json.dumps(row)
  else:
    what = lines[place] = draw.choice(_texts())
  return f"line {place + 1}: {what!r}", _bytes("\n".join(lines))


def _table(data, draw):
  """One cell of a TSV, its header too."""
  rows = list(csv.reader(io.StringIO(data.decode()), delimiter="\t"))
  row = draw.choice(rows)
  column = draw.randrange(len(row))
  row[column] = draw.choice(_texts())
  file = io.StringIO()
  csv.writer(file, delimiter="\t", lineterminator="\n").writerows(rows)
  return f"cell {column}: {row[column]!r}", _bytes(file.getvalue())


def _parquet(data, draw):
  rows = pyarrow.parquet.read_table(io.BytesIO(data)).to_pylist()
  while True:
    what, changed = campaign.edited(rows, draw)
    try:
      table = pyarrow.Table.from_pylist(changed)
      file = io.BytesIO()
      pyarrow.parquet.write_table(table, file)
      return what, file.getvalue()
    except (pyarrow.ArrowException, ValueError, OverflowError):
      pass  # no table can hold it
    except (AttributeError, TypeError):
      pass


def _texts():
  found = [value for value in campaign.ODD_VALUES if isinstance(value, str)]
  return [*found, "nan", "None", "1e400", "a\tb", '"', "9" * 30, "-1", "=1"]


def _bytes(text):
  return text.encode(errors="surrogatepass")


def _edit(path, data, draw):
  if path.suffix == ".parquet":
    return _parquet(data, draw)
  if path.suffix == ".tsv":
    return _table(data, draw)
  if path.suffix == ".txt" or path.name.startswith("coco_pope"):
    return _lines(data, draw)
  return _json(data, draw)


def _rows(name, folder):
  """Rows of the files with questions, if they still can be counted."""
  count = 0
  for path in sorted(folder.rglob("*")):
    if path.suffix == ".parquet":
      count += pyarrow.parquet.read_table(path).num_rows
    elif path.suffix == ".tsv":
      text = path.read_text(encoding="utf-8", errors="surrogateescape")
      rows = list(csv.reader(io.StringIO(text), delimiter="\t"))
      count += sum(map(bool, rows[1:]))
    elif path.suffix == ".txt" or path.name.startswith("coco_pope"):
      lines = path.read_bytes().decode(errors="replace").split("\n")
      count += sum(bool(line.strip()) for line in lines)
    elif path.suffix == ".json" and "annotat" not in path.name:
      if "Rosetta" in path.name:
        continue
      if path.name != "problems.json":
        value = json.loads(path.read_text(encoding="utf-8"))
        for inner in ("questions", "data", "test"):
          value = value.get(inner, value) if isinstance(value, dict) else value
        count += len(value)
  return count


def _read(name, folder, protocol, skip_invalid):
  try:
    return benchmarks.read(name, folder, protocol, skip_invalid=skip_invalid)
  except sources.DataError as error:
    return str(error)


def _problem(name, folder, protocol, out, *, edited):
  """What is wrong with how a changed benchmark is read; "" = nothing."""
  refused, found = (
    _read(name, folder, protocol, skip) for skip in (False, True)
  )
  if isinstance(refused, str) and len(refused) > 20_000:
    return f"a message of {len(refused)} characters"
  if isinstance(found, str):  # nothing is left, or a file is unreadable
    none = re.match(r"there are no questions to ask; (\d+) rows", found)
    if none and int(none[1]):
      count = re.match(r"(\d+) rows cannot", refused)
      return "" if count and count[1] == none[1] else f"{found} / {refused}"
    if none or (found == refused and str(folder) in found):
      return ""
    return f"{found} / {refused}"
  if not found.faults and refused != found:
    return f"refused, and no faults: {refused}"
  if found.faults:
    listed = f"{len(found.faults)} rows cannot be used;"
    if not refused.startswith(listed):
      return f"{len(found.faults)} faults, but: {refused}"
    unnamed = [fault for fault in found.faults if not _named(fault, folder)]
    if unnamed:
      return f"not named: {unnamed[0]}"
  known = {"vqav2": "annotations", "textvqa_ocr": "Rosetta"}.get(name, "\0")
  faults = sum(known not in fault.file for fault in found.faults)
  rows = len(found.samples) + faults + sum(found.left_out.values())
  if edited and rows != _rows(name, folder):
    return f"{rows} of {_rows(name, folder)} rows are accounted for"
  answered = [
    (s, ANSWERS[n % len(ANSWERS)]) for n, s in enumerate(found.samples)
  ]
  submissions.write(out, name, answered)
  scored = all(sample.answers for sample in found.samples)
  if scored and name in scoring.SCORES:
    score = scoring.SCORES[name](answered, protocol)
    if not math.isfinite(score.value):
      return f"the score is {score.value}"
  return ""


def _named(fault, folder):
  paths = (folder / fault.file, folder / "questions" / fault.file)
  return fault.row >= 1 and fault.what and any(p.exists() for p in paths)


def _campaign(name, tmp_path, draws, change, *, edited):
  folder = minis.write(name, tmp_path / "files")
  files = sorted(path for path in folder.rglob("*") if path.is_file())
  if edited:
    ends = (".json", ".tsv", ".txt", ".parquet")
    files = [path for path in files if path.suffix in ends]
  draw = random.Random(f"{SEED} {name} {edited}")
  problems = []
  for number in range(draws):
    path = draw.choice(files)
    data = path.read_bytes()
    what, changed = change(path, data, draw)
    path.write_bytes(changed)
    protocol = benchmarks.prompts.PROTOCOLS[number % 2]
    try:
      problem = _problem(
        name, folder, protocol, tmp_path / "out", edited=edited
      )
    except Exception as error:  # whatever a user would see as a traceback
      problem = f"{type(error).__name__}: {error}"
    if problem:
      problems.append(f"{number}: {path.name}: {what}: {problem[:500]}")
    path.write_bytes(data)
  assert not problems, "\n".join(problems)


@pytest.mark.parametrize("name", minis.WRITERS)
def test_edited_rows(name, tmp_path):
  _campaign(name, tmp_path, QUICK, _edit, edited=True)


@pytest.mark.parametrize("name", minis.WRITERS)
def test_damaged_files(name, tmp_path):
  _campaign(name, tmp_path, QUICK, _damage, edited=False)


def _damage(path, data, draw):
  del path
  return campaign.damaged(data, draw)


@pytest.mark.full
@pytest.mark.parametrize("name", minis.WRITERS)
def test_many_edited_rows(name, tmp_path):
  _campaign(name, tmp_path, FULL, _edit, edited=True)


@pytest.mark.full
@pytest.mark.parametrize("name", minis.WRITERS)
def test_many_damaged_files(name, tmp_path):
  _campaign(name, tmp_path, FULL, _damage, edited=False)
