"""Soft accuracy over ten human answers: VQAv2 and TextVQA.

Sources: GT-Vision-Lab/VQA `PythonEvaluationTools/vqaEvaluation/vqaEval.py`;
haotian-liu/LLaVA `llava/eval/m4c_evaluator.py`; EvolvingLMMs-Lab/lmms-eval
`lmms_eval/tasks/_task_utils/vqa_eval_metric.py`. Their quirks are kept: scores
that papers print depend on them.
"""

from collections.abc import Sequence
import re

_NUMBERS = ("zero", "one", "two", "three", "four", "five")
_NUMBERS += ("six", "seven", "eight", "nine", "ten")
_DIGITS = {word: str(number) for number, word in enumerate(_NUMBERS)}
_DIGITS["none"] = "0"
_ARTICLES = ("a", "an", "the")
_MARKS = ';/[]"{}()=+\\_-><@`,?!'

# Words that are mended if one of their apostrophes is missing.
_CONTRACTIONS = """
ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't
hadn't've hasn't haven't he'd he'd've he's how'd how'll how's isn't it'd it'd've
it'll ma'am mightn't mightn't've might've mustn't must've needn't not've o'clock
oughtn't 'ow's'at shan't she'd've should've shouldn't shouldn't've somebody'd've
somebody'll somebody's someone'd someone'd've someone'll someone's something'd
something'd've something'll that's there'd there'd've there're there's they'd
they'd've they'll they're they've 'twas wasn't we'd've we've weren't what'll
what're what's what've when's where'd where's where've who'd who'd've who'll
who's who've why'll why're why's won't would've wouldn't wouldn't've y'all
y'all'll y'all'd've you'd you'd've you'll you're you've
""".split()
_MENDED = {
  word[:place] + word[place + 1 :]: word
  for word in _CONTRACTIONS
  for place, letter in enumerate(word)
  if letter == "'"
}
_MENDED["somebody'd"] = "somebodyd"  # the wrong way round, as everywhere


def without_marks(text: str) -> str:
  """Deletes punctuation or makes it spaces.

  A mark next to a space is deleted, and another becomes a space; where a comma
  stands between digits all marks are deleted. Full stops go unless a digit
  follows, the first 32 of them.

  >>> without_marks("black/white, 3.5"), without_marks("1,000 a-b")
  ('black white 3.5', '1000 ab')
  """
  thousands = re.search(r"(?<=\d),+(?=\d)", text) is not None
  found = text
  for mark in _MARKS:
    beside = f"{mark} " in text or f" {mark}" in text
    found = found.replace(mark, "" if beside or thousands else " ")
  return re.sub(r"\.(?!\d)", "", found, count=32)


def plain_words(text: str) -> str:
  """Lower case, digits for numbers to ten, no articles, apostrophes mended.

  >>> plain_words("The two dogs dont")
  "2 dogs don't"
  """
  words = (_DIGITS.get(word, word) for word in text.lower().split())
  kept = (word for word in words if word not in _ARTICLES)
  return " ".join(_MENDED.get(word, word) for word in kept)


def scored(text: str) -> str:
  """An answer as the scorer of VQAv2 normalises it."""
  return plain_words(without_marks(text))


def submitted(text: str) -> str:
  """An answer as it is written to a submission, and as TextVQA compares it.

  >>> submitted("It's a T-shirt, no?")
  "it 's t shirt no"
  """
  text = text.lower().replace(",", "").replace("?", "").replace("'s", " 's")
  return scored(_one_line(text.strip()))


def agreement(answer: str, people: Sequence[str]) -> float:
  """Mean over people of min(1, others who gave this answer / 3).

  >>> agreement("red", ["red"] * 3 + ["blue"] * 7)
  0.9
  """
  total = sum(person == answer for person in people)
  shares = [min(1.0, (total - (p == answer)) / 3) for p in people]
  return sum(shares) / len(shares)


def vqav2_official(answer: str, people: Sequence[str]) -> float:
  """VQAv2: the share of an answer as submitted.

  Where all people gave the same string nothing is normalised. The mean over
  questions is printed in percent, rounded to two digits.

  >>> vqav2_official("Yes", ["yes"] * 10), vqav2_official("yes", ["yes"] * 10)
  (0.0, 1.0)
  """
  answer, people = _one_line(answer), [_one_line(p) for p in people]
  if len(set(people)) > 1:
    answer, people = scored(answer), [scored(p) for p in people]
  return agreement(answer, people)


def vqav2_lmms_eval(answer: str, people: Sequence[str]) -> float:
  """VQAv2 as lmms-eval has it: a share, always normalised."""
  answer, *people = (scored(_one_line(text)) for text in (answer, *people))
  return agreement(answer, people)


def textvqa(answer: str, people: Sequence[str]) -> float:
  """TextVQA: a share; both harnesses agree."""
  return agreement(submitted(answer), [submitted(p) for p in people])


def _one_line(text):
  return text.replace("\n", " ").replace("\t", " ").strip()
