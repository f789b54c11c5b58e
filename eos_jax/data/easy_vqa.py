"""easy_vqa: the pictures and questions of the easy-vqa package, for tfds.

Every question of the package is kept. Its train pictures are cut into train
and validation; its test pictures are the test split.
"""

import io
import pathlib

import easy_vqa as package
import numpy as np
import tensorflow_datasets as tfds

from eos_jax.data import labels, mini_suite

VALIDATION_PICTURES = 300
# Questions of the splits that are asked.
QUESTIONS = {"validation": 2_911, "test": 9_673}
_DESCRIPTION = """\
easy-VQA (Victor Zhou, MIT licence): one coloured shape on a light ground per
64 x 64 picture, with questions about its shape and its colour.
"""


def _scene_labels(questions) -> np.ndarray:
  """Shape and colour of the one shape, as its answers tell them."""
  out = np.zeros(labels.NUM_SCENE, np.uint8)
  for question, answer in questions:
    positive = answer == "yes" and not {"no", "not"} & set(question.split())
    negated = answer == "no" and bool({"no", "not"} & set(question.split()))
    told = {answer}
    if positive or negated:
      told |= set(question.rstrip("?").split())
    for section, names in (
      ("easy_shape", labels.EASY_SHAPES),
      ("easy_color", labels.EASY_COLORS),
    ):
      for name in told & set(names):
        out[labels.SCENE_SECTIONS[section]][names.index(name)] = 1
  return out


def _grouped(questions, answers, ids) -> dict[int, list]:
  out = {}
  for question, answer, index in zip(questions, answers, ids, strict=True):
    out.setdefault(int(index), []).append((question, answer))
  return out


class EasyVqa(tfds.core.GeneratorBasedBuilder):
  """Builder of easy_vqa; see the module."""

  VERSION = tfds.core.Version("1.0.0")
  RELEASE_NOTES = {"1.0.0": "First version."}
  pkg_dir_path = None
  name = "easy_vqa"

  def _info(self) -> tfds.core.DatasetInfo:
    return tfds.core.DatasetInfo(
      builder=self,
      description=_DESCRIPTION,
      homepage="https://github.com/vzhou842/easy-VQA",
      features=tfds.features.FeaturesDict(
        {
          "image": tfds.features.Image(
            shape=(64, 64, 3), encoding_format="png"
          ),
          "image_id": tfds.features.Text(),
          "questions": mini_suite.question_features(),
          "scene_labels": tfds.features.Tensor(
            shape=(labels.NUM_SCENE,), dtype=np.uint8
          ),
        }
      ),
      disable_shuffling=True,
    )

  def _split_generators(self, dl_manager):
    del dl_manager
    train = _grouped(*package.get_train_questions())
    test = _grouped(*package.get_test_questions())
    # The package's pictures are in random order: the last ones will do.
    ids = sorted(train)
    cut = len(ids) - VALIDATION_PICTURES
    train_paths = package.get_train_image_paths()
    test_paths = package.get_test_image_paths()
    return {
      "train": self._generate_examples(train, ids[:cut], train_paths),
      "validation": self._generate_examples(train, ids[cut:], train_paths),
      "test": self._generate_examples(test, sorted(test), test_paths),
    }

  def _generate_examples(self, questions, ids, paths):
    for place, index in enumerate(ids):
      asked = questions[index]
      path = pathlib.Path(paths[index])
      yield (
        place,
        {
          "image": io.BytesIO(path.read_bytes()),
          "image_id": f"{path.parent.parent.name}/{index}",
          "questions": [
            {"question": q, "answer": a, "task": "easy_vqa"} for q, a in asked
          ],
          "scene_labels": _scene_labels(asked),
        },
      )
