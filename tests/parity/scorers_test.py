"""Every scorer gives what the code that it is named after gives.

Random and adversarial answers are scored here and by the original code:

    EOS_SCORER_SOURCES=/path/to/checkouts python -m pytest -m full \\
      tests/parity/scorers_test.py

`tests/parity/scorers.py` says what the folder has to hold.
"""

import os
import random
import types

import pytest

from eos_jax.evaluation.scoring import (
  benchmarks,
  letters,
  texts,
  vqa,
  yes_no,
)
from tests.parity import scorers

_FOLDER = os.environ.get("EOS_SCORER_SOURCES", "")
_ANSWERS = 20_000

pytestmark = [
  pytest.mark.full,
  pytest.mark.skipif(
    not _FOLDER, reason="EOS_SCORER_SOURCES names no checkouts"
  ),
]

_OPTIONS = ("cat", "banana", "a red car", "nan", "None", "Ｂ", "10", "yes", "ß")
_WORDS = (
  *("A", "B", "C", "D", "E", "F", "a", "b", "c", "d", "Z", "K", "\u212a"),
  *("yes", "no", "Yes", "No", "YES", "NO", "not", "none", "know", "n", "y"),
  *("the answer is", "The answer is", "answer is", "correct answer is"),
  *("option", "I choose", "my choice is", "답은", "答案是", "选", "答えは"),
  *("zero", "two", "ten", "The", "an", "dont", "Im", "isnt", "somebodyd"),
  *("'twas", "twas", "it's", "youd've", "wouldntve", "oclock", "yall'd've"),
  *("1", "0", "10", "10.2", "9.5", "50%", "50 %", "1,000", "1_0", "1e3", "-2"),
  *("nan", "inf", "٣", "²", "½", "0.0", "%", "1e400", "+5", ".5", "5."),
  *("cat", "banana", "a red car", "None", "Ｃａｔ", "Ａ", "１０", "STRASSE"),
  *("İ", "ı", "ſ", "ﬁ", "ß", "Σς", "é", "e\u0301", "\u3000", "\u200b", "\0"),
  *("Failed to obtain answer via API", "Cannot determine the answer"),
  *("I can't process this file.", "<think>", "x" * 40, "T-shirt", "5:30"),
)
_MARKS = tuple(".,;:!?()[]{}*#/\\\"'-_=+<>@`%&|~") + ("...", "**", "''", "'s")
_SPACES = (" ", "  ", "\n", "\t", "\r", "\x0b", "\x1c", "\xa0", "\u2028", "")


def _answer(draw):
  """One answer: words, marks and spaces at random, often very short."""
  parts = []
  for _ in range(draw.choice((0, 1, 1, 1, 2, 2, 3, 4, 6, 9))):
    word = draw.choice(_WORDS)
    if draw.random() < 0.3:
      word = draw.choice(_MARKS) + word
    if draw.random() < 0.4:
      word += draw.choice(_MARKS)
    parts += [word, " " if draw.random() < 0.7 else draw.choice(_SPACES)]
  return "".join(parts)


def _people(draw):
  """Ten answers, some of them equal, sometimes all."""
  pool = [_answer(draw) for _ in range(draw.choice((1, 2, 3, 10)))]
  return [draw.choice(pool) for _ in range(10)]


def _choices(draw):
  count = draw.choice((2, 3, 4, 4, 4))
  return letters.named(draw.sample(_OPTIONS, count))


@pytest.fixture(scope="module")
def sources():
  return scorers.Sources(_FOLDER)


@pytest.fixture
def draw(request):
  return random.Random(request.node.name)


def _same(capsys, name, cases, ours, theirs):
  """Compares two scorers on cases, and shows how many agree."""
  different = [
    (case, mine, wanted)
    for case, mine, wanted in zip(cases, ours, theirs, strict=True)
    if mine != wanted
  ]
  with capsys.disabled():
    print(f"\n{name}: {len(cases)} answers, {len(different)} differ", end="")
  assert not different, different[:5]


def _score(name, protocol, text, answers, choices=(), **groups):
  """The score of one answer, as a run of a benchmark has it."""
  sample = types.SimpleNamespace(
    id="0", answers=answers, choices=choices, groups=groups
  )
  return benchmarks.SCORES[name]([(sample, text)], protocol).value


def _percents(rows):
  return [100 * float(row) for row in rows]


def _rounded(values):
  return [round(float(value), 9) for value in values]


