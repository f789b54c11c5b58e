"""The scorers of the field's benchmarks, loaded from their own repositories.

Nothing of them is kept here: they are read from a folder of checkouts, one for
each repository, under the names

    lmms-eval      EvolvingLMMs-Lab/lmms-eval, commit 75571cfe
    LLaVA          haotian-liu/LLaVA, commit c121f043
    VLMEvalKit     open-compass/VLMEvalKit
    MMStar         MMStar-Benchmark/MMStar
    MultimodalOCR  Yuliang-Liu/MultimodalOCR
    VQA            GT-Vision-Lab/VQA
    eval_tool      BradyFU/Awesome-Multimodal-Large-Language-Models, branch
                   Evaluation, tools/eval_tool.zip unpacked
"""

import ast
import contextlib
import copy
import importlib
import io
import json
import logging
import pathlib
import re
import subprocess
import sys
import types
from unittest import mock

import numpy as np

# What the sources import and these functions do not use.
_STANDINS = {
  "datasets": {"Dataset": object, "load_dataset": None},
  "loguru": {"logger": logging.getLogger("scorers")},
  "lmms_eval.filters.extraction": {"ExtendedRegexFilter": object},
  "lmms_eval.filters.transformation": {"MapFilter": object},
  "lmms_eval.tasks._task_utils.file_utils": {"generate_submission_file": None},
  "pandas": {
    "isna": lambda value: value != value,
    "notna": lambda value: value == value,
  },
  "requests": {},
  "sklearn": {},
  "sklearn.metrics": {
    "accuracy_score": lambda truths, said: np.mean(np.equal(truths, said)),
    # No score is made of these.
    "precision_score": lambda *args, **kwargs: 0.0,
    "recall_score": lambda *args, **kwargs: 0.0,
    "confusion_matrix": lambda *args, **kwargs: np.zeros((2, 2)),
  },
  "tqdm": {"tqdm": lambda rows: rows},
  "vlmeval.smp.log": {"get_logger": logging.getLogger},
}


class Rows(list):
  """Rows of a table as far as the sources use pandas for them."""

  @property
  def iloc(self):
    """The rows by their number."""
    return self


