"""Pictures of mini_suite by (seed, split, index), and the generator's hash."""

import dataclasses
import hashlib
import io
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
