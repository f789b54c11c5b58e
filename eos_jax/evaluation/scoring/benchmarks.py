"""Scores of whole benchmarks, with the breakdowns that papers print.

Where a benchmark's own code and lmms-eval's differ, the protocol decides:
"llava" is the code that LLaVA's numbers come from, "lmms_eval" the other.
"""

from collections.abc import Callable, Mapping, Sequence
import statistics
from typing import Any, Protocol

from eos_jax.evaluation import results
from eos_jax.evaluation.scoring import letters, texts, vqa, yes_no


class Sample(Protocol):
  """A question as `data.benchmarks.samples.Sample` has it."""

  id: str
  answers: Sequence[str]
  groups: Mapping[str, str]
  choices: Mapping[str, str]


Answered = Sequence[tuple[Any, str]]  # samples and the texts given


def _percent(shares):
  return 100 * sum(shares) / len(shares)


def _grouped(answered: Answered, shares) -> dict[str, float]:
  """Percent of each group of each kind of groups."""
  found: dict[str, list[float]] = {}
  for (sample, _), share in zip(answered, shares, strict=True):
    for kind, group in sample.groups.items():
      found.setdefault(f"{kind}: {group}", []).append(share)
  return {name: _percent(found[name]) for name in sorted(found)}


def _mean(share: Callable[[Any, str, str], float]):
  """A benchmark whose score is the mean of each question's."""

  def score(answered: Answered, protocol: str) -> results.Score:
    shares = [
      float(share(sample, _as_scored(text, protocol), protocol))
      for sample, text in answered
    ]
    return results.Score(
      _percent(shares), "%", parts=_grouped(answered, shares)
    )

  return score


def _as_scored(text: str, protocol: str) -> str:
  """The answer that a scorer receives: lmms-eval's harness strips each."""
  return text.strip() if protocol == "lmms_eval" else text


def _vqav2(sample, text, protocol):
  if protocol == "llava":
    return vqa.vqav2_official(vqa.submitted(text), sample.answers)
  return vqa.vqav2_lmms_eval(text, sample.answers)


def _gqa(sample, text, protocol):
  answer = sample.answers[0]
  if protocol == "llava":
    return texts.gqa_converted(text) == answer
  bare = letters.without_punctuation
  return bare(text) == bare(answer)


def _seed(sample, text, protocol):
  answer = sample.answers[0]
  if protocol == "llava":
    return text == answer
  return letters.seed_lmms_eval(text, answer)


def _scienceqa(sample, text, protocol):
  answer = sample.answers[0]
  if protocol == "llava":
    letter = letters.scienceqa_llava(text)
    return letter in sample.choices and letter == answer
  return letters.scienceqa_lmms_eval(text, answer)


def pope(answered: Answered, protocol: str) -> results.Score:
  """F1 in percent: mean over the splits (llava), or over all (lmms_eval)."""
  splits: dict[str, list[tuple[str, str]]] = {}
  for sample, text in answered:
    pair = (text, sample.answers[0])
    splits.setdefault(sample.groups["split"], []).append(pair)
  parts, f1 = {}, []
  for split, pairs in sorted(splits.items()):
    if protocol == "llava":
      counts = yes_no.pope_counts(pairs)
      names = ("accuracy", "precision", "recall", "f1", "yes_ratio")
      found = {name: getattr(counts, name) for name in names}
      parts |= {
        f"{split} {name}": float(getattr(counts, name))
        for name in ("tp", "fp", "tn", "fn")
      }
    else:
      found = yes_no.pope_lmms_eval_scores(pairs)
    f1.append(found["f1"])
    parts |= {f"{split} {name}": 100 * share for name, share in found.items()}
  if protocol == "llava":
    return results.Score(100 * statistics.fmean(f1), "% F1", parts=parts)
  whole = [pair for pairs in splits.values() for pair in pairs]
  found = yes_no.pope_lmms_eval_scores(whole)
  return results.Score(100 * found["f1"], "% F1", parts=parts)


def mme(answered: Answered, protocol: str) -> results.Score:
  """Perception and cognition together, at most 2800; papers print either."""
  rows = [
    (
      sample.groups["subtask"],
      sample.groups["picture"],
      sample.answers[0],
      text,
    )
    for sample, text in answered
  ]
  official = protocol == "llava"
  read = yes_no.mme_official if official else yes_no.mme_lmms_eval
  scores = yes_no.mme_scores(rows, read)
  sums = {
    "perception": yes_no.mme_sum(scores, yes_no.PERCEPTION),
    "cognition": yes_no.mme_sum(scores, yes_no.COGNITION),
  }
  return results.Score(sum(sums.values()), "of 2800", parts=sums | scores)