def test_vqa(sources, draw, capsys):
  given = [_answer(draw) for _ in range(_ANSWERS)]
  ours = [vqa.submitted(text) for text in given]
  theirs = [sources.submitted(text) for text in given]
  _same(capsys, "VQA submission (LLaVA)", given, ours, theirs)
  people = [_people(draw) for _ in given]
  cases = [
    (draw.choice(said) if draw.random() < 0.5 else text, said)
    for text, said in zip(given, people, strict=True)
  ]
  ours = _rounded(vqa.vqav2_official(*case) for case in cases)
  theirs = sources.vqav2_official([text for text, _ in cases], people)
  _same(capsys, "VQAv2 (official)", cases, ours, _rounded(theirs))
  ours = _rounded(_score("vqav2", "lmms_eval", *case) for case in cases)
  theirs = [sources.vqav2_lmms_eval(*case)[0] for case in cases]
  theirs = _rounded(_percents(theirs))
  _same(capsys, "VQAv2 (lmms-eval)", cases, ours, theirs)
  for protocol, function in (
    ("llava", sources.textvqa_llava),
    ("lmms_eval", lambda *case: sources.textvqa_lmms_eval(*case)[0]),
  ):
    ours = _rounded(_score("textvqa", protocol, *case) for case in cases)
    theirs = _rounded(_percents(function(*case) for case in cases))
    _same(capsys, f"TextVQA ({protocol})", cases, ours, theirs)


def test_gqa(sources, draw, capsys, tmp_path):
  given = [_answer(draw) for _ in range(_ANSWERS)]
  ours = [texts.gqa_converted(text) for text in given]
  theirs = sources.gqa_converted(given, tmp_path)
  _same(capsys, "GQA (LLaVA)", given, ours, theirs)
  cases = [
    (text, draw.choice((text.lower().strip(), text, _answer(draw))))
    for text in given
  ]
  ours = [_score("gqa", "lmms_eval", text, [said]) for text, said in cases]
  theirs = _percents(sources.exact_lmms_eval(*case) for case in cases)
  _same(capsys, "GQA (lmms-eval)", cases, ours, theirs)


def test_yes_no(sources, draw, capsys, tmp_path):
  given = [_answer(draw) for _ in range(_ANSWERS)]
  ours = [yes_no.pope_llava(text) for text in given]
  theirs = sources.pope_llava(given, tmp_path)
  _same(capsys, "POPE (LLaVA)", given, ours, theirs)
  # MME's lines have no line breaks and tabs.
  lines = [text.replace("\n", " ").replace("\t", " ") for text in given]
  ours = [yes_no.mme_official(text) for text in lines]
  theirs = [sources.mme_official(text) for text in lines]
  _same(capsys, "MME (official)", lines, ours, theirs)
  ours = [yes_no.mme_lmms_eval(text) for text in given]
  theirs = [sources.mme_lmms_eval(text) for text in given]
  _same(capsys, "MME (lmms-eval)", given, ours, theirs)


