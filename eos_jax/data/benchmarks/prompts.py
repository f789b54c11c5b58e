"""What a model is asked in each benchmark, as two harnesses word it.

A prompt is the user's turn without pictures. Wording moves scores by points, so
that numbers under different protocols are not comparable. Sources:
EvolvingLMMs-Lab/lmms-eval `lmms_eval/tasks/*/utils.py` and their defaults;
haotian-liu/LLaVA `scripts/` and `llava/eval/model_vqa*.py`.
"""

from collections.abc import Mapping, Sequence

PROTOCOLS = ("lmms_eval", "llava")

# Most tokens of an answer: for all benchmarks, and for those with another.
_LENGTHS = {
  "llava": (128, {"mmbench": 1024, "scienceqa": 1024, "mmvet": 1024}),
  "lmms_eval": (
    16,
    {"pope": 128, "ocrbench": 128, "mmbench": 1024, "mmvet": 1024},
  ),
}

# What `pandas.read_table` takes for a missing value by default.
_NA = frozenset(
  "#N/A|#N/A N/A|#NA|-1.#IND|-1.#QNAN|-NaN|-nan|1.#IND|1.#QNAN|<NA>|N/A|NA"
  "|NULL|NaN|None|n/a|nan|null".split("|")
)

SHORT = "\nAnswer the question using a single word or phrase."
WORD = "\nAnswer the question with a single word."
LETTER = "\nAnswer with the option's letter from the given choices directly."
_YES_NO = " Please answer yes or no."


def answer_length(benchmark: str, protocol: str) -> int:
  """Most tokens of an answer, as a protocol has it."""
  most, others = _LENGTHS[protocol]
  return others.get(benchmark, most)


def listed(choices: Sequence[str]) -> str:
  """Choices after their letters, a line each: "A. red" and so on."""
  return "\n".join(
    f"{chr(ord('A') + place)}. {choice}" for place, choice in enumerate(choices)
  )


def short(question: str) -> str:
  """VQAv2, GQA and POPE: a question that a word or phrase answers."""
  return question + SHORT


def textvqa(question: str, tokens: Sequence[str] | None, protocol: str) -> str:
  """TextVQA; with `tokens`, the words that an OCR system has found."""
  if protocol == "lmms_eval":
    question = question.capitalize()
  if tokens is None:
    return short(question)
  return short(f"{question}\nReference OCR token: {', '.join(tokens)}")


def mme(question: str) -> str:
  """MME: its own demand of yes or no makes way for the short answer's."""
  return short(question.strip().replace(_YES_NO, ""))


def chartqa(question: str) -> str:
  """ChartQA."""
  return question + WORD


def letter(question: str, choices: Sequence[str]) -> str:
  """SEED-Bench and AI2D: a question with choices."""
  return f"{question}\n{listed(choices)}{LETTER}"


def scienceqa(
  question: str, choices: Sequence[str], hint: str, protocol: str
) -> str:
  """ScienceQA; LLaVA says N/A where there is no hint."""
  if protocol == "llava":
    options = " ".join(
      f"({chr(ord('A') + place)}) {choice}"
      for place, choice in enumerate(choices)
    )
    context = hint.strip() or "N/A"
    asked = f"Context: {context}\nQuestion: {question}\nOptions: {options}"
    return asked.replace("  ", " ") + LETTER
  context = f"Context: {hint}\n" if hint else ""
  return context + letter(question, choices)


def mmbench(row: Mapping[str, str], protocol: str) -> str:
  """MMBench.

  LLaVA's script knows four options, and cuts them at the first that is absent;
  lmms-eval passes over those. What is absent also differs; see `is_absent`.
  """
  choices = [
    (letter, row[letter])
    for letter in ("ABCD" if protocol == "llava" else "ABCDE")
    if letter in row
  ]
  absent = [is_absent(choice, protocol) for _, choice in choices]
  if protocol == "llava":
    end = absent.index(True) if True in absent else len(choices)
    choices = choices[:end]
  shown = [
    f"{letter}. {choice}"
    for letter, choice in choices
    if not is_absent(choice, protocol)
  ]
  hint = row.get("hint", "")
  hint = "" if is_absent(hint, protocol) else hint
  if protocol == "llava":
    asked = [*([hint] if hint else []), row["question"], *shown]
    return "\n".join(asked) + LETTER
  hint = f"{hint} " if hint else ""
  options = "\n".join(["There are several options:", *shown])
  return f"{hint}{row['question']} {options}\n{LETTER}"


def mmbench_choices(row: Mapping[str, str], protocol: str) -> dict[str, str]:
  """Options of a row of MMBench by letter, to judge an answer by.

  That of the right answer is one of them even if the prompt does not show it.
  """
  return {
    letter: row[letter]
    for letter in "ABCDE"
    if row.get(letter, "").strip()
    and (not is_absent(row[letter], protocol) or letter == row.get("answer"))
  }


def mmstar(question: str) -> str:
  """MMStar, whose questions hold their options."""
  return question.strip() + LETTER.removesuffix(".")


def is_absent(cell: str, protocol: str) -> bool:
  """Whether a cell of MMBench counts as empty.

  In lmms-eval's data set "nan" stands for what is missing. LLaVA's script reads
  the table with pandas, to which a number of words mean that, and takes "nan"
  and "none" in any case for it.
  """
  if protocol == "llava":
    return not cell.strip() or cell in _NA or cell.lower() in ("nan", "none")
  return not cell.strip() or cell == "nan"
