"""Every benchmark in its official files, with a few rows and small pictures."""

import base64
import io
import json

import numpy as np
from PIL import Image
import pyarrow
import pyarrow.parquet


def _picture(seed):
  values = np.random.default_rng(seed).integers(0, 256, (12, 16, 3), np.uint8)
  return Image.fromarray(values)


def encoded(seed=0):
  """A picture as the bytes of a PNG file."""
  file = io.BytesIO()
  _picture(seed).save(file, format="PNG")
  return file.getvalue()


def _save(path, seed=0):
  path.parent.mkdir(parents=True, exist_ok=True)
  _picture(seed).save(path)


def _json(path, value):
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text(json.dumps(value), encoding="utf-8")


def _table(path, rows):
  path.parent.mkdir(parents=True, exist_ok=True)
  pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)


def vqav2(folder):
  """Three questions; the people of the first all say the same."""
  answers = [["yes"] * 10, ["2"] * 3 + ["3"] * 7, ["red"] * 9 + ["a red"]]
  asked = ["Is it?", "How many?", "What color?"]
  kinds = ["yes/no", "number", "other"]
  questions = [
    {"image_id": 7 + n, "question": question, "question_id": 70 + n}
    for n, question in enumerate(asked)
  ]
  people = [
    {
      "image_id": 7 + n,
      "question_id": 70 + n,
      "question_type": asked[n].lower().rstrip("?"),
      "answer_type": kinds[n],
      "multiple_choice_answer": given[0],
      "answers": [
        {"answer": a, "answer_confidence": "yes", "answer_id": i + 1}
        for i, a in enumerate(given)
      ],
    }
    for n, given in enumerate(answers)
  ]
  name = "v2_OpenEnded_mscoco_val2014_questions.json"
  _json(folder / name, {"questions": questions})
  name = "v2_mscoco_val2014_annotations.json"
  _json(folder / name, {"annotations": people})
  for n in range(3):
    _save(folder / "val2014" / f"COCO_val2014_{7 + n:012d}.jpg", n)


def gqa(folder):
  """Three questions, one of them outside of the balanced set."""
  rows = {
    name: {
      "question": question,
      "answer": answer,
      "fullAnswer": f"It is {answer}.",
      "imageId": f"n{name}",
      "isBalanced": name != "3",
      "types": {"structural": kind, "semantic": "attr", "detailed": "x"},
    }
    for name, question, answer, kind in (
      ("1", "Is it red?", "yes", "verify"),
      ("2", "What is it?", "bed", "query"),
      ("3", "Where?", "left", "query"),
    )
  }
  _json(folder / "testdev_balanced_questions.json", rows)
  for name in rows:
    _save(folder / "images" / f"n{name}.jpg")


def textvqa(folder):
  """Two questions, and the words of an OCR system."""
  rows = [
    {
      "question": "what brand is it?",
      "image_id": f"img{n}",
      "answers": ["nokia"] * (3 + n) + ["samsung"] * (7 - n),
      "question_id": 500 + n,
    }
    for n in range(2)
  ]
  _json(folder / "TextVQA_0.5.1_val.json", {"data": rows})
  words = [{"image_id": f"img{n}", "ocr_tokens": ["STOP"]} for n in range(2)]
  _json(folder / "TextVQA_Rosetta_OCR_v0.2_val.json", {"data": words})
  for n in range(2):
    _save(folder / "train_images" / f"img{n}.jpg", n)


def pope(folder):
  """Two questions in each of three splits."""
  for split in ("random", "popular", "adversarial"):
    rows = [
      {
        "question_id": n,
        "image": f"COCO_{n}.jpg",
        "text": "Is there a dog in the image?",
        "label": label,
      }
      for n, label in enumerate(("yes", "no"), 1)
    ]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"coco_pope_{split}.json"
    path.write_text(text, encoding="utf-8")
  for n in (1, 2):
    _save(folder / "val2014" / f"COCO_{n}.jpg", n)


def mme(folder):
  """Two subtasks in the two layouts, two questions a picture."""
  texts = (
    "Is it a cat? Please answer yes or no.\tYes\n"
    "Is it a dog? Please answer yes or no.\tNo\n"
  )
  for name in ("a", "b"):
    _save(folder / "existence" / f"{name}.jpg")
    (folder / "existence" / f"{name}.txt").write_text(texts, encoding="utf-8")
  _save(folder / "code_reasoning" / "c.png")
  (folder / "code_reasoning" / "c.txt").write_text(texts, encoding="utf-8")


def mmbench(folder):
  """Two questions in two passes each."""
  columns = ("index", "question", "hint", "A", "B", "C", "D", "answer")
  columns += ("category", "l2-category", "image")
  image = base64.b64encode(encoded()).decode()
  rows = [
    (3, "What is it?", "nan", "cat", "dog", "", "", "A", "object", "coarse"),
    (4, "And this?", "A hint.", "red", "blue", "", "", "B", "color", "fine"),
    (1000003, "What is it?", "nan", "dog", "cat", "", "", "B", "object"),
    (1000004, "And this?", "A hint.", "blue", "red", "", "", "A", "color"),
  ]
  lines = ["\t".join(columns)]
  for row in rows:
    row = (*row, *("",) * (10 - len(row)), image)
    lines.append("\t".join(map(str, row)))
  folder.mkdir(parents=True, exist_ok=True)
  path = folder / "mmbench_dev_20230712.tsv"
  path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def seed(folder):
  """Two questions about pictures and one about a video."""
  rows = [
    {
      "question_id": str(n),
      "question": "What is it?",
      **{f"choice_{x}": word for x, word in zip("abcd", words, strict=True)},
      "answer": answer,
      "data_id": f"p{n}",
      "data_type": "video" if n == 2 else "image",
      "question_type_id": 1 + n,
    }
    for n, (words, answer) in enumerate(
      [(("a", "b", "c", "d"), "B"), (("e", "f", "g", "h"), "A")] * 2
    )
    if n < 3
  ]
  kinds = {"Scene": 1, "Identity": 2, "Action": 3}
  value = {"questions": rows, "question_type": kinds}
  _json(folder / "SEED-Bench.json", value)
  for n in range(2):
    path = folder / "SEED-Bench-image" / f"p{n}"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encoded(n))