def test_pope_scores(sources, draw, capsys):
  cases = []
  for _ in range(_ANSWERS // 20):
    labels = [draw.choice(("yes", "no")) for _ in range(20)]
    said = [draw.choice(("yes", "No", "no ", _answer(draw))) for _ in labels]
    cases.append(list(zip(said, labels, strict=True)))
  ours = [yes_no.pope_lmms_eval_scores(case) for case in cases]
  theirs = [sources.pope_lmms_eval(case) for case in cases]
  _same(capsys, "POPE scores (lmms-eval), runs of 20", cases, ours, theirs)


def test_pope_counts(sources, draw, capsys, tmp_path):
  cases, ours = [], []
  for _ in range(_ANSWERS // 40):
    labels = ["yes", "no", *(draw.choice(("yes", "no")) for _ in range(38))]
    said = [draw.choice(("yes", "No", _answer(draw))) for _ in labels]
    said[0] = "yes"  # LLaVA's code divides by the answers yes that are right
    cases.append(list(zip(said, labels, strict=True)))
    answered = [
      (types.SimpleNamespace(answers=[label], groups={"split": "s"}), text)
      for text, label in cases[-1]
    ]
    score, counts = benchmarks.pope(answered, "llava"), ("tp", "fp", "tn", "fn")
    shares = ("accuracy", "precision", "recall", "f1", "yes_ratio")
    ours.append(
      [score.parts[f"s {name}"] for name in counts]
      + [score.parts[f"s {name}"] / 100 for name in shares]
    )
  theirs = [sources.pope_scores_llava(case, tmp_path) for case in cases]
  ours, theirs = map(_rounded, ours), map(_rounded, theirs)
  _same(capsys, "POPE scores (LLaVA), runs of 40", cases, ours, theirs)


def _mme_run(draw):
  """Rows of all subtasks, two questions a picture."""
  rows = []
  for subtask in (*yes_no.PERCEPTION, *yes_no.COGNITION):
    for picture in range(10):
      for truth in draw.sample(("Yes", "No"), 2):
        text = draw.choice((truth, f" {truth}.", "no", _answer(draw)))
        # The lines of the official files hold no line breaks and tabs.
        text = " ".join(text.replace("\t", " ").splitlines())
        rows.append((subtask, str(picture), truth, text))
  return rows


def test_mme_scores(sources, draw, capsys, tmp_path):
  cases = [_mme_run(draw) for _ in range(72)]

  def score(rows, protocol):
    answered = []
    for subtask, picture, truth, text in rows:
      groups = {"subtask": subtask, "picture": picture}
      sample = types.SimpleNamespace(answers=[truth], groups=groups)
      answered.append((sample, text))
    parts = benchmarks.mme(answered, protocol).parts
    sums = [parts["perception"], parts["cognition"]]
    return sums, {n: v for n, v in parts.items() if n not in _SUMS}

  def rounded(sums, parts):
    return _rounded(sums), {n: round(v, 9) for n, v in parts.items()}

  ours = [rounded(*score(rows, "llava")) for rows in cases]
  theirs = [
    rounded(*sources.mme_scores_official(rows, tmp_path)) for rows in cases
  ]
  _same(capsys, "MME scores (official), runs of 280", cases, ours, theirs)
  ours = [_rounded(score(rows, "lmms_eval")[0]) for rows in cases]
  theirs = [_rounded(sources.mme_scores_lmms_eval(rows)) for rows in cases]
  _same(capsys, "MME scores (lmms-eval), runs of 280", cases, ours, theirs)


_SUMS = ("perception", "cognition")


def test_seed_llava(sources, draw, capsys, tmp_path):
  cases = []
  for _ in range(_ANSWERS):
    answer = draw.choice("ABCD")
    text = draw.choice((answer, answer.lower(), f"{answer}.", _answer(draw)))
    cases.append((text, answer))
  answered = []
  for number, (text, answer) in enumerate(cases):
    groups = {
      "type": str(number % 3),
      "data": "image" if number % 3 else "video",
    }
    sample = types.SimpleNamespace(answers=[answer], groups=groups)
    answered.append((sample, text))
  found = benchmarks.SCORES["seed"](answered, "llava")
  order = [found.parts[f"type: {i}"] for i in range(3)]
  order += [found.value, found.parts["data: image"], found.parts["data: video"]]
  ours = [f"{value:.2f}" for value in order]
  theirs = sources.seed_llava(cases, tmp_path)
  assert len(theirs) == len(ours)
  _same(capsys, "SEED-Bench (LLaVA), sums of 20,000", ours, ours, theirs)
  hits = [_score("seed", "llava", *case[:1], [case[1]]) for case in cases]
  assert sum(hits) / len(hits) == pytest.approx(found.value)


def test_extracted_letters(sources, draw, capsys):
  given = [_answer(draw) for _ in range(_ANSWERS)]
  ours = [letters.extracted(text) for text in given]
  theirs = [sources.extracted(text) for text in given]
  _same(capsys, "letters (lmms-eval)", given, ours, theirs)
  cases = [(text, draw.choice("ABCDabcd")) for text in given]
  ours = [_star("lmms_eval", *case) for case in cases]
  theirs = _percents(sources.mmstar_lmms_eval(*case) for case in cases)
  _same(capsys, "MMStar (lmms-eval)", cases, ours, theirs)
  ours = [_star("llava", *case) for case in cases]
  theirs = _percents(sources.mmstar_official(*case) for case in cases)
  _same(capsys, "MMStar (official)", cases, ours, theirs)
  cases = [
    (text, draw.choice(("A", "d ", "E", "z", "2", "Yes", text, text.lower())))
    for text in given
  ]
  ours = [_score("realworldqa", "lmms_eval", t, [said]) for t, said in cases]
  theirs = _percents(sources.realworldqa(*case) for case in cases)
  _same(capsys, "RealWorldQA (lmms-eval)", cases, ours, theirs)


def _star(protocol, text, answer):
  return _score("mmstar", protocol, text, [answer], l2_category="x")


def test_letters_of_harnesses(sources, draw, capsys):
  given = [_answer(draw) for _ in range(_ANSWERS)]
  cases = [(text, draw.choice("ABCD")) for text in given]
  ours = [_score("seed", "lmms_eval", text, [said]) for text, said in cases]
  theirs = _percents(sources.seed_lmms_eval(*case) for case in cases)
  _same(capsys, "SEED-Bench (lmms-eval)", cases, ours, theirs)
  ours = [letters.ai2d_filtered(text) for text in given]
  theirs = [sources.ai2d_filtered(text) for text in given]
  _same(capsys, "AI2D filter (lmms-eval)", given, ours, theirs)
  ours = [_score("ai2d", "lmms_eval", text, [said]) for text, said in cases]
  theirs = _percents(
    sources.exact_lmms_eval(sources.ai2d_filtered(text), said)
    for text, said in cases
  )
  _same(capsys, "AI2D (lmms-eval)", cases, ours, theirs)


def test_scienceqa(sources, draw, capsys, tmp_path):
  cases = []
  for _ in range(_ANSWERS):
    choices = [draw.choice(_OPTIONS) for _ in range(draw.randint(2, 5))]
    cases.append((_answer(draw), choices, draw.randrange(len(choices))))
  found = sources.scienceqa_llava(cases, tmp_path)
  ours = [letters.scienceqa_llava(text) for text, _, _ in cases]
  theirs = [letter for letter, _ in found]
  _same(capsys, "ScienceQA letters (LLaVA)", cases, ours, theirs)
  for protocol, theirs in (
    ("llava", [hit for _, hit in found]),
    (
      "lmms_eval",
      [sources.scienceqa_lmms_eval(t, said, c) for t, c, said in cases],
    ),
  ):
    ours = [
      _score("scienceqa", protocol, t, [letters.LETTERS[said]], named)
      for t, c, said in cases
      for named in [letters.named(c)]
    ]
    name = f"ScienceQA ({protocol})"
    _same(capsys, name, cases, ours, _percents(theirs))


def test_mmbench(sources, draw, capsys):
  cases = []
  for _ in range(_ANSWERS):
    choices = _choices(draw)
    text = _answer(draw)
    if draw.random() < 0.3:
      text += draw.choice(list(choices.values()))
    cases.append((text, choices))
  for name in ("mmbench_vlmevalkit", "mmbench_lmms_eval"):
    ours = [getattr(letters, name)(*case) for case in cases]
    theirs = [getattr(sources, name)(*case) for case in cases]
    _same(capsys, name, cases, ours, theirs)


def test_mmbench_static(sources, draw, capsys):
  """All passes of a question, scored without a judge."""
  cases, ours, theirs = [], [], []
  for _ in range(_ANSWERS):
    choices, rows, answered = _choices(draw), [], []
    for number in range(draw.choice((1, 2, 2))):
      said, answer = _answer(draw), draw.choice(list(choices))
      if draw.random() < 0.6:
        said = draw.choice((answer, f"{answer}.", f"({answer}) {said}"))
      index = 7 + number * letters.PASS
      rows.append({"index": index, "answer": answer, "prediction": said})
      rows[-1] |= {x: choices.get(x, "nan") for x in "ABCD"}
      sample = types.SimpleNamespace(
        id=str(index), answers=[answer], choices=choices, groups={}
      )
      answered.append((sample, said))
    cases.append(rows)
    ours.append(benchmarks.mmbench(answered, "lmms_eval").value)
    theirs.append(100.0 * sources.mmbench_static(rows))
  _same(capsys, "MMBench, static (lmms-eval)", cases, ours, theirs)


def test_chartqa(sources, draw, capsys):
  cases = []
  for _ in range(_ANSWERS):
    answer = _answer(draw).strip()
    text = draw.choice((_answer(draw), answer.upper(), answer))
    cases.append((text, answer))
  for _ in range(_ANSWERS):
    number = draw.choice((0.0, draw.uniform(-100, 100), draw.uniform(0, 1)))
    near = number * draw.choice((1, 1.05, 0.95, draw.uniform(0.9, 1.1)))
    form = draw.choice(("{}", "{:.2f}", "{:g}%", " {:.1f}", "{:.3e}"))
    cases.append((form.format(near), form.format(number).strip()))
  ours = [_score("chartqa", "lmms_eval", t, [said]) for t, said in cases]
  theirs = _percents(sources.chartqa(*case) for case in cases)
  _same(capsys, "ChartQA (lmms-eval)", cases, ours, theirs)


def test_ocrbench(sources, draw, capsys):
  cases = []
  for _ in range(_ANSWERS):
    answers = [_answer(draw) for _ in range(draw.randint(1, 3))]
    text = _answer(draw)
    if draw.random() < 0.5:
      text += draw.choice((str, str.lower, str.strip))(draw.choice(answers))
    cases.append((text, answers, draw.choice(("ct80", "HME100k"))))
  for protocol, function in (
    ("llava", sources.ocrbench_repository),
    ("lmms_eval", sources.ocrbench_lmms_eval),
  ):
    ours = [
      _score("ocrbench", protocol, text, answers, dataset=dataset, type="x")
      for text, answers, dataset in cases
    ]
    theirs = [float(function(*case)) for case in cases]
    _same(capsys, f"OCRBench ({protocol})", cases, ours, theirs)
