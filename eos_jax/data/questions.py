"""Questions of mini_suite and their answers, balanced against guessing.

Yes/no questions draw their answer first and then the question that has it.
Open questions ask what the plan of the picture drew uniformly.
"""

import itertools
import typing

from eos_jax.data import charts, labels, scenes

# Positions are only asked about from these distances in pixels on.
MIN_DISTANCE = 8.0
MIN_FROM_MIDDLE = 4.0
_NUMBER_WORDS = {2: "two", 3: "three", 4: "four", 5: "five"}


class Question(typing.NamedTuple):
  """One question, its answer and its task (one of `labels.TASKS`)."""

  question: str
  answer: str
  task: str


def _pick(rng, choices):
  return choices[rng.integers(len(choices))]


def _shuffled(rng, choices) -> list:
  return [choices[i] for i in rng.permutation(len(choices))]


def plural(shape: str) -> str:
  """The plural of a shape's name."""
  return shape + ("es" if shape == "cross" else "s")


def _yes_no(condition: bool) -> str:
  return "yes" if condition else "no"


def _unique(items, *fields) -> list:
  """The items that no other equals in these fields."""
  key = lambda item: tuple(getattr(item, field) for field in fields)
  keys = [key(item) for item in items]
  return [item for item in items if keys.count(key(item)) == 1]


def _open_counts(rng, scene: scenes.Scene) -> list[Question]:
  items = scene.items
  ask = lambda query, count: Question(
    f"how many {query} are there?", str(count), "counting"
  )
  out = [
    ask(
      f"{scene.color} objects",
      sum(item.color == scene.color for item in items),
    ),
    ask(plural(scene.shape), sum(item.shape == scene.shape for item in items)),
  ]
  # Few objects are rarer than many: asked by the inverse of how often.
  share = scenes.count_probabilities()
  if rng.random() < min(share.values()) / share[len(items)]:
    out.append(ask("objects", len(items)))
  size = _pick(rng, labels.SIZES)
  of_size = sum(item.size == size for item in items)
  if of_size <= labels.MAX_COUNT:
    out.append(ask(f"{size} objects", of_size))
  return out


def _count_checks(rng, scene: scenes.Scene) -> list[Question]:
  items = scene.items
  out = []
  for name, true in (
    (
      f"{scene.color} objects",
      sum(item.color == scene.color for item in items),
    ),
    (plural(scene.shape), sum(item.shape == scene.shape for item in items)),
  ):
    if true in _NUMBER_WORDS:
      right = rng.random() < 0.5
      number = (
        true if right else _pick(rng, sorted(set(_NUMBER_WORDS) - {true}))
      )
      text = f"are there {_NUMBER_WORDS[number]} {name}?"
      out.append(Question(text, _yes_no(right), "counting"))
  counts = {}
  for item in items:
    counts[item.color] = counts.get(item.color, 0) + 1
  pairs = [
    pair
    for pair in itertools.combinations(counts, 2)
    if counts[pair[0]] != counts[pair[1]]
  ]
  if pairs:
    first, second = _shuffled(rng, _pick(rng, pairs))
    text = f"are there more {first} objects than {second} objects?"
    answer = _yes_no(counts[first] > counts[second])
    out.append(Question(text, answer, "counting"))
  return out


def _counting(rng, scene: scenes.Scene) -> list[Question]:
  chosen = _shuffled(rng, _open_counts(rng, scene))[:2]
  checks = _count_checks(rng, scene)
  return chosen + ([_pick(rng, checks)] if checks else [])


def _relation(rng, scene: scenes.Scene) -> list[Question]:
  items = _unique(scene.items, "color", "shape")
  name = lambda item: f"the {item.color} {item.shape}"
  pairs = []
  for first, second in itertools.permutations(items, 2):
    if abs(first.x - second.x) >= MIN_DISTANCE:
      sides = ("left of", "right of")
      pairs.append((first, second, sides, int(first.x > second.x)))
    if abs(first.y - second.y) >= MIN_DISTANCE:
      sides = ("above", "below")
      pairs.append((first, second, sides, int(first.y > second.y)))
  out = []
  if pairs:
    first, second, sides, true = _pick(rng, pairs)
    asked = int(rng.integers(2))
    text = f"is {name(first)} {sides[asked]} {name(second)}?"
    out.append(Question(text, _yes_no(asked == true), "relation"))
    first, second, sides, true = _pick(rng, pairs)
    either = f"{sides[0].removesuffix(' of')} or {sides[1]}"
    text = f"is {name(first)} {either} {name(second)}?"
    out.append(Question(text, sides[true].removesuffix(" of"), "relation"))
  middle = labels.SIDE / 2
  placed = [
    item
    for item in items
    if min(abs(item.x - middle), abs(item.y - middle)) >= MIN_FROM_MIDDLE
  ]
  if placed:
    item = _pick(rng, placed)
    vertical = "top" if item.y < middle else "bottom"
    horizontal = "left" if item.x < middle else "right"
    out.append(
      Question(
        f"where is {name(item)}?", f"{vertical} {horizontal}", "relation"
      )
    )
  return out


