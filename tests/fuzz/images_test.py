"""Damaged and odd images: sound pixels or one named error, never more.

`--full` draws more than a thousand files of ten formats.
"""

import json
import subprocess
import sys
import warnings

import numpy as np
import pytest

from eos_jax.data import (
  benchmarks,
  item_questions,
  processors,
  question_sets,
  rooms,
  sources,
)
from eos_jax.data import rows as rows_lib
from eos_jax.data.benchmarks import source as benchmark_source
from eos_jax.data.processors import pixels
from tests import command
from tests.data.processors import samples
from tests.fuzz import image_files

COUNTS = [66, pytest.param(1100, marks=pytest.mark.full)]

pytestmark = [
  pytest.mark.skipif(
    not image_files.available(), reason="Pillow lacks a format"
  ),
  # Pillow's, of what is damaged.
  pytest.mark.filterwarnings("ignore::UserWarning"),
  pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning"),
]


def _read(odd):
  """Pixels of a file; None where it is refused."""
  try:
    return pixels.rgb(processors.open_picture(odd.data))
  except ValueError as error:
    start = f"picture of {len(odd.data)} bytes cannot be read ("
    assert str(error).startswith(start), (odd.what, error)
    assert len(str(error)) < 500
    return None


@pytest.mark.parametrize("count", COUNTS)
def test_pixels_are_sound_or_the_file_is_named(count):
  read = 0
  for odd in image_files.files(count, seed=11):
    found = _read(odd)
    read += found is not None
    assert found is not None or not odd.sound, odd.what
    if found is not None and odd.allowed is not None:
      assert any(np.array_equal(found, one) for one in odd.allowed), odd.what
  assert count / 4 < read < 3 * count / 4  # both ends are met


@pytest.mark.slow
@pytest.mark.parametrize("turn", range(1, 9))
def test_orientations_by_their_definition(turn):
  # What the package turns by Pillow's names, by the definition of the tag.
  for odd in image_files.files(200, seed=turn):
    if odd.what.endswith(f"turned {turn}"):
      np.testing.assert_array_equal(_read(odd), odd.allowed[0])
      return
  pytest.fail("no file of that orientation was drawn")


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
  """Rows of a tiny LLaVA-1.5."""
  folder = samples.write("tiny_llava", tmp_path_factory.mktemp("model") / "m")
  processor = processors.load(folder)
  prefix = (processor.text.inner.token_to_id("<s>"),)
  room = rooms.Room(1, processor.settings.tokens, processor.settings.side)
  return rows_lib.Rows(processor, prefix, room, 200)


@pytest.fixture(params=COUNTS)
def asked(request, tmp_path):
  """Files in a folder, and which of them can be read."""
  odd = image_files.files(request.param, seed=12)
  (tmp_path / "images").mkdir()
  for one in odd:
    (tmp_path / "images" / one.name).write_bytes(one.data)
  return tmp_path, odd, [_read(one) is not None for one in odd]


def _check_faults(faults, file, odd, good):
  """Each file that cannot be read has one fault, which names it."""
  bad = [place for place, read in enumerate(good) if not read]
  assert sorted(fault.row for fault in faults) == [place + 1 for place in bad]
  for fault in faults:
    assert fault.file == file
    name = f"images/{odd[fault.row - 1].name} cannot be read ("
    assert name in fault.what and len(fault.what) < 800
    assert "\n" not in fault.what


def test_instructions(asked, rows):
  folder, odd, good = asked
  entries = []
  for one in odd:
    turns = [("human", "<image>\nwhat is it?"), ("gpt", "a cat")]
    turns = [{"from": who, "value": text} for who, text in turns]
    entries.append({"image": one.name, "conversations": turns})
  path = folder / "instructions.json"
  path.write_text(json.dumps(entries), encoding="utf-8")
  read = lambda skip_invalid: item_questions.from_file(
    path,
    rows,
    {"test": 1.0},
    images=folder / "images",
    skip_invalid=skip_invalid,
  )
  (whole,) = read(False).choose("test", count=0, seed=0)
  assert len(whole) == len(odd)  # images are opened later
  used = read(True)
  _check_faults(used.invalid, "instructions.json", odd, good)
  expected = [place + 1 for place, read in enumerate(good) if read]
  (kept,) = used.choose("test", count=0, seed=0)
  assert sorted(item.row for item in kept.items) == expected
  # What is kept gives rows; what is not gives one error, if it is not skipped.
  batch = next(question_sets.batches(used.dataset("test", 0), batch=8))
  assert np.isfinite(batch["image"]).all()
  bad = [item for item in whole.items if not good[item.row - 1]]
  place = f"instructions.json, row {bad[0].row}: question "
  with pytest.raises(sources.DataError, match=place):
    next(question_sets.batches(question_sets.stream(bad[:1], rows, 0), batch=1))


