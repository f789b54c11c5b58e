"""What a model is asked in each benchmark, as two harnesses word it.

A prompt is the user's turn without pictures. Wording moves scores by points, so
that numbers under different protocols are not comparable. Sources:
EvolvingLMMs-Lab/lmms-eval `lmms_eval/tasks/*/utils.py` and their defaults;
haotian-liu/LLaVA `scripts/` and `llava/eval/model_vqa*.py`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

PROTOCOLS = ("lmms_eval", "llava")

# Most tokens of an answer: for all benchmarks, and for those with another.
_LENGTHS = {
  "llava": (128, {"mmbench": 1024, "scienceqa": 1024, "mmvet": 1024}),
  "lmms_eval": (
    16,
    {"pope": 128, "ocrbench": 128, "mmbench": 1024, "mmvet": 1024},
  ),
}

SHORT = "\nAnswer the question using a single word or phrase."
WORD = "\nAnswer the question with a single word."
LETTER = "\nAnswer with the option's letter from the given choices directly."
_YES_NO = " Please answer yes or no."


def answer_length(benchmark: str, protocol: str) -> int:
  """Most tokens of an answer, as a protocol has it."""
  most, others = _LENGTHS[protocol]
  return others.get(benchmark, most)


def listed(choices: Sequence[str]) -> str:
  """Choices behind their letters, a line each: "A. red" and so on."""
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


def mmbench(row: Mapping[str, Any], protocol: str) -> str:
  """MMBench: choices A, B, ... of a row end at the first that is empty."""
  choices = []
  for name in "ABCDE":
    if not is_text(row.get(name)):
      break
    choices.append(str(row[name]))
  hint = str(row["hint"]) if is_text(row.get("hint")) else ""
  if protocol == "llava":
    return (f"{hint}\n" if hint else "") + letter(row["question"], choices)
  hint = f"{hint} " if hint else ""
  return (
    f"{hint}{row['question']} There are several options:\n{listed(choices)}\n"
    f"{LETTER}"
  )


def mmstar(question: str) -> str:
  """MMStar, whose questions hold their options."""
  return question.strip() + LETTER.removesuffix(".")


def is_text(value: Any) -> bool:
  """Whether a cell of a table holds something."""
  return value is not None and str(value).strip().lower() not in (
    "",
    "nan",
    "none",
  )
