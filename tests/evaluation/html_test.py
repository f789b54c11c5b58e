"""The report escapes whatever its files hold."""

from html import parser

import numpy as np

from eos_jax import ops
from eos_jax.evaluation import charts, evaluator, examples, html

EVIL = "<script>alert(1)</script><img src=x onerror='alert(2)'>\"&"


def _arguments(text):
  """What `render` is given, `text` in every place that can hold one."""
  spec = ops.presets.PRUNE.replace(name=text[:50])
  plan = ops.ReductionPlan(
    "mine", text, 144, 5, (ops.PlannedSite("decoder.0", 4, spec),)
  )
  row = {
    "accuracy": {text: 0.5},
    "mean": 0.5,
    "error": 0.01,
    "layer_average": 4.0,
    "flops": 10**7,
    "kv_bytes": 2048,
    "sites": {"decoder.0": text},
  }
  results = {
    "results": [
      row | {"name": "dense", "limit": None},
      row | {"name": evaluator.SEARCHED, "limit": 4.0},
      row | {"name": text, "limit": 4.0},
    ],
    "gaps": {"4": 0.1},
    "questions": text,
    "weights": text,
    "generator": text,
  }
  steps = [
    {"step": i, "limit": 4.0, "task": 1.0, "alignment": 1.0, text: 1.0}
    | {"value/layer_average": 4.0, "temperature": 1.0}
    | {"multiplier/layer_average": 0.1}
    for i in range(1, 4)
  ]
  steps.append({"step": 3, "check/limit": 4, "check/soft": 1, "check/hard": 1})
  shown = examples.Examples(
    images=np.zeros((1, 24, 24, 3), np.uint8),
    tasks=(text,),
    questions=(text,),
    expected=(text + "!",),
    answers=(text,),
    kept=np.zeros(4),
    sites=("decoder.0",),
    left_at=np.zeros((1, 4), np.int32),
    owner=np.array([[0, 0, -1, 3]], np.int32),
  )
  run = {"config": {"start": text}, "versions": {text: text}}
  return run, results, steps, {4.0: plan}, {4.0: shown}, text


class _Page(parser.HTMLParser):
  """Elements and attributes of a page, and its text."""

  def __init__(self, page):
    super().__init__()
    self.tags, self.attributes, self.text = set(), set(), ""
    self.feed(page)

  def handle_starttag(self, tag, attrs):
    self.tags.add(tag)
    self.attributes |= {name for name, _ in attrs}

  def handle_data(self, data):
    self.text += data


def test_no_text_of_a_run_becomes_an_element():
  plain = _Page(html.render(*_arguments("plain")))
  evil = _Page(html.render(*_arguments(EVIL)))
  assert "script" not in evil.tags and "img" not in evil.tags
  assert evil.tags == plain.tags and evil.attributes == plain.attributes
  # The number of questions, cells, captions, the table and the config.
  assert f"0.500 on {EVIL} test questions" in evil.text
  assert evil.text.count(EVIL) >= plain.text.count("plain") - 5


def test_names_are_no_formulas_of_a_chart():
  names = ["a$\\frac$b", "_hidden", "$x$", "a$b"]
  rows = [
    {"name": name, "accuracy": {"a": 1}, "limit": 4.0, "flops": 1e7}
    | {"mean": 0.5, "error": 0.1}
    for name in names
  ]
  drawn = _Page(charts.svg(charts.accuracy_cost(rows))).text
  assert all(name in drawn for name in names)
