"""How far the questions alone get: the accuracy of a guess without pictures.

The guess for a question is the answer that its exact text had most often in
the train split; for a text that never occurred, the most frequent answer of
its task. What a model reaches beyond it, it has seen.
"""

import collections

from eos_jax.data import sources


def guess(train, test) -> dict[str, float]:
  """Accuracy of the language-only guess for each task.

  Args:
    train: questions (`sources.Question`) to count answers in.
    test: questions to guess.

  Returns:
    Task to accuracy in 0..1, in the order of first appearance in `test`, and
    "mean", the mean over the tasks.
  """
  by_text = collections.defaultdict(collections.Counter)
  by_task = collections.defaultdict(collections.Counter)
  for item in train:
    by_text[item.question][item.answer] += 1
    by_task[item.task][item.answer] += 1
  right, total = collections.Counter(), collections.Counter()
  for item in test:
    counts = by_text.get(item.question) or by_task[item.task]
    best = counts.most_common(1)[0][0] if counts else None
    right[item.task] += best == item.answer
    total[item.task] += 1
  out = {task: right[task] / total[task] for task in total}
  out["mean"] = sum(out.values()) / len(out)
  return out


def measure(
  name: str, *, data_dir=None, config: str = "default"
) -> dict[str, float]:
  """The language-only guess on the test split of a dataset.

  Args:
    name: "mini_suite" or "easy_vqa".
    data_dir: where tfds keeps datasets; None is its default.
    config: size of mini_suite.

  Returns:
    What `guess` returns.
  """
  splits = [
    sources.load(name, split, data_dir=data_dir, config=config).questions()
    for split in ("train", "test")
  ]
  return guess(*splits)


def main() -> None:
  """Prints the language-only guess for both datasets."""
  for name in sources.NAMES:
    for task, accuracy in measure(name).items():
      print(f"{name:12s} {task:10s} {accuracy:.3f}")


if __name__ == "__main__":
  main()
