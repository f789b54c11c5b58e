"""Files of JSON lines."""

import json

import pytest

from eos_jax import files


@pytest.mark.parametrize("mark", ["\u2028", "\u2029", "\u0085", "\x1e", "\x0c"])
def test_lines_end_at_line_feeds_alone(mark, tmp_path):
  path = tmp_path / "rows.jsonl"
  for end in ("\n", "\r\n", "\r"):
    path.write_bytes(f"a{mark}b{end}c".encode())
    assert files.lines(path) == [f"a{mark}b", "c"]
    path.write_bytes(f"a{mark}b{end}".encode())
    assert files.lines(path) == [f"a{mark}b"]


def test_rows_keep_every_character(tmp_path):
  rows = [{"text": "one\u2028two\u2029three\u0085four"}, {"text": "five"}]
  path = tmp_path / "rows.jsonl"
  lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
  path.write_text("".join(lines) + '{"cut', encoding="utf-8")
  assert files.read_jsonl(path) == rows
