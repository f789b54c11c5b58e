"""Answers are right by a second, independent reading of the questions."""

import collections
import re

import numpy as np
import pytest

from eos_jax.data import charts, labels, language_only, questions, scenes, words

NUMBERS = {"two": 2, "three": 3, "four": 4, "five": 5}


def _matches(item, words_):
  for word in words_:
    word = re.sub(r"^(circle|square|triangle|ring)s$", r"\1", word)
    word = {"crosses": "cross"}.get(word, word)
    if word in ("object", "objects"):
      continue
    if word not in (item.shape, item.color, item.size):
      return False
  return True


def _select(scene, phrase):
  return [item for item in scene.items if _matches(item, phrase.split())]


def _only(scene, phrase):
  (item,) = _select(scene, phrase)
  return item


def _words(drawn, name):
  if len(drawn) == 1:
    assert name == "word"
    return drawn[0].text
  return drawn[("upper word", "lower word").index(name)].text


def _text_answer(drawn, text):
  if found := re.fullmatch(r"what is the (.*word)\?", text):
    return _words(drawn, found[1])
  if found := re.fullmatch(r"which letter does the (.*) start with\?", text):
    return _words(drawn, found[1])[0]
  if found := re.fullmatch(r"is the (.*word) (\w{3})\?", text):
    return _words(drawn, found[1]) == found[2]
  return None


def _holds(first, relation, second):
  return {
    "left of": first.x < second.x,
    "right of": first.x > second.x,
    "above": first.y < second.y,
    "below": first.y > second.y,
  }[relation]


def _scene_answer(scene, text):
  match = lambda pattern: re.fullmatch(pattern, text)
  if found := match(r"how many (.*) are there\?"):
    return len(_select(scene, found[1]))
  if found := match(r"are there more (.*) than (.*)\?"):
    return len(_select(scene, found[1])) > len(_select(scene, found[2]))
  if found := match(r"are there (\w+) (.*)\?"):
    return len(_select(scene, found[2])) == NUMBERS[found[1]]
  if found := match(r"where is the (.*)\?"):
    item = _only(scene, found[1])
    rows = "top" if item.y < 48 else "bottom"
    return f"{rows} {'left' if item.x < 48 else 'right'}"
  if found := match(
    r"is the (.*) (left or right of|above or below) the (.*)\?"
  ):
    first, second = _only(scene, found[1]), _only(scene, found[3])
    if found[2].startswith("left"):
      return "left" if first.x < second.x else "right"
    return "above" if first.y < second.y else "below"
  if found := match(r"is the (.*) (left of|right of|above|below) the (.*)\?"):
    return _holds(_only(scene, found[1]), found[2], _only(scene, found[3]))
  if found := match(r"what (colour|shape|size) is the (.*)\?"):
    field = found[1].replace("colour", "color")
    return getattr(_only(scene, found[2]), field)
  if found := match(r"is the ((?:small|large) \w+) (\w+)\?"):
    return _only(scene, found[1]).color == found[2]
  raise AssertionError(f"no template fits {text!r}")


def _chart_answer(chart, text):
  match = lambda pattern: re.fullmatch(pattern, text)
  height = {bar.color: bar.height for bar in chart.bars}
  if text == "which bar is highest?":
    return max(height, key=height.get)
  if text == "which bar is lowest?":
    return min(height, key=height.get)
  if text == "how many bars are there?":
    return len(height)
  if found := match(r"how high is the (\w+) bar\?"):
    return height[found[1]]
  if found := match(r"is the (\w+) bar higher than the (\w+) bar\?"):
    return height[found[1]] > height[found[2]]
  raise AssertionError(f"no template fits {text!r}")


def _spelled(answer):
  return (
    {True: "yes", False: "no"}.get(answer, str(answer))
    if isinstance(answer, bool)
    else str(answer)
  )


@pytest.fixture(scope="module")
def made():
  """Questions of 1500 scenes and 500 charts, each with its picture's plan."""
  out = []
  for seed in range(1500):
    rng = np.random.default_rng(seed)
    scene = scenes.sample_scene(rng)
    out += [(scene, q) for q in questions.scene_questions(rng, scene)]
  for seed in range(500):
    rng = np.random.default_rng(seed)
    chart = charts.sample_chart(rng)
    out += [(chart, q) for q in questions.chart_questions(rng, chart)]
  return out