def _prefer_small(rng, items):
  """Picks an item; small ones count twice."""
  return _pick(rng, items + [item for item in items if item.size == "small"])


def _attribute(rng, scene: scenes.Scene) -> list[Question]:
  out = []
  by_shape = _unique(scene.items, "size", "shape")
  by_color = _unique(scene.items, "size", "color")
  # The asked size is drawn before the object, so both are equally likely.
  size = _pick(rng, labels.SIZES)
  by_both = [
    item for item in _unique(scene.items, "color", "shape") if item.size == size
  ]
  if by_shape:
    item = _prefer_small(rng, by_shape)
    text = f"what colour is the {item.size} {item.shape}?"
    out.append(Question(text, item.color, "attribute"))
  if by_color:
    item = _prefer_small(rng, by_color)
    text = f"what shape is the {item.size} {item.color} object?"
    out.append(Question(text, item.shape, "attribute"))
  if by_both:
    item = _pick(rng, by_both)
    text = f"what size is the {item.color} {item.shape}?"
    out.append(Question(text, size, "attribute"))
  chosen = _shuffled(rng, out)[:2]
  if by_shape:
    item = _prefer_small(rng, by_shape)
    right = rng.random() < 0.5
    others = [c for c in labels.OBJECT_COLORS if c != item.color]
    color = item.color if right else _pick(rng, others)
    text = f"is the {item.size} {item.shape} {color}?"
    chosen.append(Question(text, _yes_no(right), "attribute"))
  return chosen


def _text(rng, drawn: tuple[scenes.Word, ...]) -> list[Question]:
  names = ["upper word", "lower word"] if len(drawn) == 2 else ["word"]
  opens, others = [], []
  for name, word in zip(names, drawn, strict=True):
    opens.append(Question(f"what is the {name}?", word.text, "text"))
    others.append(
      Question(
        f"which letter does the {name} start with?", word.text[0], "text"
      )
    )
    others.append(
      Question(
        f"is the {name} {word.asked}?",
        _yes_no(word.asked == word.text),
        "text",
      )
    )
  return opens + _shuffled(rng, others)[: 3 - len(opens)]


def scene_questions(rng, scene: scenes.Scene) -> tuple[Question, ...]:
  """About 8 to 12 questions of four tasks on a scene, in random order."""
  out = (
    _counting(rng, scene)
    + _relation(rng, scene)
    + _attribute(rng, scene)
    + _text(rng, scene.words)
  )
  return tuple(_shuffled(rng, out))


def chart_questions(rng, chart: charts.Chart) -> tuple[Question, ...]:
  """Seven questions on a chart, one of them on its title."""
  bars = chart.bars
  by_height = sorted(bars, key=lambda bar: bar.height)
  ask = lambda text, answer: Question(text, str(answer), "chart")
  out = [
    ask("which bar is highest?", by_height[-1].color),
    ask("which bar is lowest?", by_height[0].color),
    ask("how many bars are there?", len(bars)),
  ]
  for bar in _shuffled(rng, bars)[:2]:
    out.append(ask(f"how high is the {bar.color} bar?", bar.height))
  pairs = [
    pair
    for pair in itertools.permutations(bars, 2)
    if pair[0].height != pair[1].height
  ]
  first, second = _pick(rng, pairs)
  out.append(
    ask(
      f"is the {first.color} bar higher than the {second.color} bar?",
      _yes_no(first.height > second.height),
    )
  )
  out.append(_pick(rng, _text(rng, (chart.title,))))
  return tuple(_shuffled(rng, out))
