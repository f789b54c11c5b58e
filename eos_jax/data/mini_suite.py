"""mini_suite: a rendered visual question answering suite, as tfds builder.

Five tasks (counting, relation, attribute, text, chart) on 96 x 96 pictures of
textured scenes and bar charts. Rendered by `generator` on first use, written
as array_record, which needs no TensorFlow.
"""

import dataclasses
import io

import numpy as np
import tensorflow_datasets as tfds
import tqdm

from eos_jax.data import generator, labels, rendering

COUNTS = {
  "default": {"train": 24_000, "validation": 2_000, "test": 3_000},
  # The same pictures without those that only pretraining needs.
  "held_out": {"validation": 2_000, "test": 3_000},
  "tiny": {"train": 256, "validation": 64, "test": 64},
}
# Questions of the splits that are asked, as the generator makes them.
QUESTIONS = {
  "default": {"validation": 20_829, "test": 31_084},
  "held_out": {"validation": 20_829, "test": 31_084},
  "tiny": {"validation": 669, "test": 625},
}
_DESCRIPTION = """\
Rendered pictures of objects, words and bar charts on textured backgrounds with
questions about counts, positions, attributes, words and bars, balanced so that
the question alone tells little about the answer.
"""


@dataclasses.dataclass(kw_only=True)
class MiniSuiteConfig(tfds.core.BuilderConfig):
  """A size of the suite: number of pictures by split."""

  counts: dict[str, int] = dataclasses.field(default_factory=dict)


def question_features() -> tfds.features.Sequence:
  """The questions of one picture, alike in both datasets."""
  return tfds.features.Sequence(
    {
      "question": tfds.features.Text(),
      "answer": tfds.features.Text(),
      "task": tfds.features.ClassLabel(names=labels.TASKS),
    }
  )


class MiniSuite(tfds.core.GeneratorBasedBuilder):
  """Builder of mini_suite; see the module."""

  VERSION = tfds.core.Version(generator.VERSION)
  RELEASE_NOTES = {"1.0.0": "First version."}
  BUILDER_CONFIGS = [
    MiniSuiteConfig(
      name=name,
      description=f"{sum(counts.values())} pictures.",
      counts=counts,
    )
    for name, counts in COUNTS.items()
  ]
  # The class lives in a module of a plain package, without the files next to
  # it that tfds looks for otherwise.
  pkg_dir_path = None
  name = "mini_suite"

  def _info(self) -> tfds.core.DatasetInfo:
    grid = (labels.GRID, labels.GRID, labels.PATCH_CHANNELS)
    return tfds.core.DatasetInfo(
      builder=self,
      description=_DESCRIPTION,
      features=tfds.features.FeaturesDict(
        {
          "image": tfds.features.Image(
            shape=(labels.SIDE, labels.SIDE, 3), encoding_format="png"
          ),
          "image_id": tfds.features.Text(),
          "questions": question_features(),
          "patch_labels": tfds.features.Tensor(shape=grid, dtype=np.uint8),
          "scene_labels": tfds.features.Tensor(
            shape=(labels.NUM_SCENE,), dtype=np.uint8
          ),
        }
      ),
      metadata=tfds.core.MetadataDict(
        generator_hash=generator.generator_hash(), seed=generator.SEED
      ),
      disable_shuffling=True,
    )

  def _split_generators(self, dl_manager):
    del dl_manager
    counts = self.builder_config.counts
    bar = tqdm.tqdm(
      desc=f"rendering {self.name}",
      total=sum(counts.values()),
      unit="pic",
      mininterval=1.0,
    )
    return {
      split: self._generate_examples(split, count, bar)
      for split, count in counts.items()
    }

  def _generate_examples(self, split: str, count: int, bar: tqdm.tqdm):
    made = rendering.rendered(split, count)
    for index, (png, asked, patches, scene) in enumerate(made):
      bar.update()
      yield (
        index,
        {
          "image": io.BytesIO(png),
          "image_id": f"{split}/{index}",
          "questions": [question._asdict() for question in asked],
          "patch_labels": patches,
          "scene_labels": scene,
        },
      )
    if bar.n >= bar.total:
      bar.close()