@pytest.mark.slow
def test_answers_agree_with_the_picture(made):
  for plan, question in made:
    drawn = plan.words if isinstance(plan, scenes.Scene) else (plan.title,)
    if question.task == "text":
      answer = _text_answer(drawn, question.question)
    elif question.task == "chart":
      answer = _chart_answer(plan, question.question)
    else:
      answer = _scene_answer(plan, question.question)
    assert question.answer == _spelled(answer), (plan, question)


def test_number_of_questions_and_tasks(made):
  by_plan = collections.defaultdict(list)
  for plan, question in made:
    by_plan[id(plan)].append(question)
  scene_sizes = [
    len(v) for v in by_plan.values() if all(q.task != "chart" for q in v)
  ]
  assert max(scene_sizes) <= 12 and np.mean(scene_sizes) > 9
  assert {q.task for _, q in made} == set(labels.TASKS) - {"easy_vqa"}


def test_no_question_of_a_picture_has_two_answers(made):
  seen = {}
  for plan, question in made:
    key = id(plan), question.question
    assert seen.setdefault(key, question.answer) == question.answer


def _template(text):
  text = re.sub(r"(is the (upper |lower )?word) \w{3}\?", r"\1 W?", text)
  for names, mark in (
    (labels.COLORS, "C"),
    (labels.SIZES, "Z"),
    (NUMBERS, "N"),
  ):
    text = re.sub(rf"\b({'|'.join(names)})\b", mark, text)
  return re.sub(rf"\b({'|'.join(labels.SHAPES)})(e?s)?\b", "S", text)


def test_answers_are_balanced_in_every_template(made):
  counts = collections.defaultdict(collections.Counter)
  for _, question in made:
    counts[_template(question.question)][question.answer] += 1
  assert len(counts) > 20
  for template, answers in counts.items():
    total = answers.total()
    # Four standard errors of a fair draw, and six points for designs that are
    # uniform only in the plan.
    share = 1 / max(2, len(answers))
    slack = 4 * (share * (1 - share) / total) ** 0.5 + 0.06
    assert answers.most_common(1)[0][1] / total < share + slack, template


def test_counts_are_uniform_by_construction():
  assert sum(scenes.count_probabilities().values()) == pytest.approx(1)
  drawn = collections.Counter(
    len(scenes.sample_scene(np.random.default_rng(s)).items)
    for s in range(2000)
  )
  for count, probability in scenes.count_probabilities().items():
    assert drawn[count] / 2000 == pytest.approx(probability, abs=0.035)


def test_relations_are_clear(made):
  for plan, question in made:
    if " above or below " in question.question:
      first, second = re.fullmatch(
        r"is the (.*) above or below the (.*)\?", question.question
      ).groups()
      gap = _only(plan, first).y - _only(plan, second).y
      assert abs(gap) >= questions.MIN_DISTANCE


def test_drawn_words_are_spelled_and_never_vocabulary(made):
  assert len(words.WORDS) >= 140
  for plan, question in made:
    drawn = plan.words if isinstance(plan, scenes.Scene) else (plan.title,)
    for word in drawn:
      assert words.drawable(word.text) and words.drawable(word.asked)
    for word in re.findall(r"[a-z]+", f"{question.question} {question.answer}"):
      assert word in words.VOCABULARY or len(word) == 3 or len(word) == 1


def test_wrong_words_differ_by_one_letter():
  rng = np.random.default_rng(0)
  for word in words.WORDS:
    other = words.sample_neighbor(rng, word)
    assert sum(a != b for a, b in zip(word, other, strict=True)) == 1


def test_language_only_guess_by_hand():
  ask = questions.Question
  train = (
    [ask("a?", "x", "t")] * 2
    + [ask("a?", "y", "t")]
    + [ask("b?", "y", "t")] * 4
  )
  test = [
    ask("a?", "x", "t"),
    ask("a?", "y", "t"),
    # Unknown text: the most frequent answer of the task is y.
    ask("c?", "y", "t"),
    # A task without any train question is never guessed.
    ask("a new one?", "x", "u"),
  ]
  got = language_only.guess(train, test)
  assert got == {
    "t": pytest.approx(2 / 3),
    "u": 0.0,
    "mean": pytest.approx(1 / 3),
  }


def test_language_only_guess_is_near_chance(made):
  asked = [question for _, question in made]
  half = len(asked) // 2
  order = np.random.default_rng(0).permutation(len(asked))
  got = language_only.guess(
    [asked[i] for i in order[:half]], [asked[i] for i in order[half:]]
  )
  assert got["text"] < 0.25 and got["chart"] < 0.3
  assert got["mean"] < 0.35
