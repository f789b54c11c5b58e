"""Renders many pictures of mini_suite with the help of other processes.

The helpers are plain `python -m eos_jax.data.rendering` programs: unlike
`multiprocessing` they do not import the caller's main module (which may be a
script without a guard, and loads jax), and unlike forks they are safe with
jax's threads.
"""

import contextlib
import os
import pathlib
import pickle
import queue
import subprocess
import sys
import threading

from eos_jax.data import generator

_CHUNK = 50
# Few pictures are rendered before helpers would be up.
_ALONE = 1_000
_AHEAD = 4


def _chunk(split: str, start: int, stop: int, seed: int) -> list:
  out = []
  for index in range(start, stop):
    made = generator.picture(split, index, seed=seed)
    png = generator.encode_png(made.image)
    out.append((png, made.questions, made.patch_labels, made.scene_labels))
  return out


def _chunks(count: int) -> list[tuple[int, int]]:
  starts = range(0, count, _CHUNK)
  return [(start, min(start + _CHUNK, count)) for start in starts]


def rendered(
  split: str,
  count: int,
  *,
  seed: int = generator.SEED,
  workers: int | None = None,
):
  """Renders the first `count` pictures of a split, in order.

  Args:
    split: one of `generator.SPLITS`.
    count: number of pictures.
    seed: seed of the suite.
    workers: helper processes; 0 renders here. By default 0 for few pictures,
      else as many as there are cores, at most 8.

  Yields:
    Tuples of PNG bytes, questions, patch labels and scene labels.
  """
  if workers is None:
    workers = 0 if count < _ALONE else min(8, os.cpu_count() or 1)
  if not workers:
    for start, stop in _chunks(count):
      yield from _chunk(split, start, stop, seed)
    return
  with contextlib.ExitStack() as stack:
    queues = [
      stack.enter_context(_helper(split, count, seed, place, workers))
      for place in range(workers)
    ]
    for number in range(len(_chunks(count))):
      chunk = queues[number % workers].get()
      if chunk is None:
        raise RuntimeError(
          f"a process that rendered {split} ended early: its message is above;"
          " is there enough memory?"
        )
      yield from chunk


@contextlib.contextmanager
def _helper(split: str, count: int, seed: int, place: int, workers: int):
  """A queue of every `workers`-th chunk from `place` on, None at the end."""
  root = str(pathlib.Path(__file__).parents[2])
  path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
  process = subprocess.Popen(
    [sys.executable, "-m", "eos_jax.data.rendering"]
    + [split, *map(str, (count, seed, place, workers))],
    stdin=subprocess.DEVNULL,
    stdout=subprocess.PIPE,
    # Ctrl-C is for the caller, who then ends its helpers.
    process_group=0,
    # One thread each: the helpers already fill the cores.
    env=os.environ | {"PYTHONPATH": path, "OPENBLAS_NUM_THREADS": "1"},
  )
  chunks = queue.Queue(_AHEAD)
  stopped = threading.Event()

  def put(chunk) -> None:
    while not stopped.is_set():
      with contextlib.suppress(queue.Full):
        return chunks.put(chunk, timeout=0.5)

  def read() -> None:
    with contextlib.suppress(EOFError, pickle.UnpicklingError, ValueError):
      while not stopped.is_set():
        put(pickle.load(process.stdout))
    put(None)

  thread = threading.Thread(target=read, daemon=True)
  thread.start()
  try:
    yield chunks
  finally:
    stopped.set()
    process.kill()
    process.wait()
    thread.join()
    process.stdout.close()


def _main(arguments: list[str]) -> None:
  split, *numbers = arguments
  count, seed, place, workers = map(int, numbers)
  for start, stop in _chunks(count)[place::workers]:
    chunk = _chunk(split, start, stop, seed)
    pickle.dump(chunk, sys.stdout.buffer, pickle.HIGHEST_PROTOCOL)
    sys.stdout.buffer.flush()


if __name__ == "__main__":
  # The reader may stop early; then there is no one left to tell.
  with contextlib.suppress(BrokenPipeError, KeyboardInterrupt):
    _main(sys.argv[1:])
