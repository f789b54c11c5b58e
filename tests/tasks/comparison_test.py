"""What is known of a plan is not written down a second time."""

import types

import pytest

from eos_jax.evaluation import evaluator, examples
from eos_jax.tasks import comparison


@pytest.mark.parametrize("known", [True, False])
def test_examples_that_are_made_again_leave_the_entry(
  tmp_path, monkeypatch, capsys, known
):
  result = evaluator.Result(evaluator.SEARCHED, 16.0, None, mean=0.5)
  added, asked = [], []
  book = types.SimpleNamespace(
    find=lambda *_: result if known else None, add=added.append
  )
  judge = types.SimpleNamespace(
    questions=types.SimpleNamespace(drawn=True),
    predict=asked.append,
    judge=lambda *_: result,
  )
  monkeypatch.setattr(examples, "collect", lambda *_: b"made again")
  monkeypatch.setattr(examples, "save", lambda path, e: path.write_bytes(e))
  shown = tmp_path / "examples" / "16.npz"
  shown.parent.mkdir()
  shown.write_bytes(b"PK\x03\x04 cut short")
  todo = [(evaluator.SEARCHED, 16.0, None)]
  assert comparison.judged(judge, todo, book, tmp_path) == [result]
  assert shown.read_bytes() == b"made again" and len(asked) == 1
  assert added == ([] if known else [result])
  assert (f"{shown} cannot be read" in capsys.readouterr().out) == known
