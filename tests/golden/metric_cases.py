"""Numbers that a metric file records: DIR/metrics/<name>.json.

A file is {"metric": name, "cases": [{"id", "input", "expected"}, ..]}. A metric
is a function of the input that gives the expected fields; registered in
`METRICS` by the file's "metric".
"""

from collections.abc import Callable, Iterator, Mapping
import json
import math
import pathlib
from typing import Any

from eos_jax import cost
from eos_jax.data.benchmarks import prompts
from eos_jax.evaluation.scoring import letters, texts, vqa, yes_no
from tests.golden import outcomes

RTOL = 1e-9
ATOL = 1e-12  # of values that should be 0


def _flops_proxy(given):
  sizes = dict(width=given["hidden"], mlp=given["ffn"])
  layers, text = given["layers"], given["text_tokens"]
  lengths = cost.pruned_lengths(
    visual_tokens=given["visual_tokens"],
    text_tokens=text,
    layers=layers,
    after=given["prune_after_layer"],
    keep_ratio=given["keep_ratio"],
  )
  dense = [text + given["visual_tokens"]] * layers
  full = cost.two_matrix_proxy(dense, **sizes)
  pruned = cost.two_matrix_proxy(lengths, **sizes)
  schedule = given["schedule"]
  return {
    "fastv_divprune_full_flops": full,
    "fastv_divprune_pruned_tflops": pruned / 1e12,
    "fastv_divprune_ratio_percent": 100 * pruned / full,
    "sparsevlm_pdrop_schedule_flops": cost.gated_proxy(
      [text + count for count in schedule], **sizes
    ),
    "equal_tokens": cost.layer_average(schedule),
  }


def _ai2d_match(given):
  return {
    "filtered": letters.ai2d_filtered(given["text"]),
    "correct": float(letters.ai2d(given["text"], given["answer"])),
  }


def _chartqa_relaxed(given):
  text, target = given["prediction"], given["target"]
  return {
    "relaxed_correct": texts.chartqa_relaxed(text, target),
    "vlmevalkit_strip_prediction": texts.chartqa_relaxed(text.strip(), target),
  }


def _gqa_exact(given):
  text, answer = given["prediction"], given["answer"]
  converted = texts.gqa_converted(text)
  bare = letters.without_punctuation
  return {
    "llava_converted": converted,
    "official_exact": float(converted == answer),
    "lmms_eval_exact": float(bare(text) == bare(answer)),
  }


def _choices(row):
  return {x: row[x] for x in letters.LETTERS[:5] if row.get(x) is not None}


def _mmbench_circular(given):
  rows = given["rows"]
  hits, inferred = {}, []
  for name, infer in (
    ("lmms_static_circular_hit", letters.mmbench_static),
    ("vlm_exact_circular_hit", letters.mmbench_vlmevalkit),
  ):
    found = [infer(row["prediction"], _choices(row)) for row in rows]
    right = {
      row["index"]: letter == row["answer"]
      for row, letter in zip(rows, found, strict=True)
    }
    hits[name] = int(letters.hits_every_pass(right))
    first = int(right[min(right)])
    inferred.append(found)
  return {**hits, "vanilla_hit_first_pass": first, "inferred": inferred[1]}


def _mmbench_infer(given):
  return {
    "vlmevalkit": letters.mmbench_vlmevalkit(given["text"], given["choices"]),
    "lmms_eval": letters.mmbench_lmms_eval(given["text"], given["choices"]),
  }


def _mme_aggregate(given):
  rows = [tuple(row) for row in given["rows"]]
  official = yes_no.mme_scores(rows)
  other = yes_no.mme_scores(rows, yes_no.mme_lmms_eval)
  sums = [
    {
      "perception": yes_no.mme_sum(scores, yes_no.PERCEPTION),
      "cognition": yes_no.mme_sum(scores, yes_no.COGNITION),
    }
    for scores in (official, other)
  ]
  total = sum(sums[0].values())
  return {
    "official": sums[0] | {"total": total, "per_subtask": official},
    "lmms_eval": sums[1],
  }


def _mme_parse(given):
  return {
    "official_label": yes_no.mme_official(given["text"]),
    "lmms_label": yes_no.mme_lmms_eval(given["text"]),
  }


