"""Yes-or-no questions: POPE and MME.

Sources: haotian-liu/LLaVA `llava/eval/eval_pope.py`; AoiDragon/POPE
`evaluate.py`; BradyFU/Awesome-Multimodal-Large-Language-Models, branch
Evaluation, `tools/eval_tool.zip`; EvolvingLMMs-Lab/lmms-eval
`lmms_eval/tasks/pope/utils.py` and `lmms_eval/tasks/mme/utils.py`.
"""

from collections.abc import Callable, Iterable, Sequence
import dataclasses

PERCEPTION = (
  "existence",
  "count",
  "position",
  "color",
  "posters",
  "celebrity",
  "scene",
  "landmark",
  "artwork",
  "OCR",
)
COGNITION = (
  "commonsense_reasoning",
  "numerical_calculation",
  "text_translation",
  "code_reasoning",
)


def pope_llava(text: str) -> str:
  """The label of an answer: "no" by exact words, otherwise "yes".

  >>> pope_llava("No, there is not."), pope_llava("NO"), pope_llava("")
  ('no', 'yes', 'yes')
  """
  words = text.split(".")[0].replace(",", "").split(" ")
  return "no" if {"No", "not", "no"} & set(words) else "yes"


def pope_lmms_eval(text: str) -> str:
  """The answer in lower case; whatever is neither yes nor no is wrong."""
  return text.lower().strip()


@dataclasses.dataclass(frozen=True)
class Counts:
  """Counts of answers against the truth.

  Attributes:
    tp, fp: answers yes that are right, and wrong.
    tn, fn: answers no that are right, and wrong.
  """

  tp: int
  fp: int
  tn: int
  fn: int

  @property
  def total(self) -> int:
    """All of them."""
    return self.tp + self.fp + self.tn + self.fn

  @property
  def accuracy(self) -> float:
    """Share of right answers."""
    return _share(self.tp + self.tn, self.total)

  @property
  def precision(self) -> float:
    """Share of the answers yes that are right."""
    return _share(self.tp, self.tp + self.fp)

  @property
  def recall(self) -> float:
    """Share of the truths yes that were found."""
    return _share(self.tp, self.tp + self.fn)

  @property
  def f1(self) -> float:
    """Harmonic mean of precision and recall."""
    return _share(
      2 * self.precision * self.recall, self.precision + self.recall
    )

  @property
  def yes_ratio(self) -> float:
    """Share of the answers yes."""
    return _share(self.tp + self.fp, self.total)


def _share(part, whole):
  return part / whole if whole else 0.0


def pope_counts(pairs: Iterable[tuple[str, str]]) -> Counts:
  """Counts of (text, label) pairs as LLaVA reads the texts."""
  found = dict.fromkeys(("yes yes", "yes no", "no no", "no yes"), 0)
  for text, label in pairs:
    found[f"{pope_llava(text)} {label}"] += 1
  return Counts(*found.values())


def pope_lmms_eval_scores(pairs: Sequence[tuple[str, str]]) -> dict[str, float]:
  """Scores of (text, label) pairs as lmms-eval has them.

  Its yes-ratio is that of the labels.
  """
  told = [
    (pope_lmms_eval(text), label.lower().strip()) for text, label in pairs
  ]
  tp = sum(pair == ("yes", "yes") for pair in told)
  said = sum(text == "yes" for text, _ in told)
  there = sum(label == "yes" for _, label in told)
  # Answers that are neither lower accuracy, but are no positives.
  missed = sum(pair == ("no", "yes") for pair in told)
  precision, recall = _share(tp, said), _share(tp, tp + missed)
  return {
    "accuracy": _share(sum(text == label for text, label in told), len(told)),
    "precision": precision,
    "recall": recall,
    "f1": _share(2 * precision * recall, precision + recall),
    "yes_ratio": _share(there, len(told)),
  }


def mme_official(text: str) -> str:
  """yes, no or other: by the first four characters, nothing stripped.

  >>> mme_official("know"), mme_official("  yes"), mme_official("Y")
  ('no', 'other', 'other')
  """
  return _by_start(text.replace("\n", " ").replace("\t", " ").lower())


def mme_lmms_eval(text: str) -> str:
  """yes, no or other, stripped and without full stops; y and n count alone.

  >>> mme_lmms_eval(" Y."), mme_lmms_eval("  yes")
  ('yes', 'yes')
  """
  text = text.lower().strip().replace(".", "")
  return {"y": "yes", "n": "no"}.get(text) or _by_start(text)


def _by_start(text):
  for label in ("yes", "no"):
    if label in text[:4]:
      return label
  return "other"


def mme_scores(
  rows: Sequence[tuple[str, str, str, str]],
  read: Callable[[str], str] = mme_official,
) -> dict[str, float]:
  """Score of each subtask: 100 (acc + acc+), at most 200.

  acc is over questions, acc+ over pictures with both questions right.

  Args:
    rows: subtask, picture, right answer, answer that was given.
    read: `mme_official` or `mme_lmms_eval`.

  Raises:
    ValueError: a picture does not have two questions.
  """
  pictures: dict[str, dict[str, list[bool]]] = {}
  for subtask, picture, truth, text in rows:
    right = read(text) == truth.lower().strip().replace(".", "")
    pictures.setdefault(subtask, {}).setdefault(picture, []).append(right)
  scores = {}
  for subtask, found in pictures.items():
    for picture, hits in found.items():
      if len(hits) != 2:
        raise ValueError(
          f"picture {picture!r} of {subtask} has {len(hits)} questions; MME"
          " has two for each: give whole files"
        )
    hits = [hit for pair in found.values() for hit in pair]
    both = [all(pair) for pair in found.values()]
    accuracy, plus = sum(hits) / len(hits), sum(both) / len(both)
    scores[subtask] = accuracy * 100 + plus * 100
  return scores


def mme_sum(scores: dict[str, float], parts: Sequence[str]) -> float:
  """Sum over the subtasks of `PERCEPTION` or `COGNITION` that there are."""
  return sum(scores[part] for part in parts if part in scores)
