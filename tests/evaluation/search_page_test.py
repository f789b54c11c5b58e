"""The report escapes whatever its files hold."""

import dataclasses
from html import parser

import numpy as np

from eos_jax import ops
from eos_jax.evaluation import examples, results, search_page

EVIL = "<script>alert(1)</script><img src=x onerror='alert(2)'>\"&"


def _arguments(text):
  """What `render` is given, `text` in every place that can hold one."""
  spec = ops.presets.PRUNE.replace(name=text[:50])
  plan = ops.ReductionPlan(
    "mine", text, 144, 5, (ops.PlannedSite("decoder.0", 4, spec),)
  )
  score = results.Score(0.5, results.FRACTION, 0.01, {text: 0.5, "b": 0.5})
  dense = results.Result(
    "dense",
    scores={"accuracy": score},
    sites={"decoder.0": text},
    note=text,
    layer_average=4.0,
    flops=10**7,
    kv_bytes=2048,
  )
  found = [
    dense,
    dataclasses.replace(dense, name=results.SEARCHED, limit=4.0),
    dataclasses.replace(dense, name=text, limit=4.0),
    results.Result(text, 4.0, reason=text),
  ]
  facts = {
    "gaps": {"4": 0.1},
    "questions": {"accuracy": {"asked": text, "digest": text}},
    "weights": text,
    "protocol": {"generator": text},
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
    questions=(text,),
    expected=(text + "!",),
    answers=(text,),
    sites=("decoder.0",),
    left_at=np.zeros((1, 4), np.int32),
    owner=np.array([[0, 0, -1, 3]], np.int32),
  )
  run = {"config": {"start": text}, "versions": {text: text}}
  return run, facts, found, steps, {4.0: plan}, {4.0: shown}


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
  plain = _Page(search_page.render(*_arguments("plain")))
  evil = _Page(search_page.render(*_arguments(EVIL)))
  assert "script" not in evil.tags and "img" not in evil.tags
  assert evil.tags == plain.tags and evil.attributes == plain.attributes
  # The number of questions, cells, captions, the table and the config.
  assert f"0.500 on {EVIL} test questions" in evil.text
  assert evil.text.count(EVIL) >= plain.text.count("plain") - 5
