"""Letters of options in answers: MMBench, MMStar, SEED, ScienceQA, AI2D, ...

Each benchmark's own code and each harness read answers in a way of its own, and
the same answers get other scores. All of them are here, under the name of whose
they are.

Sources: open-compass/VLMEvalKit `vlmeval/utils/matching_util.py`;
EvolvingLMMs-Lab/lmms-eval `lmms_eval/tasks/_task_utils/mcq_extract.py`,
`mmbench/mmbench_evals.py`, `scienceqa/utils.py`, `seedbench/utils.py`,
`ai2d/ai2d.yaml`, `realworldqa/utils.py`; MMStar-Benchmark/MMStar
`eval/vlmeval/evaluate/mmstar.py`; haotian-liu/LLaVA
`llava/eval/eval_science_qa.py`, `scripts/convert_seed_for_submission.py`.
"""

from collections.abc import Mapping, Sequence
import re
import string

LETTERS = string.ascii_uppercase
# Those that most benchmarks have.
FOUR = LETTERS[:4]
# Where a passage of MMBench ends and the next begins, in numbers of rows.
PASS = 1_000_000

_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)

_SUBJECTS = ("answer", "correct answer", "best answer", "correct option")
_SUBJECTS += ("best option", "choice", "correct choice")
_PHRASES = (
  *(f"{the}{subject} is" for subject in _SUBJECTS for the in ("the ", "")),
  *("i choose", "i select", "i pick", "my answer is", "my choice is"),
  *("옵션", "정답은", "답은", "답:", "答案是", "答案为", "选", "答えは"),
)


def extracted(text: str, letters: str = LETTERS[:8]) -> str:
  """The letter that lmms-eval's shared extractor finds; "" = none.

  Of all letters that stand in some form, those of the surest form win, and of
  these the last.

  >>> extracted("It is B, not A"), extracted("The answer is D."), extracted("d")
  ('A', 'D', '')
  """
  bare = text.strip()
  for mark in ",.!?;:'\"":
    bare = bare.strip(mark)
  padded, bare = f" {bare} ", bare.strip()
  # How sure a form is, where the letter stands, the letter.
  found: list[tuple[int, int, str]] = []
  for letter in letters:
    for sure, form in (
      (6, f"({letter})"),
      (5, f"{letter}."),
      (4, f"{letter}:"),
      (3, f"{letter})"),
      (2, f"{letter} "),
    ):
      if form in padded:
        found.append((sure, padded.rfind(form), letter))
    for phrase in _PHRASES:
      start = padded.lower().find(phrase)
      place = padded.find(letter, start + len(phrase)) if start >= 0 else -1
      if place >= 0:
        found.append((7, place, letter))
    alone = len(bare) == 1
    if bare.startswith(letter) and (alone or not bare[1].isalpha()):
      found.append((10, 0, letter))
    if bare.endswith(letter) and (alone or not bare[-2].isalpha()):
      found.append((9, len(padded) - 1, letter))
  if not found:
    found = [(0, padded.rfind(x), x) for x in letters if x in padded]
  return max(found, key=lambda item: item[:2])[2] if found else ""


_REFUSALS = (
  "Sorry, I can't help with images of people yet.",
  "I can't process this file.",
  "I'm sorry, but without the image provided",
  "Cannot determine the answer",
)
_FAILED = "Failed to obtain answer via API"


def mmbench_vlmevalkit(text: str, choices: Mapping[str, str]) -> str | None:
  """The letter that VLMEvalKit infers without a judge; None = it cannot.

  One letter of a choice among the last four words, or after "answer is", or
  else the one choice whose text is contained. "Z" is a refusal.

  Args:
    text: an answer.
    choices: text of each letter.

  >>> mmbench_vlmevalkit("a rabbit", {"A": "cat", "B": "rabbit"})
  'B'
  """
  letter = None
  if _FAILED not in text:
    letter = _vlmevalkit_letter(text, choices)
  if letter:
    return letter
  # Lower case first: it can be longer.
  if len(text.lower()) > 2 * sum(len(str(c)) for c in choices.values()):
    return None
  return _contained(text, choices)


def _vlmevalkit_letter(text, choices):
  if any(refusal in text for refusal in _REFUSALS):
    return "Z"
  words = text
  for mark in ".()[],:;!*#{}":
    words = words.replace(mark, " ")
  words = words.split()
  there = [letter for letter in choices if letter in words]
  if len(there) == 1 and words.index(there[0]) > len(words) - 5:
    return there[0]
  if not there and "Z" in words:
    return "Z"
  told = re.search(r"answer\s+is\s+\**([ABCD])\**", text, re.IGNORECASE)
  if told and told[1].upper() in choices:
    return told[1].upper()
  return None


