"""Peak memory of reading, writing and restoring a checkpoint; Linux only.

    python -m tests.training.peak_memory write FOLDER
    python -m tests.training.peak_memory measure FOLDER

The first makes a checkpoint of 0.9 GiB in four files, the second prints JSON:
for each phase its seconds, and the bytes by which resident memory rose, of the
process's own (`anonymous`, looked at every few milliseconds) and with the
mapped pages of files (`resident`, as the system counts). The parameters are
among them: this is for a CPU, where devices and host are one.
"""

import json
import pathlib
import re
import sys
import threading
import time

import jax
import numpy as np

from eos_jax.models import converted, families, loading
from tests.models import checkpoints

# LLaVA-1.5 with half of its width and a fifth of its layers.
CONFIG = checkpoints.CONFIG | {
  "dtype": "float16",
  "text_config": checkpoints.PUBLIC_7B["text_config"]
  | {
    "hidden_size": 2048,
    "intermediate_size": 5504,
    "num_attention_heads": 16,
    "num_hidden_layers": 6,
    "num_key_value_heads": 16,
  },
  "vision_config": checkpoints.PUBLIC_7B["vision_config"]
  | {"num_hidden_layers": 4},
}


def write(folder):
  """Writes `source`: random numbers in the shapes of `CONFIG`."""
  description = families.describe(CONFIG)
  leaves = loading.flat(loading.shapes(description.cfg))
  draw, table = np.random.default_rng(0), {}
  noise = draw.normal(size=2**20).astype(np.float16)
  for weight in description.table.weights:
    shape = leaves[weight.path].shape
    for name in weight.names(shape):
      start = np.roll(noise, draw.integers(noise.size))
      table[name] = np.resize(start, weight.stored(shape))
  checkpoints.write(folder / "source", table, CONFIG, shards=4)


def _status(name):
  """Bytes by a name in the system's account of this process."""
  text = pathlib.Path("/proc/self/status").read_text(encoding="utf-8")
  return 1024 * int(re.search(rf"^{name}:\s+(\d+) kB", text, re.M).group(1))


class Peak:
  """Greatest resident memory while the block lasts."""

  def __enter__(self):
    pathlib.Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")
    self._ended, self.anonymous = threading.Event(), 0
    self._thread = threading.Thread(target=self._look)
    self._thread.start()
    self._begun = time.monotonic()
    return self

  def _look(self):
    while not self._ended.wait(0.005):
      self.anonymous = max(self.anonymous, _status("RssAnon"))

  def __exit__(self, *error):
    self.seconds = time.monotonic() - self._begun
    self._ended.set()
    self._thread.join()
    self.resident = _status("VmHWM")


def measure(folder):
  """Reads `source`, writes `out`, and restores it."""
  # What JAX and Orbax take to begin with is none of the checkpoint's.
  source, out = folder / "source", folder / "out"
  small = checkpoints.write(folder / "small", checkpoints.weights())
  (folder / "warm").mkdir()
  converted.save(folder / "warm", small, loading.load(small)[1])
  converted.restore(folder / "warm")
  before, phases = (_status("RssAnon"), _status("VmRSS")), {}

  def phase(name, call):
    with Peak() as peak:
      result = call()
    phases[name] = {
      "seconds": peak.seconds,
      "anonymous": peak.anonymous - before[0],
      "resident": peak.resident - before[1],
    }
    return result

  _, params = phase("load", lambda: loading.load(source))
  size = sum(leaf.nbytes for leaf in jax.tree.leaves(params))
  out.mkdir()
  phase("save", lambda: converted.save(out, source, params))
  del params
  _, params = phase("restore", lambda: converted.restore(out))
  files = source.glob("*.safetensors")
  json.dump(
    {
      "parameters": size,
      "shard": max(path.stat().st_size for path in files),
      "phases": phases,
    },
    sys.stdout,
  )


if __name__ == "__main__":
  run = {"write": write, "measure": measure}[sys.argv[1]]
  run(pathlib.Path(sys.argv[2]))
