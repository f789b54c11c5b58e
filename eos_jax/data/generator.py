"""Pictures of mini_suite by (seed, split, index), and the generator's hash."""

from concurrent import futures
from concurrent.futures import process
import dataclasses
import hashlib
import io
import logging
import multiprocessing
import os
import pathlib

import numpy as np
from PIL import Image

from eos_jax.data import charts, questions, scenes

VERSION = "1.0.0"
SEED = 20260605
SPLITS = ("train", "validation", "test")
_CHART_SHARE = 0.25
_MODULES = (
  "labels",
  "words",
  "render",
  "scenes",
  "charts",
  "questions",
  "generator",
)
_CHUNK = 200


@dataclasses.dataclass(frozen=True)
class Picture:
  """One rendered record of mini_suite.

  Attributes:
    image: uint8 `[SIDE, SIDE, 3]`.
    questions: its questions.
    patch_labels: uint8 `[GRID, GRID, PATCH_CHANNELS]`.
    scene_labels: uint8 `[NUM_SCENE]`.
  """

  image: np.ndarray
  questions: tuple[questions.Question, ...]
  patch_labels: np.ndarray
  scene_labels: np.ndarray


def generator_hash(seed: int = SEED) -> str:
  """sha256 of the generator's source text, its version and its seed."""
  digest = hashlib.sha256(f"{VERSION}/{seed}".encode())
  folder = pathlib.Path(__file__).parent
  for name in _MODULES:
    digest.update((folder / f"{name}.py").read_bytes())
  return digest.hexdigest()


def picture(split: str, index: int, *, seed: int = SEED) -> Picture:
  """Renders one picture; the same arguments give the same picture."""
  if split not in SPLITS:
    raise ValueError(f"split {split!r} is unknown: use one of {SPLITS}")
  rng = np.random.default_rng([seed, SPLITS.index(split), index])
  if rng.random() < _CHART_SHARE:
    chart = charts.sample_chart(rng)
    image, patches = charts.render_chart(rng, chart)
    return Picture(
      image,
      questions.chart_questions(rng, chart),
      patches,
      charts.chart_labels(chart),
    )
  scene = scenes.sample_scene(rng)
  image, patches = scenes.render_scene(rng, scene)
  return Picture(
    image,
    questions.scene_questions(rng, scene),
    patches,
    scenes.scene_labels(scene),
  )


def encode_png(image: np.ndarray) -> bytes:
  """PNG bytes of a uint8 picture, quick rather than small."""
  stream = io.BytesIO()
  Image.fromarray(image).save(stream, "PNG", compress_level=1)
  return stream.getvalue()


def _chunk(split: str, start: int, stop: int, seed: int) -> list:
  out = []
  for index in range(start, stop):
    made = picture(split, index, seed=seed)
    png = encode_png(made.image)
    out.append((png, made.questions, made.patch_labels, made.scene_labels))
  return out


def rendered(split: str, count: int, *, seed: int = SEED, workers=None):
  """Renders the first `count` pictures of a split, in order.

  Args:
    split: one of `SPLITS`.
    count: number of pictures.
    seed: seed of the suite.
    workers: processes besides this one; 0 renders here. Default: 0 for few
      pictures, else as many as there are cores, at most 8.

  Yields:
    Tuples of PNG bytes, questions, patch labels and scene labels.
  """
  starts = range(0, count, _CHUNK)
  jobs = [(split, s, min(s + _CHUNK, count), seed) for s in starts]
  if workers is None:
    workers = 0 if len(jobs) < 10 else min(8, os.cpu_count() or 1)
  done = 0
  if workers:
    try:
      for chunk in _pooled(jobs, workers):
        done += 1
        yield from chunk
    except process.BrokenProcessPool:
      # A script without a __main__ guard cannot start worker processes.
      logging.info("no worker processes; rendering %s in this one", split)
  for job in jobs[done:]:
    yield from _chunk(*job)


def _pooled(jobs, workers: int):
  # Spawned, not forked: jax may have threads running in this process.
  context = multiprocessing.get_context("spawn")
  with futures.ProcessPoolExecutor(workers, context) as pool:
    pending = []
    for job in jobs:
      pending.append(pool.submit(_chunk, *job))
      # Few chunks wait, so memory stays small when writing is slower.
      if len(pending) > 2 * workers:
        yield pending.pop(0).result()
    for future in pending:
      yield future.result()