def mmbench(answered: Answered, protocol: str) -> results.Score:
  """CircularEval in percent: all passes of a question have to be right.

  No judge is asked. An answer whose letter cannot be inferred is wrong (llava),
  or is read by the shared extractor as in `mmbench_en_dev_static` (lmms_eval).
  """
  infer, absent = letters.mmbench_vlmevalkit, {}
  if protocol == "lmms_eval":
    infer = letters.mmbench_static
    # There an option that a row does not have is a text, part of "banana".
    absent = dict.fromkeys(letters.FOUR, "nan")
  right: dict[int, dict[int, bool]] = {}
  first, unknown = {}, 0
  for sample, text in answered:
    index = int(sample.id)
    letter = infer(_as_scored(text, protocol), absent | dict(sample.choices))
    unknown += letter is None
    question = index % letters.PASS
    right.setdefault(question, {})[index] = letter == sample.answers[0]
    if index < letters.PASS:
      first[question] = (sample, text)
  asked = [question for question in right if question in first]
  hits = [float(letters.hits_every_pass(right[q])) for q in asked]
  vanilla = [float(right[q][q]) for q in asked]
  parts = {"vanilla": _percent(vanilla), "not inferred": float(unknown)}
  parts |= _grouped([first[q] for q in asked], hits)
  return results.Score(_percent(hits), "%", parts=parts)


def mmstar(answered: Answered, protocol: str) -> results.Score:
  """Share of right answers (llava), or mean over 18 subjects (lmms_eval)."""

  def right(sample, text):
    answer = sample.answers[0]
    if protocol == "llava":
      return letters.mmstar_official(text, answer)
    return letters.extracted(text, letters.FOUR) == answer.strip().upper()

  shares = [float(right(sample, text)) for sample, text in answered]
  parts = _grouped(answered, shares)
  value = _percent(shares)
  if protocol == "lmms_eval":
    subjects = [v for n, v in parts.items() if n.startswith("l2_category: ")]
    value = statistics.fmean(subjects)
  return results.Score(value, "%", parts=parts)


def ocrbench(answered: Answered, protocol: str) -> results.Score:
  """Hits, of 1000 in the whole benchmark; and those of each type."""
  narrow, total = protocol == "lmms_eval", 0
  parts: dict[str, float] = {}
  for sample, text in answered:
    hit = texts.ocrbench(
      text, sample.answers, sample.groups["dataset"], narrow=narrow
    )
    kind = f"type: {sample.groups['type']}"
    parts[kind] = parts.get(kind, 0.0) + hit
    total += hit
  return results.Score(float(total), f"of {len(answered)}", parts=parts)


def mmvet(samples: Sequence[Sample], marks: Any) -> results.Score:
  """MM-Vet from the marks of a judge, the mean of its runs.

  Args:
    samples: that were asked.
    marks: what MM-Vet's own evaluator writes: by id an object whose score is a
      list with a mark of 0 to 1 a run; or the mark itself.

  Raises:
    ValueError: a mark is missing, or is none.
  """
  if not isinstance(marks, Mapping):
    raise ValueError(f"it holds {type(marks).__name__}; expected an object")
  rows = []
  for sample in samples:
    given = marks.get(sample.id)
    given = given.get("score") if isinstance(given, Mapping) else given
    runs = given if isinstance(given, list) else [given]
    if not runs or not all(
      isinstance(mark, int | float) and 0 <= mark <= 1 for mark in runs
    ):
      raise ValueError(
        f"the mark of {sample.id!r} is {given!r}; expected a number from 0 to"
        " 1, or a list of them, for every question"
      )
    needed = sample.groups["capabilities"].split(",")
    rows.append((needed, statistics.fmean(runs)))
  found = texts.mmvet(rows)
  value = found.pop("total")
  parts = {name: mark for name, mark in found.items() if mark is not None}
  return results.Score(value, "%", parts=parts)


# By benchmark. MM-Vet is scored by a judge, see `mmvet`.
SCORES: dict[str, Callable[[Answered, str], results.Score]] = {
  "vqav2": _mean(_vqav2),
  "gqa": _mean(_gqa),
  "textvqa": _mean(lambda s, text, _: vqa.textvqa(text, s.answers)),
  "textvqa_ocr": _mean(lambda s, text, _: vqa.textvqa(text, s.answers)),
  "pope": pope,
  "mme": mme,
  "mmbench": mmbench,
  "seed": _mean(_seed),
  "mmstar": mmstar,
  "ocrbench": ocrbench,
  "scienceqa": _mean(_scienceqa),
  "chartqa": _mean(lambda s, t, _: texts.chartqa_relaxed(t, s.answers[0])),
  "ai2d": _mean(lambda s, text, _: letters.ai2d(text, s.answers[0])),
  "realworldqa": _mean(
    lambda s, text, _: letters.realworldqa(text, s.answers[0])
  ),
}