def mmstar(folder):
  """Three questions of two subjects."""
  rows = [
    {
      "index": n,
      "question": "Which?\nOptions: A: red, B: blue, C: green, D: none",
      "image": encoded(n),
      "answer": answer,
      "category": "math",
      "l2_category": subject,
    }
    for n, (answer, subject) in enumerate(
      [("A", "geometry"), ("B", "geometry"), ("C", "numbers")]
    )
  ]
  _table(folder / "mmstar.parquet", rows)


def ocrbench(folder):
  """Two questions; the second is a formula."""
  rows = [
    {
      "dataset_name": name,
      "id": n,
      "image_path": f"{name}/{n}.jpg",
      "type": kind,
      "question": "what is written in the image?",
      "answers": answers,
    }
    for n, (name, kind, answers) in enumerate(
      [
        ("ct80", "Irregular Text Recognition", ["coffee"]),
        ("HME100k", "Handwritten Mathematical Expression Recognition", "a + b"),
      ]
    )
  ]
  _json(folder / "OCRBench.json", rows)
  for row in rows:
    _save(folder / row["image_path"])


def scienceqa(folder):
  """Three problems, one without a picture."""
  rows = {
    name: {
      "question": "Which?",
      "choices": ["red", "blue"],
      "answer": answer,
      "hint": hint,
      "image": picture,
      "subject": "natural science",
      "grade": "grade2",
    }
    for name, answer, hint, picture in (
      ("11", 0, "", "image.png"),
      ("12", 1, "Look.", "image.png"),
      ("13", 1, "", None),
    )
  }
  _json(folder / "problems.json", rows)
  _json(folder / "pid_splits.json", {"test": list(rows), "train": []})
  for name in ("11", "12"):
    _save(folder / "test" / name / "image.png")


def chartqa(folder):
  """Two questions of people and one made from a table."""
  human = [
    {"imgname": "1.png", "query": "How many?", "label": "10"},
    {"imgname": "1.png", "query": "Which?", "label": "Yes"},
  ]
  _json(folder / "test_human.json", human)
  made = [{"imgname": "2.png", "query": "How many?", "label": "50%"}]
  _json(folder / "test_augmented.json", made)
  for n in (1, 2):
    _save(folder / "png" / f"{n}.png")


def ai2d(folder):
  """Two questions."""
  rows = [
    {
      "question": "Which?",
      "options": ["red", "blue", "green"],
      "answer": answer,
      "image": {"bytes": encoded(n), "path": None},
    }
    for n, answer in enumerate(("0", "2"))
  ]
  _table(folder / "test-00000-of-00001.parquet", rows)


def realworldqa(folder):
  """Two questions, one with options."""
  rows = [
    {"question": "Which?\nA. red\nB. blue\n", "answer": "B"},
    {"question": "How many?", "answer": "two"},
  ]
  for n, row in enumerate(rows):
    row["image"] = {"bytes": encoded(n), "path": None}
  _table(folder / "test.parquet", rows)


def mmvet(folder):
  """Two questions."""
  rows = {
    f"v1_{n}": {
      "imagename": f"v1_{n}.png",
      "question": "What is x?",
      "answer": "-1<AND>-5",
      "capability": needed,
    }
    for n, needed in enumerate((["ocr", "math"], ["rec"]))
  }
  _json(folder / "mm-vet.json", rows)
  for name in rows:
    _save(folder / "images" / f"{name}.png")


def vqav2_test(folder):
  """Two questions of test-dev, whose answers nobody has."""
  questions = [
    {"image_id": 7, "question": question, "question_id": 70 + n}
    for n, question in enumerate(("Is it?", "How many?"))
  ]
  name = "v2_OpenEnded_mscoco_test-dev2015_questions.json"
  _json(folder / name, {"questions": questions})
  _save(folder / "test2015" / f"COCO_test2015_{7:012d}.jpg")


def mmbench_test(folder):
  """The questions of `mmbench` without answers."""
  mmbench(folder)
  path = next(folder.glob("*.tsv"))
  lines = path.read_text(encoding="utf-8").splitlines()
  cells = [line.split("\t") for line in lines]
  path.unlink()
  kept = ["\t".join([*row[:7], *row[8:]]) for row in cells]
  path = folder / "mmbench_test_20230712.tsv"
  path.write_text("\n".join(kept) + "\n", encoding="utf-8")


WRITERS = {
  "vqav2": vqav2,
  "gqa": gqa,
  "textvqa": textvqa,
  "textvqa_ocr": textvqa,
  "pope": pope,
  "mme": mme,
  "mmbench": mmbench,
  "seed": seed,
  "mmstar": mmstar,
  "ocrbench": ocrbench,
  "scienceqa": scienceqa,
  "chartqa": chartqa,
  "ai2d": ai2d,
  "realworldqa": realworldqa,
  "mmvet": mmvet,
}


def write(name, folder):
  """Writes a benchmark's files; returns their folder."""
  WRITERS[name](folder)
  return folder