def test_a_benchmark(asked, rows):
  folder, odd, good = asked
  entries = {
    str(number): {
      "imagename": one.name,
      "question": "what is it?",
      "answer": "a cat",
      "capability": ["rec"],
    }
    for number, one in enumerate(odd)
  }
  path = folder / "mm-vet.json"
  path.write_text(json.dumps(entries), encoding="utf-8")
  questions = benchmarks.read("mmvet", folder, "llava", skip_invalid=True)
  made = lambda skip_invalid: benchmark_source.Benchmarks(
    rows, {"mmvet": questions}, protocol="llava", skip_invalid=skip_invalid
  )
  source = made(True)
  (found,), counted = source.choose("test"), source.read["mmvet"]
  _check_faults(counted.faults, "mm-vet.json", odd, good)
  assert len(found) == len(counted.samples) == sum(good)
  assert sum(batch["valid"].sum() for batch in found.batches(8)) == sum(good)
  count = len(odd) - len(questions.samples)
  with pytest.raises(sources.DataError, match=f"^{count} rows cannot be used"):
    benchmarks.read("mmvet", folder, "llava")
  # The others are found before anything is asked, all at once.
  count = len(odd) - sum(good) - count
  said = f"^mmvet: {count} rows cannot be used"
  with pytest.raises(sources.DataError, match=said):
    made(False)


_MEMORY = """
import resource, sys
import numpy as np
from eos_jax.data import processors
from eos_jax.data.processors import llava, onevision, qwen2_vl, smolvlm
from tests.fuzz import image_files
CASES = {
  "crop": (llava, llava.Settings()),
  "small crop": (llava, llava.Settings(size=20)),
  "pad": (llava, llava.Settings(aspect="pad")),
  "pad, no resize": (llava, llava.Settings(size=None, aspect="pad")),
  "onevision": (onevision, onevision.Settings()),
  "several": (onevision, onevision.Settings()),
  "qwen2_vl": (qwen2_vl, qwen2_vl.Settings()),
  "smolvlm": (smolvlm, smolvlm.Settings(longest=1024)),
  "smolvlm, no resize": (smolvlm, smolvlm.Settings(longest=None)),
}
sizes = [tuple(map(int, size.split("x"))) for size in sys.argv[1:]]
used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
for height, width in sizes:
  file = image_files.png(width, height)
  image = processors.open_picture(file)
  for name, (family, settings) in CASES.items():
    more = {"tiled": False} if name == "several" else {}
    try:
      found = family.preprocess([image], settings, **more).pixels
      said = "read" if np.isfinite(found).all() else "NOT FINITE"
    except ValueError as error:
      said = "refused"
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
    print(f"{height}x{width}", len(file), name, said, peak - used, sep="|")
"""


@pytest.mark.full
def test_extreme_shapes_take_bounded_memory():
  sizes = ("1x1", "1x100000", "100000x1", "1x131072", "131072x1")
  sizes += ("131072x680", "9000x9900", "1x65535")
  done = subprocess.run(
    [sys.executable, "-c", _MEMORY, *sizes],
    cwd=command.ROOT,
    capture_output=True,
    text=True,
    check=False,
    timeout=3600,
  )
  assert done.returncode == 0, done.stderr[-2000:]
  lines = [line.split("|") for line in done.stdout.splitlines()]
  assert len(lines) == 9 * len(sizes)
  for size, _, name, said, peak in lines:
    height, width = map(int, size.split("x"))
    steep = max(height, width) > 200 * min(height, width)
    refused = name == "qwen2_vl" and steep
    # Not scaled down, they have more tiles than there is room for.
    refused |= name == "smolvlm, no resize" and max(height, width) > 4096
    assert said == ("refused" if refused else "read"), (size, name)
    assert int(peak) < 2 * 2**30, (size, name)


def test_a_tiny_file_of_a_long_line():
  # Padded to a square, its 100,000 pixels would be 28 GiB.
  file = image_files.png(1, 100_000)
  assert len(file) < 300
  image = processors.open_picture(file)
  settings = processors.llava.Settings(aspect="pad")
  found = processors.llava.preprocess([image], settings).pixels[0, 0]
  wanted = pixels.normalize(
    np.array(pixels.mean_color(settings.values), np.uint8), settings.values
  )
  np.testing.assert_array_equal(found[:, [0, -1]], found[:, [0, 0]])
  np.testing.assert_array_equal(found[5, 5], wanted)


def test_warnings_as_errors_do_not_hide_the_file():
  with warnings.catch_warnings():
    warnings.simplefilter("error")  # Pillow warns of large images
    for width in (9_000, 20_000):
      file = image_files.png(width, 10_000)
      with pytest.raises(ValueError, match="picture of .* cannot be read"):
        processors.open_picture(file)
  with pytest.raises(ValueError, match="pixels; at most 89,478,485 are read"):
    processors.open_picture(image_files.png(9_000, 10_000))
