"""Entries are found again for what they depend on, and only for that."""

import contextlib

import pytest

from eos_jax.evaluation import store

ENTRY = {"scores": {"text": 1 / 3, "chart": 0.1}, "flops": 123456789012}
OTHER = {"flops": 7}
DEPENDS = {"weights": "abc", "model": {"layers": 2, "sizes": (1, 2)}}
ASKED = [("a", "1"), ("b", "2"), ("c", "3"), ("d", "4"), ("e", "5")]


@contextlib.contextmanager
def _open(path):
  with contextlib.closing(store.Store(path)) as entries:
    yield entries


@pytest.fixture
def path(tmp_path):
  """A file with two entries."""
  path = tmp_path / "folder" / "evaluation.jsonl"
  with _open(path) as entries:
    assert entries.find({"plan": 1}) is None
    entries.add({"plan": 1}, ENTRY)
    entries.add({"plan": 2}, OTHER)
  return path


def test_entries_come_back_to_the_last_bit(path):
  with _open(path) as entries:
    assert entries.find({"plan": 1}) == ENTRY
    assert entries.find({"plan": 2}) == OTHER
    assert entries.find({"plan": 1, "questions": 10}) is None
    assert entries.once({"plan": 2}, lambda: {"x": (1,)}) == OTHER
    assert entries.once({"plan": 3}, lambda: {"x": (1,)}) == {"x": [1]}


def test_a_line_cut_short_is_dropped_and_nothing_else(path):
  path.write_text(path.read_text()[:-30])
  with _open(path) as entries:
    assert entries.find({"plan": 1}) == ENTRY
    assert entries.find({"plan": 2}) is None
    entries.add({"plan": 2}, OTHER)
  with _open(path) as entries:
    assert entries.find({"plan": 2}) == OTHER


@pytest.mark.parametrize(
  "damage",
  [
    lambda line: line.replace("0.1}", "0.2}"),
    lambda line: line.replace('"digest"', '"digset"'),
    lambda line: "null",
    lambda line: "{}",
    lambda line: "[1]",
    lambda line: line.replace('"chart": 0.1', '"chart": NaN, "x": 0.1'),
    lambda line: "[" * 100_000,
    lambda line: line[:50],
  ],
)
def test_a_damaged_entry_is_computed_again(path, damage, capsys):
  first, second = path.read_text().splitlines()
  assert damage(first) != first
  path.write_text(f"{damage(first)}\n{second}\n")
  with _open(path) as entries:
    assert entries.find({"plan": 1}) is None
    assert entries.find({"plan": 2}) == OTHER
    entries.add({"plan": 1}, ENTRY)
  assert str(path) in capsys.readouterr().out
  assert sorted(path.read_text().splitlines()) == sorted([first, second])


def test_a_line_that_is_not_utf_8_is_dropped(path, capsys):
  path.write_bytes(b'{"key": "\xff"}\n' + path.read_bytes())
  with _open(path) as entries:
    assert entries.find({"plan": 1}) == ENTRY
  assert "line 1 is no JSON object" in capsys.readouterr().out


@contextlib.contextmanager
def _answers(path, asked=ASKED, depends=DEPENDS):
  cut = [asked[i : i + 2] for i in range(0, len(asked), 2)]
  with _open(path) as entries:
    yield store.Answers(entries, depends, cut)


@pytest.fixture
def answered(tmp_path):
  """A file with the answers to all questions, two a batch."""
  path = tmp_path / "x.jsonl"
  with _answers(path) as answers:
    for texts in (["A", "B"], ["C", "D"], ["E"]):
      answers.add(texts, [7] * len(texts))
    assert answers.finished
  return path


def test_answers_come_back(answered, capsys):
  with _answers(answered) as answers:
    assert answers.finished and answers.prompt_tokens == 7
    assert answers.texts == ["A", "B", "C", "D", "E"]
  assert not capsys.readouterr().out


@pytest.mark.parametrize(
  "asked, done",
  [
    ([*ASKED[:2], ASKED[3], ASKED[2], ASKED[4]], 1),  # another order
    ([("a", "2"), ("b", "1"), *ASKED[2:]], 0),  # the ids stayed
    ([*ASKED[:3], ("d", "another image"), ASKED[4]], 1),
    (ASKED[2:4], 0),  # another number of the batch
    ([*ASKED[:4], ("f", "5")], 2),
  ],
)
def test_other_questions_are_answered_anew(asked, done, answered, capsys):
  with _answers(answered, asked) as answers:
    assert answers.done == done
    assert answers.texts == ["A", "B", "C", "D"][: 2 * done]
    assert "are answers to other questions" in capsys.readouterr().out
    while not answers.finished:
      count = len(asked[2 * answers.done : 2 * answers.done + 2])
      answers.add(["new"] * count, [1] * count)
  with _answers(answered, asked) as again:
    assert again.finished and again.texts == answers.texts
  # The first answers are still there.
  with _answers(answered) as again:
    assert again.finished and again.texts[:2] == ["A", "B"]


@pytest.mark.parametrize(
  "depends",
  [
    DEPENDS | {"weights": "other"},
    DEPENDS | {"model": {"layers": 3, "sizes": (1, 2)}},
    DEPENDS | {"plan": 1},
  ],
)
def test_answers_of_another_model_or_plan_are_not_used(depends, answered):
  with _answers(answered, depends=depends) as answers:
    assert answers.done == 0


@pytest.mark.parametrize("kept, done", [(1, 1), (2, 2), (1.5, 1), (0.9, 0)])
def test_a_run_that_was_killed_continues_after_the_last_batch(
  kept, done, answered, capsys
):
  whole = answered.read_text(encoding="utf-8")
  lines = whole.splitlines(keepends=True)
  count = int(kept)
  cut = lines[count][: int((kept - count) * len(lines[count]))]
  answered.write_text("".join(lines[:count]) + cut, encoding="utf-8")
  with _answers(answered) as answers:
    assert answers.done == done
    for texts in (["A", "B"], ["C", "D"], ["E"])[done:]:
      answers.add(texts, [7] * len(texts))
  assert answered.read_text(encoding="utf-8") == whole
  assert not capsys.readouterr().out


@pytest.mark.parametrize(
  "old, new",
  [('"D"', '"X"'), ('"prompt_tokens": 7', '"prompt_tokens": 8'), ("{", "[")],
)
def test_answers_that_were_changed_are_not_used(old, new, answered, capsys):
  lines = answered.read_text(encoding="utf-8").splitlines()
  lines[1] = lines[1].replace(old, new, 1)
  answered.write_text("\n".join(lines) + "\n", encoding="utf-8")
  with _answers(answered) as answers:
    assert answers.done == 1
  assert str(answered) in capsys.readouterr().out
