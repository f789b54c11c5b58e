"""Files of JSON lines."""

import json

from eos_jax import files


def test_rows_keep_every_character(tmp_path):
  rows = [{"text": "one\u2028two\u2029three\u0085four"}, {"text": "five"}]
  path = tmp_path / "rows.jsonl"
  lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
  path.write_text("".join(lines) + '{"cut', encoding="utf-8")
  assert files.read_jsonl(path) == rows