class Sources:
  """Functions of the original repositories."""

  def __init__(self, folder):
    self._folder = pathlib.Path(folder)
    lmms = lambda name: self._module(f"lmms-eval/lmms_eval/tasks/{name}.py")
    utils = "lmms_eval.tasks._task_utils"
    self._loaded = {}
    for name in ("mcq_extract", "vqa_eval_metric"):
      self._loaded[f"{utils}.{name}"] = lmms(f"_task_utils/{name}")
    self.extracted = self._loaded[f"{utils}.mcq_extract"].extract_mcq_answer
    self._vqav2, self._textvqa = lmms("vqav2/utils"), lmms("textvqa/utils")
    self._chartqa, self._ocrbench = (
      lmms("chartqa/utils"),
      lmms("ocrbench/utils"),
    )
    self._seed, self._scienceqa = (
      lmms("seedbench/utils"),
      lmms("scienceqa/utils"),
    )
    self._mme, self._pope = lmms("mme/utils"), lmms("pope/utils")
    self._mmstar, self._real = lmms("mmstar/utils"), lmms("realworldqa/utils")
    self._ai2d = lmms("ai2d/utils")
    self._mmbench = lmms("mmbench/mmbench_evals").MMBench_Evaluator()
    self._exact = self._function(
      "lmms-eval/lmms_eval/api/metrics.py",
      "exact_match_hf_evaluate",
      {"np": np, "re": re, "string": importlib.import_module("string")},
    )
    self._m4c = self._module("LLaVA/llava/eval/m4c_evaluator.py")
    self._kit = self._module("VLMEvalKit/vlmeval/utils/matching_util.py")
    tool = self._module("eval_tool/calculation.py")
    self._official_mme = tool.calculate_metrics()
    self._vqa = self._official_vqa()
    self._star = self._loop("MMStar/eval/vlmeval/evaluate/mmstar.py", "bench")
    self._ocr = self._loop("MultimodalOCR/OCRBench/example.py", "HME100k")

  @contextlib.contextmanager
  def _standing_in(self):
    """Lets the sources import each other, and what they do not use here."""
    made = dict(self._loaded)
    for name, values in _STANDINS.items():
      made[name] = types.ModuleType(name)
      vars(made[name]).update(values)
    for name in list(made):
      while "." in name:
        above, _, last = name.rpartition(".")
        parent = made.setdefault(above, types.ModuleType(above))
        setattr(parent, last, made[name])
        name = above
    with mock.patch.dict(sys.modules, made):
      yield

  def _module(self, path, change=lambda text: text):
    made = types.ModuleType(path)
    made.__file__ = str(self._folder / path)
    text = (self._folder / path).read_text(encoding="utf-8")
    with self._standing_in():
      exec(compile(change(text), path, "exec"), vars(made))
    return made

  def _tree(self, path):
    text = (self._folder / path).read_text(encoding="utf-8")
    return ast.parse(text)

  def _function(self, path, name, names):
    """One function of a module that cannot be imported without its package."""
    found = next(
      node
      for node in self._tree(path).body
      if isinstance(node, ast.FunctionDef) and node.name == name
    )
    exec(compile(ast.Module([found], []), path, "exec"), names)
    return names[name]

  def _loop(self, path, mark):
    """The loop of a script that scores rows, compiled to run on given names."""
    found = [
      node
      for node in ast.walk(self._tree(path))
      if isinstance(node, ast.For) and mark in ast.unparse(node)
    ]
    return compile(ast.Module([found[0]], []), path, "exec")

  def _official_vqa(self):
    path = "VQA/PythonEvaluationTools/vqaEvaluation/vqaEval.py"
    new = lambda text: re.sub(r'print (".*")', r"print(\1)", text)
    return self._module(path, lambda t: new(t).expandtabs(8)).VQAEval

  # lmms-eval. Its harness strips each answer before it is scored.

  def vqav2_lmms_eval(self, text, people):
    answers = [{"answer": p, "answer_id": i} for i, p in enumerate(people)]
    doc = {"question_id": 1, "answers": answers}
    found = self._vqav2.vqav2_process_results(doc, [text.strip()])
    return found["exact_match"], found["submission"]["answer"]

  def textvqa_lmms_eval(self, text, people):
    doc = {"question_id": 1, "answers": list(people)}
    found = self._textvqa.textvqa_process_results(doc, [text.strip()])
    return found["exact_match"], found["submission"]["answer"]

  def exact_lmms_eval(self, text, answer):
    found = self._exact(
      [text.strip()], [answer], ignore_case=True, ignore_punctuation=True
    )
    return float(found["exact_match"])

  def ai2d_filtered(self, text):
    made = self._ai2d.MultiChoiceRegexFilter.__new__(
      self._ai2d.MultiChoiceRegexFilter
    )
    return made.apply([[text]], [None])[0]

  def chartqa(self, text, answer):
    doc = {"type": "human_test", "answer": answer}
    found = self._chartqa.chartqa_process_results(doc, [text.strip()])
    return found["relaxed_overall"]

  def ocrbench_lmms_eval(self, text, answers, dataset):
    doc = {"answer": list(answers), "dataset": dataset, "question_type": ""}
    found = self._ocrbench.ocrbench_process_results(doc, [text.strip()])
    return found["ocrbench_accuracy"]["score"]

  def seed_lmms_eval(self, text, answer):
    doc = {"answer": answer, "data_type": "image", "question_id": 1}
    found = self._seed.seed_process_result(doc, [text.strip()])["seed_all"]
    return self._seed.seed_aggregation_result([found])

  def scienceqa_lmms_eval(self, text, answer, choices):
    doc = {"choices": choices, "answer": answer}
    found = self._scienceqa.sqa_process_results(doc, [text.strip()])
    return found["exact_match"]

  def mme_lmms_eval(self, text):
    return self._mme.parse_pred_ans(text.strip())

  def pope_lmms_eval(self, pairs):
    rows = [
      self._pope.pope_process_results(
        {"answer": label, "question_id": 1}, [text.strip()]
      )
      for text, label in pairs
    ]
    return {
      name: getattr(self._pope, f"pope_aggregate_{aggregate}")(
        [row[f"pope_{aggregate}"] for row in rows]
      )
      for name, aggregate in (
        ("accuracy", "accuracy"),
        ("precision", "precision"),
        ("recall", "recall"),
        ("f1", "f1_score"),
        ("yes_ratio", "yes_ratio"),
      )
    }

  def mme_scores_lmms_eval(self, rows):
    """Perception and cognition of (subtask, picture, truth, text) rows."""
    found = {"mme_perception_score": [], "mme_cognition_score": []}
    for subtask, picture, truth, text in rows:
      doc = {"question_id": picture, "category": subtask, "answer": truth}
      result = self._mme.mme_process_results(doc, [text.strip()])
      for name, value in result.items():
        found[name].append(value)
    return [self._mme.mme_aggregate_results(part) for part in found.values()]

  def mmstar_lmms_eval(self, text, answer):
    doc = {"answer": answer, "category": "c", "l2_category": "", "index": 0}
    with self._standing_in():
      found = self._mmstar.mmstar_process_results(doc, [text.strip()])
    return found["average"]["score"]

  def realworldqa(self, text, answer):
    doc = {"answer": answer}
    with self._standing_in():
      found = self._real.realworldqa_process_results(doc, [text.strip()])
    return found["exact_match"]

  def mmbench_lmms_eval(self, text, choices):
    return self._mmbench.can_infer(text, dict(choices)) or None

  def mmbench_static(self, rows):
    """Whether a question counts: rows of all of its passes."""
    rows = [
      {**row, "prediction": str(row["prediction"].strip())} for row in rows
    ]
    truths = {row["index"]: row["answer"] for row in rows}
    with self._standing_in():
      return self._mmbench.eval_sub_data(Rows(rows), truths, static_only=True)

  # LLaVA.

  def submitted(self, text):
    return self._m4c.EvalAIAnswerProcessor()(text)

  def textvqa_llava(self, text, people):
    made = self._m4c.TextVQAAccuracyEvaluator()
    return made.eval_pred_list(
      [{"pred_answer": text, "gt_answers": list(people)}]
    )

  def pope_llava(self, texts, folder):
    """The labels that LLaVA reads in texts."""
    labels = folder / "labels.jsonl"
    labels.write_text('{"label": "no"}\n{"label": "yes"}\n', encoding="utf-8")
    module = self._module("LLaVA/llava/eval/eval_pope.py")
    answers = [{"text": text} for text in ["no", "yes", *texts]]
    with contextlib.redirect_stdout(io.StringIO()):
      module.eval_pope(answers, labels)
    return [answer["text"] for answer in answers[2:]]

  def pope_scores_llava(self, pairs, folder):
    """What LLaVA prints of (text, label) pairs, by name."""
    labels = folder / "labels.jsonl"
    rows = [json.dumps({"label": label}) + "\n" for _, label in pairs]
    labels.write_text("".join(rows), encoding="utf-8")
    module, said = self._module("LLaVA/llava/eval/eval_pope.py"), io.StringIO()
    with contextlib.redirect_stdout(said):
      module.eval_pope([{"text": text} for text, _ in pairs], labels)
    lines = said.getvalue().splitlines()
    found = dict(line.split(": ") for line in lines if ": " in line)
    counts = map(int, lines[1].split("\t"))
    return [*counts, *(float(value) for value in found.values())]

  def seed_llava(self, rows, folder):
    """Percent that LLaVA prints of (text, answer) rows, and of their types."""
    questions = [
      {
        "question_id": str(i),
        "question_type_id": i % 3,
        "data_type": "image" if i % 3 else "video",
        "answer": answer,
      }
      for i, (_, answer) in enumerate(rows)
    ]
    types_ = {f"type {i}": i for i in range(3)}
    data, given = folder / "seed.json", folder / "seed.jsonl"
    data.write_text(
      json.dumps({"questions": questions, "question_type": types_})
    )
    lines = [
      json.dumps({"question_id": i, "text": text}) + "\n"
      for i, (text, _) in enumerate(rows)
    ]
    given.write_text("".join(lines))
    said = self._script(
      "LLaVA/scripts/convert_seed_for_submission.py",
      *("--annotation-file", data, "--result-file", given),
      *("--result-upload-file", folder / "upload.jsonl"),
    )
    return re.findall(r": ([0-9.]+)%", said)

  def _script(self, path, *args):
    command = [sys.executable, self._folder / path, *map(str, args)]
    ran = subprocess.run(command, check=True, capture_output=True, text=True)
    return ran.stdout

  def gqa_converted(self, texts, folder):
    rows = [{"question_id": i, "text": t} for i, t in enumerate(texts)]
    source, made = folder / "gqa.jsonl", folder / "gqa.json"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    path = "LLaVA/scripts/convert_gqa_for_eval.py"
    self._script(path, "--src", source, "--dst", made)
    return [row["prediction"] for row in json.loads(made.read_text())]

  def scienceqa_llava(self, rows, folder):
    """Letters that LLaVA reads, and hits, of (text, choices, answer)."""
    problems = {
      str(i): {"choices": choices, "answer": answer}
      for i, (_, choices, answer) in enumerate(rows)
    }
    (folder / "problems.json").write_text(json.dumps(problems))
    (folder / "pid_splits.json").write_text(
      json.dumps({"test": list(problems)})
    )
    given = [
      {"question_id": str(i), "text": row[0], "prompt": "<image>"}
      for i, row in enumerate(rows)
    ]
    (folder / "given.jsonl").write_text(
      "".join(json.dumps(row) + "\n" for row in given)
    )
    found = folder / "found.json"
    self._script(
      "LLaVA/llava/eval/eval_science_qa.py",
      *("--base-dir", folder, "--result-file", folder / "given.jsonl"),
      *("--output-file", found, "--output-result", folder / "result.json"),
    )
    found = json.loads(found.read_text())
    hits = {row["question_id"] for row in found["correct"]}
    letters = {
      row["question_id"]: row["parsed_ans"]
      for rows_ in found.values()
      for row in rows_
    }
    return [(letters[name], name in hits) for name in problems]

  # The benchmarks' own code.

  def vqav2_official(self, texts, people):
    """Accuracy of each text against its ten answers, before rounding."""
    questions = {
      i: {
        "answers": [{"answer": p, "answer_id": j} for j, p in enumerate(given)],
        "question_type": "",
        "answer_type": "",
      }
      for i, given in enumerate(people)
    }
    results = {i: {"answer": text} for i, text in enumerate(texts)}
    vqa = types.SimpleNamespace(qa=questions, getQuesIds=lambda: questions)
    res = types.SimpleNamespace(qa=results)
    made = self._vqa(vqa, res, n=12)
    found = {}
    made.setEvalQA = lambda number, share: found.update({number: share})
    made.updateProgress = lambda share: None
    with contextlib.redirect_stdout(io.StringIO()):
      made.evaluate()
    return [found[i] for i in range(len(texts))]

  def mmbench_vlmevalkit(self, text, choices):
    return self._kit.can_infer(text, dict(choices)) or None

  def mme_official(self, text):
    return self._official_mme.parse_pred_ans(text.lower())

  def mme_scores_official(self, rows, folder):
    """Sums and subtasks, as printed, of (subtask, picture, truth, text)."""
    lines = {}
    for subtask, picture, truth, text in rows:
      row = f"{picture}\tquestion\t{truth}\t{text}\n"
      lines.setdefault(subtask, []).append(row)
    for subtask, listed in lines.items():
      path = folder / f"{subtask}.txt"
      path.write_text("".join(listed), encoding="utf-8")
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
      self._official_mme.process_result(folder)
    text = said.getvalue()
    sums = re.findall(r"total score: (\S+)", text)
    parts = re.findall(r"(\w+)  score: (\S+)", text)
    return [float(one) for one in sums], {n: float(v) for n, v in parts}

  def mmstar_official(self, text, answer):
    row = {"prediction": text, "answer": answer, "bench": ""}
    row |= {"category": "c", "l2_category": "l"}
    names = {
      "tqdm": list,
      "lines": [row],
      "MMStar_counter": {"c": {"l": 0}},
      "MMStar_score_l2": {"c": {"l": 0}},
    }
    exec(self._star, names)
    return names["MMStar_score_l2"]["c"]["l"]

  def ocrbench_repository(self, text, answers, dataset):
    row = {"type": "", "dataset_name": dataset, "answers": list(answers)}
    names = {"data": [copy.deepcopy(row) | {"predict": text}]}
    exec(self._ocr, names)
    return names["data"][0].get("result", 0)
