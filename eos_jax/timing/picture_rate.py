"""How many pictures a second are read and preprocessed for published models."""

from collections.abc import Mapping, Sequence
import concurrent.futures
import functools
import io
from types import ModuleType

import numpy as np
from PIL import Image

from eos_jax.data import processors
from eos_jax.data.processors import llava, onevision, qwen2_vl, smolvlm
from eos_jax.timing import stopwatch

# With the settings of their published models, where these need naming.
FAMILIES: Mapping[str, tuple[ModuleType, object]] = {
  "llava_1_5, crop": (llava, llava.Settings()),
  "llava_1_5, pad": (llava, llava.Settings(aspect="pad")),
  "llava_onevision": (onevision, onevision.Settings()),
  "qwen2_vl": (qwen2_vl, qwen2_vl.Settings()),
  "smolvlm": (smolvlm, smolvlm.Settings()),
}
# Height and width of the pictures: most of COCO's are of this size.
SIZE = (480, 640)


def draw(count: int, seed: int) -> list[bytes]:
  """JPEG files of smooth random pictures with some grain, as photographs have.

  Args:
    count: of pictures.
    seed: they are a function of it.
  """
  rng, files = np.random.default_rng(seed), []
  for _ in range(count):
    coarse = rng.integers(0, 256, (12, 16, 3), np.uint8)
    large = Image.fromarray(coarse).resize(SIZE[::-1], Image.Resampling.BICUBIC)
    grain = rng.normal(0, 6, (*SIZE, 3))
    values = np.clip(np.asarray(large) + grain, 0, 255).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(values).save(file, format="JPEG", quality=90)
    files.append(file.getvalue())
  return files


def rates(
  files: Sequence[bytes],
  threads: Sequence[int],
  *,
  repeats: int,
  seconds: float,
) -> dict[str, dict[str, stopwatch.Measured]]:
  """Pictures a second, from the bytes of a file to a model's array.

  Args:
    files: encoded pictures.
    threads: numbers of threads, each in turn.
    repeats: rounds that a rate is the median of.
    seconds: after which no further round begins, see `stopwatch.in_turns`.

  Returns:
    By family, by number of threads.
  """
  found = {}
  for name, (family, settings) in FAMILIES.items():
    runs = {
      str(count): functools.partial(_read, files, family, settings, count)
      for count in threads
    }
    times = stopwatch.in_turns(runs, repeats=repeats, seconds=seconds)
    found[name] = {
      count: stopwatch.measured([len(files) / time for time in parts["all"]])
      for count, parts in times.items()
    }
  return found


def _read(files, family, settings, threads, clock):
  def one(file):
    family.preprocess([processors.open_picture(file)], settings)

  start = clock()
  with concurrent.futures.ThreadPoolExecutor(threads) as pool:
    list(pool.map(one, files))
  return {"all": clock() - start}
