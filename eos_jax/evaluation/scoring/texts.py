"""Short texts and numbers: GQA, ChartQA, OCRBench; a judge's marks: MM-Vet.

Sources: haotian-liu/LLaVA `scripts/convert_gqa_for_eval.py` and GQA's
`eval.py`; EvolvingLMMs-Lab/lmms-eval `lmms_eval/tasks/chartqa/utils.py`,
`ocrbench/utils.py`, `mmvet/utils.py`; Yuliang-Liu/MultimodalOCR
`OCRBench/example.py`.
"""

from collections.abc import Iterable, Sequence

# Of MM-Vet.
CAPABILITIES = ("rec", "ocr", "know", "gen", "spat", "math")

# Full-width ASCII and the wide space, as they stand in Chinese texts.
_NARROW = {code + 0xFEE0: code for code in range(0x21, 0x7F)} | {0x3000: " "}


def gqa_converted(text: str) -> str:
  """An answer as LLaVA hands it to GQA's scorer, which wants equal strings.

  >>> gqa_converted("TV."), gqa_converted(" no .")
  ('tv', ' no ')
  """
  return text.rstrip(".").lower()


def chartqa_relaxed(text: str, target: str) -> bool:
  """ChartQA: numbers within 5 % of the target, other texts equal but for case.

  A percent sign divides by 100. A target of 0 is compared as a text.

  >>> chartqa_relaxed("10.5", "10"), chartqa_relaxed("50 %", "50%")
  (True, True)
  """
  given, wanted = _number(text), _number(target)
  if given is not None and wanted:
    return abs(given - wanted) / abs(wanted) <= 0.05
  return text.lower() == target.lower()


def _number(text):
  try:
    if text.endswith("%"):
      return float(text.rstrip("%")) / 100
    return float(text)
  except ValueError:
    return None


def ocrbench(
  text: str, answers: Sequence[str], dataset: str, *, narrow: bool = False
) -> bool:
  """OCRBench: whether some answer is part of the text.

  Case and spaces at the ends do not count; for "HME100k", which are formulae,
  case does and no space counts.

  Args:
    text: that was given.
    answers: any of them will do.
    dataset: that the sample is from.
    narrow: fold full-width letters first, as lmms-eval does except in
      formulae.

  >>> ocrbench("STARBUCKS COFFEE", ["coffee"], "ct80")
  True
  """

  def plain(value):
    if dataset == "HME100k":
      return value.strip().replace("\n", " ").replace(" ", "")
    value = value.translate(_NARROW) if narrow else value
    return value.lower().strip().replace("\n", " ")

  return any(plain(answer) in plain(text) for answer in answers)


def mmvet(
  rows: Iterable[tuple[Sequence[str], float]],
) -> dict[str, float | None]:
  """MM-Vet from the marks of a judge, in percent: total, and by capability.

  Args:
    rows: capabilities that a question needs, and the mark of its answer, 0 to
      1; at least one.

  Returns:
    "total" and `CAPABILITIES`; None where no question needs one.
  """
  rows = list(rows)

  def mean(marks):
    return 100 * sum(marks) / len(marks) if marks else None

  return {"total": mean([mark for _, mark in rows])} | {
    name: mean([mark for needed, mark in rows if name in needed])
    for name in CAPABILITIES
  }