def _mmstar_match(given):
  text, answer = given["text"], given["answer"]
  letter = letters.extracted(text, letters.FOUR)
  return {
    "official": float(letters.mmstar_official(text, answer)),
    "lmms_extracted": letter,
    "lmms_eval": float(letter == answer),
  }


def _mmvet_aggregate(given):
  rows = [
    (row["capabilities"].split(","), row["score"]) for row in given["rows"]
  ]
  scores = texts.mmvet(rows)
  return {"total": scores.pop("total"), "per_capability": scores}


def _ocrbench_score(given):
  one = (given["prediction"], given["answers"], given["dataset"])
  return {
    "lmms_eval": int(texts.ocrbench(*one, narrow=True)),
    "repository": int(texts.ocrbench(*one)),
  }


def _pope_aggregate(given):
  pairs = [tuple(pair) for pair in given["pairs"]]
  counts = yes_no.pope_counts(pairs)
  names = ("accuracy", "precision", "recall", "f1", "yes_ratio")
  scores = {name: getattr(counts, name) for name in names}
  scores |= {n: getattr(counts, n.lower()) for n in ("TP", "FP", "TN", "FN")}
  return {"llava": scores, "lmms_eval": yes_no.pope_lmms_eval_scores(pairs)}


def _pope_parse(given):
  return {
    "llava_label": yes_no.pope_llava(given["text"]),
    "lmms_pred": yes_no.pope_lmms_eval(given["text"]),
  }


def _prompts_lmms_eval(given):
  doc, task = given["doc"], given["task"]
  question, own = doc["question"], "lmms_eval"
  options = [doc[name] for name in doc if name.startswith("choice_")]
  made = {
    "vqav2": lambda: prompts.short(question),
    "gqa": lambda: prompts.short(question),
    "pope": lambda: prompts.short(question.strip()),
    "textvqa": lambda: prompts.textvqa(question, None, own),
    "textvqa_ocr": lambda: prompts.textvqa(question, doc["ocr_tokens"], own),
    "mme": lambda: prompts.mme(question),
    "chartqa": lambda: prompts.chartqa(question),
    "ocrbench": question.strip,
    "ai2d": lambda: prompts.letter(question, doc["options"]),
    "mmstar": lambda: prompts.mmstar(question),
    "seedbench": lambda: prompts.letter(question, options),
    "scienceqa_img": lambda: prompts.scienceqa(
      question, doc["choices"], doc["hint"], own
    ),
    "realworldqa": question.strip,
    "mmbench_en": lambda: prompts.mmbench(doc, own),
  }
  return {"prompt": made[task]()}


def _realworldqa_match(given):
  right = letters.realworldqa(given["text"], given["answer"])
  return {"lmms_eval": float(right)}


def _scienceqa_parse(given):
  text, answer = given["text"], letters.LETTERS[given["answer_index"]]
  parsed = letters.scienceqa_llava(text)
  offered = letters.LETTERS[: given["num_choices"]]
  return {
    "llava_parsed": parsed,
    "llava_correct": float(parsed in tuple(offered) and parsed == answer),
    "lmms_eval_correct": float(letters.scienceqa_lmms_eval(text, answer)),
  }


def _seedbench_match(given):
  text, answer = given["text"], given["answer"]
  return {
    "llava_exact": float(text == answer),
    "lmms_eval": float(letters.seed_lmms_eval(text, answer)),
  }


def _textvqa_accuracy(given):
  score = vqa.textvqa(given["prediction"], given["answers"])
  return {"score": score, "lmms_eval_score": score}


def _vqa_answer_normalise(given):
  return {
    "call": vqa.submitted(given["text"]),
    "punct_then_digit_article": vqa.scored(given["text"]),
  }


def _vqav2_accuracy(given):
  text, answers = given["prediction"], given["answers"]
  official = lambda told: round(100 * vqa.vqav2_official(told, answers), 2)
  return {
    "official_percent": official(text),
    "lmms_eval_score": vqa.vqav2_lmms_eval(text, answers),
    "llava_submission_answer": vqa.submitted(text),
    "official_percent_of_llava_submission": official(vqa.submitted(text)),
  }


