"""A search that is killed anywhere ends like one that nobody touched."""

import contextlib
import itertools
import random
import shutil
import signal
import subprocess
import sys
import time

import pytest

from tests import command


@pytest.fixture(scope="module")
def seconds(searched, tmp_path_factory):
  """What each phase takes, from a second run; it has to end like the first."""
  search = command.Search(tmp_path_factory.mktemp("again"), searched.cache)
  process, marks = search.start(), []
  for phase in command.PHASES:
    search.wait_for(phase, process)
    marks.append(time.monotonic())
  assert process.wait() == 0, search.stderr()
  marks.append(time.monotonic())
  different = command.differences(search.outputs(), searched.outputs())
  assert not different
  spans = (end - begin for begin, end in itertools.pairwise(marks))
  return dict(zip(command.PHASES, spans, strict=True))


def _kill(search, phase, delay):
  """Starts a search, and kills it some seconds after a phase has begun.

  Returns:
    The phase in which it was killed; "" if it had ended before.
  """
  process = search.start()
  search.wait_for(phase, process)
  with contextlib.suppress(subprocess.TimeoutExpired):
    process.wait(delay)
  found = search.phase()
  process.send_signal(signal.SIGKILL)
  return found if process.wait() == -signal.SIGKILL else ""


def _kill_in(search, phase, share, length):
  """Kills a new search in a phase, at a share of its length.

  A machine may be faster than it was when the length was measured: then it is
  tried again, earlier.

  Returns:
    Seconds after the beginning of the phase.
  """
  for _ in range(5):
    if _kill(search, phase, share * length) == phase:
      return share * length
    shutil.rmtree(search.root)
    share /= 4
  raise AssertionError(f"no kill hit the phase {phase!r}")


@pytest.mark.full
def test_a_search_killed_and_stopped_goes_on(searched, tmp_path):
  search = command.Search(tmp_path / "run", searched.cache)
  process = search.start()
  while (
    process.poll() is None
    and not (search.workdir / "checkpoints" / "2").is_dir()
  ):
    time.sleep(0.02)
  process.send_signal(signal.SIGKILL)
  assert process.wait() == -signal.SIGKILL
  search.stop(search.workdir / "evaluation.jsonl", signal.SIGTERM)
  assert "resumed at step " in search.stdout()
  search.run()
  assert not command.differences(search.outputs(), searched.outputs())


@pytest.mark.full
def test_a_search_killed_anywhere_ends_like_an_untouched_one(
  searched, seconds, tmp_path, capsys
):
  points = 30
  draw, phases = random.Random(points), itertools.cycle(command.PHASES)
  expected, failed, killed = searched.outputs(), [], 0
  while killed < points:
    search, phase = (
      command.Search(tmp_path / "run", searched.cache),
      next(phases),
    )
    delay = _kill_in(search, phase, draw.random(), seconds[phase])
    line, killed = f"killed {delay:.2f} s into {phase}", killed + 1
    # Again while it resumes, so long as there is something left to kill.
    for _ in range(2):
      later = list(command.PHASES)[list(command.PHASES).index(phase) :]
      delay = draw.random() * seconds[draw.choice(later)]
      if killed == points or not (phase := _kill(search, later[0], delay)):
        break
      line, killed = f"{line}, {delay:.2f} s into {phase}", killed + 1
    search.run()
    different = command.differences(search.outputs(), expected)
    with capsys.disabled():
      # A worker's standard output is not shown.
      said = f"\n{line}; differs: {', '.join(different) or 'nothing'}"
      print(said, end="", file=sys.stderr)
    if different:
      failed.append((line, different))
    assert not list((search.root / "data").rglob("incomplete.*")), line
    shutil.rmtree(search.root)
  assert not failed


def _sharded(root, searched):
  """A search on eight devices that saves every step, and is all of the run."""
  return command.Search(
    root,
    searched.cache,
    *searched.args,
    "--config.mesh=(2,2,2)",
    "--config.sites=('decoder.0',)",
    "--config.save_every=1",
    "--config.check_every=4",
    "--config.check_questions=8",
    "--config.evaluation.questions=16",
    "--config.evaluation.presets=()",
    devices=8,
  )


@pytest.mark.full
@pytest.mark.parametrize("seed", range(2))
def test_a_sharded_search_killed_at_random_ends_the_same(
  searched, seed, tmp_path, capsys
):
  """Fifty kills each: anywhere in the search, up to five times in a row."""
  whole = _sharded(tmp_path / "whole", searched)
  whole.run()  # compiles
  shutil.rmtree(whole.root)
  process = whole.start()
  whole.wait_for("search", process)
  began = time.monotonic()
  whole.wait_for("evaluation", process)
  length = time.monotonic() - began
  assert process.wait() == 0, whole.stderr()
  expected, draw, kills = whole.outputs(), random.Random(seed), 0
  while kills < 50:
    search, said = _sharded(tmp_path / "run", searched), []
    while len(said) < 5 and kills < 50:
      delay = draw.random() * length
      if not _kill(search, "search", delay):
        break  # it had ended before
      kills += 1
      said.append(f"{delay:.2f}")
    search.run()
    saved = search.workdir / "checkpoints"
    different = command.differences(search.outputs(), expected)
    with capsys.disabled():
      line = f"\n{kills} kills, the last {', '.join(said)} s into the search:"
      print(line, different or "no difference", end="", file=sys.stderr)
    assert not different, said
    assert {path.name for path in saved.iterdir()} == {"7", "8"}, said
    shutil.rmtree(search.root)
