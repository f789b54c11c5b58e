"""Batches from sources, as grain iterators that resume where they stopped.

Every function for training returns a `grain.DatasetIterator`: endless,
shuffled anew each epoch, a function of the seed alone. Save it with
`grain.checkpoint.CheckpointSave(iterator)` beside the train state and restore
it with `grain.checkpoint.CheckpointRestore(fresh_iterator)`.
"""

from collections.abc import Iterable, Sequence

import grain
import numpy as np
from PIL import Image

from eos_jax.data import labels
from eos_jax.data import sources as sources_lib

_NO_PATCHES = np.zeros(
  (labels.GRID, labels.GRID, labels.PATCH_CHANNELS), np.uint8
)
_VALID = {easy: labels.scene_valid(easy) for easy in (False, True)}


def sized(image: np.ndarray) -> np.ndarray:
  """The picture at 96 x 96 (bicubic), uint8 `[SIDE, SIDE, 3]`."""
  if image.shape[:2] == (labels.SIDE, labels.SIDE):
    return image
  return np.asarray(
    Image.fromarray(image).resize(
      (labels.SIDE, labels.SIDE), Image.Resampling.BICUBIC
    )
  )


def _mixed(sources, weights, seed: int) -> grain.MapDataset:
  """An endless, shuffled mixture of records."""
  sources = list(sources)
  if not sources:
    raise ValueError("sources is empty: give at least one")
  if weights is not None and len(weights) != len(sources):
    raise ValueError(
      f"weights has {len(weights)} entries for {len(sources)} sources: give"
      " one a source"
    )
  parts = [
    grain.MapDataset.source(source).seed(seed + place).shuffle().repeat()
    for place, source in enumerate(sources)
  ]
  if len(parts) == 1:
    return parts[0]
  # By default every picture is as likely as any other.
  weights = weights or [len(source) for source in sources]
  total = float(sum(weights))
  return grain.MapDataset.mix(parts, [weight / total for weight in weights])


def _iterator(
  dataset: grain.MapDataset,
  batch: int,
  *,
  process_index: int,
  process_count: int,
  workers: int,
) -> grain.DatasetIterator:
  if not 0 <= process_index < process_count:
    raise ValueError(
      f"process_index {process_index} is not in 0..{process_count - 1}"
    )
  dataset = dataset[process_index::process_count]
  options = grain.ReadOptions(num_threads=1, prefetch_buffer_size=2 * batch)
  stream = dataset.to_iter_dataset(options).batch(batch, drop_remainder=True)
  if workers:
    stream = stream.mp_prefetch(
      grain.MultiprocessingOptions(num_workers=workers)
    )
  return iter(stream)


def _vision_example(record: sources_lib.Record) -> dict[str, np.ndarray]:
  easy = record.patch_labels is None
  return {
    "image": sized(record.image),
    "patch_labels": _NO_PATCHES if easy else record.patch_labels,
    "patch_valid": np.bool_(not easy),
    "scene_labels": record.scene_labels,
    "scene_valid": _VALID[easy],
  }


def vision_batches(
  sources: Iterable[sources_lib.Source],
  *,
  batch: int,
  seed: int,
  weights: Sequence[float] | None = None,
  process_index: int = 0,
  process_count: int = 1,
  workers: int = 0,
) -> grain.DatasetIterator:
  """Pictures with labels of their patches and of the whole.

  Args:
    sources: what to mix.
    batch: pictures a batch, of this process.
    seed: the batches are a function of it.
    weights: share of each source; by default every picture is as likely.
    process_index: which part of the stream to read, in 0..process_count - 1.
    process_count: into how many parts the stream is cut.
    workers: grain worker processes (they need absl flags to be parsed).

  Returns:
    Iterator over dicts: image uint8 `[B, SIDE, SIDE, 3]`, patch_labels uint8
    `[B, GRID, GRID, PATCH_CHANNELS]`, patch_valid bool `[B]`, scene_labels
    uint8 `[B, NUM_SCENE]`, scene_valid bool `[B, NUM_SCENE]`.
  """
  dataset = _mixed(sources, weights, seed).map(_vision_example)
  return _iterator(
    dataset,
    batch,
    process_index=process_index,
    process_count=process_count,
    workers=workers,
  )