METRICS: dict[str, Callable[[Any], Mapping[str, Any]]] = {
  "ai2d_match": _ai2d_match,
  "chartqa_relaxed": _chartqa_relaxed,
  "flops_proxy": _flops_proxy,
  "gqa_exact": _gqa_exact,
  "mmbench_circular": _mmbench_circular,
  "mmbench_infer": _mmbench_infer,
  "mme_aggregate": _mme_aggregate,
  "mme_parse": _mme_parse,
  "mmstar_match": _mmstar_match,
  "mmvet_aggregate": _mmvet_aggregate,
  "ocrbench_score": _ocrbench_score,
  "pope_aggregate": _pope_aggregate,
  "pope_parse": _pope_parse,
  "prompts_lmms_eval": _prompts_lmms_eval,
  "realworldqa_match": _realworldqa_match,
  "scienceqa_parse": _scienceqa_parse,
  "seedbench_match": _seedbench_match,
  "textvqa_accuracy": _textvqa_accuracy,
  "vqa_answer_normalise": _vqa_answer_normalise,
  "vqav2_accuracy": _vqav2_accuracy,
}


def run_files(
  folder: pathlib.Path, skipped: list[str]
) -> Iterator[outcomes.Outcome]:
  """Runs every case of every metric file of a folder, in order of their names.

  Args:
    folder: holds the files.
    skipped: names of files whose metric is not registered are added to it.
  """
  for path in sorted(folder.glob("*.json")):
    file = f"{folder.name}/{path.name}"
    try:
      data = json.loads(path.read_text(encoding="utf-8"))
      name, cases = data["metric"], list(data["cases"])
    except (OSError, ValueError, KeyError, TypeError) as error:
      fault = f"cannot be read as a metric file: {error!r}"
      yield outcomes.Outcome(path.stem, file, 0, (fault,))
      continue
    if name not in METRICS:
      skipped.append(path.stem)
      continue
    for case in cases:
      yield run_case(name, case, file)


def run_case(
  name: str, case: Mapping[str, Any], file: str = ""
) -> outcomes.Outcome:
  """Runs one case and compares every field that it expects."""
  try:
    where = f"{file} {case['id']}".strip()
    expected = case["expected"]
    actual = METRICS[name](case["input"])
  # Whatever stops a case is a failure of that case, and no other's.
  except Exception as error:
    fault = f"cannot be run: {type(error).__name__}: {error}"
    return outcomes.Outcome(name, file, 0, (fault,))
  if not expected:
    fault = "the file records no outputs"
    return outcomes.Outcome(name, where, 0, (fault,))
  faults = [
    f"{field}: {fault}"
    for field, want in expected.items()
    if (fault := _field_fault(actual, field, want))
  ]
  return outcomes.Outcome(name, where, len(expected), tuple(faults))


def _field_fault(actual, field, want):
  if field not in actual:
    return "was not computed"
  return difference(actual[field], want)


def difference(actual: Any, expected: Any) -> str:
  """What is wrong with a value of JSON, "" if nothing.

  Integers, texts and truth values have to be equal, other numbers to 1e-9
  relative, lists and objects entry by entry.
  """
  if isinstance(expected, dict):
    if not isinstance(actual, Mapping) or set(actual) != set(expected):
      return f"{actual!r}, expected {expected!r}"
    pairs = [(key, actual[key], expected[key]) for key in expected]
  elif isinstance(expected, list):
    if not isinstance(actual, list | tuple) or len(actual) != len(expected):
      return f"{actual!r}, expected {expected!r}"
    pairs = [
      (i, *both) for i, both in enumerate(zip(actual, expected, strict=True))
    ]
  else:
    return (
      "" if _same(actual, expected) else f"{actual!r}, expected {expected!r}"
    )
  for place, got, want in pairs:
    if fault := difference(got, want):
      return f"[{place!r}] {fault}"
  return ""


def _same(actual, expected):
  if isinstance(expected, float) and not isinstance(actual, bool | str):
    try:
      return math.isclose(actual, expected, rel_tol=RTOL, abs_tol=ATOL)
    except TypeError:
      return False
  if isinstance(actual, bool) != isinstance(expected, bool):
    return False
  return actual == expected
