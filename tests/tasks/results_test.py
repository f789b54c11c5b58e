"""What is known of a plan is not written down a second time."""

import contextlib
import types

import pytest

from eos_jax.evaluation import examples, store
from eos_jax.evaluation import results as results_lib
from eos_jax.tasks import results


@pytest.mark.parametrize("known", [True, False])
def test_examples_that_are_made_again_leave_the_entry(
  tmp_path, monkeypatch, capsys, known
):
  score = results_lib.Score(0.5, results_lib.FRACTION, 0.1)
  result = results_lib.Result(
    results_lib.SEARCHED, 16.0, weights="abc", scores={"accuracy": score}
  )
  asked, depends = [], {"weights": "abc"}
  judge = types.SimpleNamespace(
    questions=types.SimpleNamespace(drawn=True),
    predict=asked.append,
    judge=lambda *_: result,
  )
  monkeypatch.setattr(examples, "collect", lambda *_: b"made again")
  monkeypatch.setattr(examples, "save", lambda path, e: path.write_bytes(e))
  path = tmp_path / "evaluation.jsonl"
  if known:
    with contextlib.closing(store.Store(path)) as entries:
      content = {"depends": depends, "plan": None}
      entries.add(content, result.to_dict() | {"name": "dense"})
  shown = tmp_path / "examples" / "16.npz"
  shown.parent.mkdir()
  shown.write_bytes(b"PK\x03\x04 cut short")
  before = path.read_text() if known else ""
  todo = [(results_lib.SEARCHED, 16.0, None)]
  assert results.judged(judge, todo, depends, tmp_path) == [result]
  assert shown.read_bytes() == b"made again" and len(asked) == 1
  after = path.read_text()
  assert after == before if known else after.count("\n") == 1
  assert (f"{shown} cannot be read" in capsys.readouterr().out) == known