def mmbench_lmms_eval(text: str, choices: Mapping[str, str]) -> str | None:
  """The letter that lmms-eval infers without a judge; None = it cannot.

  >>> mmbench_lmms_eval("[D]", {"A": "cat", "D": "dog"})
  """
  letter = None
  if _FAILED not in text:
    letter = _lmms_eval_letter(text.split())
  options = {x: choice for x, choice in choices.items() if x in FOUR}
  return letter or _contained(text, options)


def mmbench_static(text: str, choices: Mapping[str, str]) -> str | None:
  """The letter that lmms-eval reads in its variant without a judge.

  It is inferred, or else found by the shared extractor.

  >>> mmbench_static("[D]", {"A": "cat", "B": "rat", "C": "owl", "D": "dog"})
  'D'
  """
  offered = "".join(x for x in FOUR if x in choices)
  return mmbench_lmms_eval(text, choices) or extracted(text, offered) or None


_FORMS = ("{}.", "{},", "{}:", "{})", "{}).", "({})", "({}).")
_FORMS += (":{}", ":{},", ":{}.", ":{})", ":{}).")


def _lmms_eval_letter(words):
  letters = LETTERS[:5]
  there = [letter for letter in letters if letter in words]
  # A longer answer with an A may mean the article.
  if len(there) == 1 and not ("A" in words and len(words) > 3):
    return there[0]
  for form in _FORMS:
    there = [letter for letter in letters if form.format(letter) in words]
    if len(there) == 1:
      return there[0]
  return None


def _contained(text, choices):
  """The one choice whose text is in the answer."""
  text = text.lower()
  there = [x for x, choice in choices.items() if str(choice).lower() in text]
  return there[0] if len(there) == 1 else None


def hits_every_pass(right: Mapping[int, bool]) -> bool:
  """Whether a question counts in MMBench's CircularEval.

  Args:
    right: by the number of the row, those of all passes of one question; a
      pass has its options rotated, and `PASS` added to the number.

  >>> hits_every_pass({7: True, 1000007: False})
  False
  """
  return all(right.values())


def mmstar_official(text: str, answer: str) -> bool:
  """Whether MMStar's own code counts an answer.

  >>> mmstar_official("Both A and A", "B"), mmstar_official("[A]", "A")
  (True, False)
  """
  text, answer = (x.lower().strip().replace("\n", " ") for x in (text, answer))
  for start in ("", "(", "option ", "the answer is "):
    place = len(start)
    if text.startswith(start) and text[place : place + 1] == answer != "":
      return True
  return False


def scienceqa_llava(text: str) -> str:
  """The letter that LLaVA reads in an answer to ScienceQA, or "FAILED".

  >>> scienceqa_llava("D. "), scienceqa_llava("D."), scienceqa_llava("E")
  ('D', 'FAILED', 'E')
  """
  letters = LETTERS[:5]
  if text in tuple(letters):
    return text
  if text[:1] in tuple(letters) and text[1:3] == ". ":
    return text[0]
  told = re.findall(r"The answer is ([A-Z]).", text)
  return told[0] if len(told) == 1 else "FAILED"


def scienceqa_lmms_eval(text: str, answer: str) -> bool:
  """Whether lmms-eval counts an answer to ScienceQA."""
  text = text.strip()
  if len(text) == 1:
    return text.lower() == answer.lower()
  return text[:1].isupper() and text[1:2] == "." and text[0] == answer


def seed_lmms_eval(text: str, answer: str) -> bool:
  """Whether lmms-eval counts an answer to SEED-Bench: by its first character.

  LLaVA wants the letter and nothing else.
  """
  return text.strip()[:1].lower() == answer.strip().lower() != ""


def ai2d_filtered(text: str) -> str:
  """A letter with a full stop at the start of an answer, or all of it."""
  found = re.match(r"\s*([A-Z])\.", text)
  return found[1] if found else text


def without_punctuation(text: str) -> str:
  """Lower case without punctuation; spaces stay (lmms-eval's exact match).

  >>> without_punctuation("(Yes) .")
  'yes '
  """
  # There a text is an entry of a numpy array: trailing null characters are
  # lost, and its lower case is cut to the length that it had.
  lower = text.rstrip("\0").lower()[: len(text)]
  return lower.translate(_NO_PUNCTUATION).rstrip("\0")


def ai2d(text: str, answer: str) -> bool:
  """Whether lmms-eval counts an answer to AI2D."""
  given = without_punctuation(ai2d_filtered(text))
  return given == without_punctuation(answer)


def realworldqa(text: str, answer: str) -> bool:
  """Whether lmms-eval counts an answer to RealWorldQA."""
  answer = answer.strip()
  if answer.upper() in tuple(FOUR):
    return extracted(text, FOUR) == answer.upper()
  return text.lower().strip().rstrip(".") == answer.lower()


def named(choices: Sequence[str]) -> dict[str, str]:
  """Choices by their letters.

  >>> named(["red", "blue"])
  {'A': 'red', 'B': 'blue'}
  """
  return dict(zip(LETTERS, choices, strict=False))
